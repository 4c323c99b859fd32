"""The dealer's process: SPU's beaver service behind mutual TLS, and what it keeps between its starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from secformer_jax.cluster import certs
from secformer_jax.cluster.config import DEALER, Cluster
from secformer_jax.cluster.dealer.beaver import sm2
from secformer_jax.cluster.dealer.beaver.service import BeaverService
from secformer_jax.cluster.dealer.beaver.sessions import Sessions
from secformer_jax.cluster.dealer.budget import Budget
from secformer_jax.cluster.dealer.metrics import DealerMetrics
from secformer_jax.cluster.dealer.service import MaterialService
from secformer_jax.cluster.memory import keep_memory_private
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.http import Server, application, until_stopped
from secformer_jax.cluster.wire.revocation import Revoked
from secformer_jax.errors import UserError

log = logging.getLogger(__name__)

MEMORY_LIMIT = 2 << 30
SESSIONS = "beaver-sessions"


class Dealer:
    """The services of one cluster's dealer.

    Args:
        cluster: whose parties it answers.
        key: its SM2 key, under which they send their seeds.
        state: a folder for what must outlive the process: which masks have served. None forgets it.
        memory_limit: bytes that all requests under way may take.
        plaintext: believe everybody; for measurements.
    """

    def __init__(
        self,
        cluster: Cluster,
        key: sm2.PrivateKey,
        state: Path | None = None,
        *,
        memory_limit: int = MEMORY_LIMIT,
        plaintext: bool = False,
    ) -> None:
        self._cluster, self._plaintext = cluster, plaintext
        self.metrics = DealerMetrics()
        self.sessions = Sessions(len(cluster.parties), None if state is None else state / SESSIONS)
        self.budget = Budget(memory_limit)
        self.metrics.watch("sessions", "Sessions of parties that are kept", lambda: len(self.sessions))
        self.metrics.watch("memory_bytes", "Bytes that requests under way take", lambda: self.budget.used)
        threads = max(1, (os.cpu_count() or 2) - 1)
        self._beaver = BeaverService(key, cluster.parties, self.sessions, self.budget, self.metrics, threads=threads)

    def application(self, more: Iterable[web.AbstractRouteDef] = ()) -> web.Application:
        """Its routes, and those of other services that live beside it."""
        return application(
            [*self._beaver.routes(), *more],
            self._cluster.roles,
            operators=self._cluster.operators,
            registry=self.metrics.registry,
            health=lambda: {"role": DEALER, "sessions": len(self.sessions)},
            revoked=() if self._plaintext else Revoked(self._cluster.tls(DEALER).ca),
            plaintext=self._plaintext,
        )

    def close(self) -> None:
        """End its threads."""
        self._beaver.close()


def state_folder(cluster: Cluster, given: Path | None = None) -> Path:
    """The folder for what outlives the process; beside the dealer's key unless another is given."""
    folder = given or cluster.tls(DEALER).key.parent / "dealer-state"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder} can't be made ({error.strerror}): pass --state with a folder to write to") from None
    return folder


async def run(cluster: Cluster, state: Path, *, memory_limit: int = MEMORY_LIMIT) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Raises:
        UserError: no dealer in the file, TLS files that can't be used, or an address that is taken.
    """
    keep_memory_private()
    address, files = cluster.dealer_address(), cluster.tls(DEALER)
    context = tls.server_context(files)
    dealer = Dealer(cluster, sm2.load(certs.sm2_private(files)), state, memory_limit=memory_limit)
    material = MaterialService(cluster, state, files.key.with_name(f"{DEALER}.seal.key"))
    server = Server(dealer.application(material.routes()), address, context)
    try:
        await server.start()
    except OSError as error:
        raise UserError(f"the dealer can't listen on {address} ({error.strerror}): is another one running?") from None
    log.info("ready", extra={"address": str(address)})
    try:
        await until_stopped()
        log.info("draining", extra={"count": dealer.budget.used})
    finally:
        await server.close()
        material.close()
        dealer.close()
    log.info("stopped")
