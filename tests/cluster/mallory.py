"""A client that means harm: each attack on a cluster is a function of `Mallory` (attacks_by_*.py)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import aiohttp
import numpy as np

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.message import Message, with_shares
from secformer_jax.cluster.wire.paths import INFER_PATH
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.runtime.one_hot import shared

NAME = "mallory"
Body = bytes | AsyncIterator[bytes]


class Mallory:
    """A client with a good certificate, and no manners.

    Args:
        cluster: whom it attacks.
        encoded: an input that the model takes.
    """

    def __init__(self, cluster: Cluster, encoded: Encoded) -> None:
        self.cluster, self.encoded = cluster, encoded
        self.statuses: list[int] = []

    async def __aenter__(self) -> Mallory:
        async with ClusterClient(self.cluster, NAME) as client:
            self.description = await client.deployment()
            self.deployment = self.description.name
            self.inputs = self.description.inputs
        self.context = tls.client_context(self.cluster.tls(NAME))
        connector = aiohttp.TCPConnector(ssl=self.context, limit=0)
        self.http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20))
        return self

    async def __aexit__(self, *exception) -> None:
        await self.http.close()

    def fields(self, **changes: object) -> dict:
        rows, length = self.encoded.input_ids.shape
        fields = {"request": secrets.token_hex(16), "deployment": self.deployment, "rows": rows, "length": length}
        return {**fields, **changes}

    def good(self, inputs: Sequence[np.ndarray] = (), **changes: object) -> list[Message]:
        """What each server takes, or shares of other inputs in their place."""
        fields, parties = self.fields(**changes), self.cluster.parties
        specs = self.inputs.specs(*self.encoded.input_ids.shape)
        inputs = inputs or self.inputs.arrays(self.encoded)
        shares = shared(specs, inputs, self.cluster.protocol, len(parties), self.cluster.fraction_bits)
        return [with_shares("infer", fields, own) for own in shares]

    async def post(self, party: str, body: Body | None, path: str = INFER_PATH, **headers: str) -> int:
        """The status of an answer; 0 for none."""
        status = 0
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            url = f"https://{self.cluster.control[party]}{path}"
            async with self.http.post(url, data=body, headers=headers, server_hostname=party) as answer:
                await answer.read()
                status = answer.status
        self.statuses.append(status)
        return status

    async def to_all(self, messages: list[Message]) -> list[int]:
        bodies = [b"".join(message.pack()) for message in messages]
        return await asyncio.gather(
            *(self.post(party, body) for party, body in zip(self.cluster.parties, bodies, strict=True))
        )

    async def changed(self, change: Callable[[Message], None]) -> None:
        """A good request, all of whose messages are changed the same way."""
        messages = self.good()
        for message in messages:
            change(message)
        await self.to_all(messages)

    def raw(self, party: str) -> ssl.SSLSocket:
        """A connection to write anything to."""
        address = self.cluster.control[party]
        plain = socket.create_connection((address.host, address.port), timeout=10)
        return self.context.wrap_socket(plain, server_hostname=party)


Attack = Callable[[Mallory], Awaitable[object]]


def into(attacks: dict[str, Attack]) -> Callable[[Attack], Attack]:
    """A decorator that puts attacks there by their names."""

    def attack(function: Attack) -> Attack:
        attacks[function.__name__] = function
        return function

    return attack
