"""HTTP servers of the cluster: mutual TLS, a check of every peer's name, health, metrics, and an orderly end."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import ssl
import weakref
from collections.abc import Awaitable, Callable, Collection, Container, Iterable
from contextlib import suppress

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

import secformer_jax
from secformer_jax.cluster.config import Address
from secformer_jax.cluster.wire.connections import Connections
from secformer_jax.cluster.wire.message import Message, MessageError
from secformer_jax.cluster.wire.paths import HEALTH_PATH
from secformer_jax.cluster.wire.tls import PeerError, require_peer, serial_number

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20
# A client keeps its connection between requests, which can be hours apart.
KEEP_ALIVE_SECONDS = 86_400
DRAIN_SECONDS = 30
LINGERING_SECONDS = 2.0
"""For the rest of a body that was refused; aiohttp waits so long even when its peer has hung up, and takes memory."""

PLAINTEXT = web.AppKey("plaintext", bool)
PEER = web.RequestKey("peer", str)


def peer_of(request: web.Request, allowed: Collection[str]) -> str:
    """The role that sent a request; in an application in plaintext the first of those allowed.

    Raises:
        HTTPForbidden: it is none of those allowed.
    """
    name = request.get(PEER, next(iter(allowed)))
    if name not in allowed:
        raise _forbidden(request, f"the certificate is that of {name}, and {' or '.join(allowed)} is expected here")
    return name


async def question(request: web.Request) -> Message:
    """What a request's body asks: a JSON object, whose fields `Message.text` and `Message.number` check.

    Raises:
        MessageError: it is none, which `application` answers with 400.
    """
    try:
        return Message("question", dict(json.loads(await request.read())))
    except (ValueError, TypeError, RecursionError):
        raise MessageError("a JSON object was expected") from None


def _forbidden(request: web.Request, reason: str) -> web.HTTPForbidden:
    log.warning("refused", extra={"peer": request.remote, "reason": reason})
    return web.HTTPForbidden(text=f"{reason}\n")


def application(
    routes: Iterable[web.AbstractRouteDef],
    roles: Collection[str],
    *,
    operators: Collection[str],
    registry: CollectorRegistry | None = None,
    health: Callable[[], dict] = dict,
    revoked: Container[int] = (),
    plaintext: bool = False,
    max_body: int = MAX_BODY,
) -> web.Application:
    """An application of several services' routes, with /health for all who have a certificate, /metrics for operators.

    Args:
        routes: of all its services; each asks `peer_of` who may use it.
        roles: everyone of the cluster.
        operators: who may see /metrics, which tell of everybody's traffic.
        registry: what /metrics shows.
        health: what /health says beside that it is well.
        revoked: serial numbers of certificates that are no longer good.
        plaintext: without TLS everybody is believed to be who is expected; for tests and measurements.
        max_body: bytes of a request's body.
    """
    app = web.Application(middlewares=[_known_peers(roles, revoked)], client_max_size=max_body)
    app[PLAINTEXT] = plaintext

    async def show_health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": secformer_jax.__version__, **health()})

    async def show_metrics(request: web.Request) -> web.Response:
        peer_of(request, operators)
        body = generate_latest(registry) if registry else b""
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_routes([web.get(HEALTH_PATH, show_health), web.get("/metrics", show_metrics), *routes])
    return app


def _known_peers(roles: Collection[str], revoked: Container[int]):
    # A connection's certificate can't change: there is no renegotiation. But it can be revoked.
    known: weakref.WeakKeyDictionary[ssl.SSLObject, tuple[str, int]] = weakref.WeakKeyDictionary()

    @web.middleware
    async def check(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]):
        if "Content-Encoding" in request.headers:
            raise web.HTTPUnsupportedMediaType(text="a body is sent as it is, without a content encoding\n")
        if not request.app[PLAINTEXT]:
            connection = request.get_extra_info("ssl_object")
            try:
                found = known.get(connection) or (require_peer(connection, roles), serial_number(connection))
            except PeerError as error:
                raise _forbidden(request, str(error)) from None
            known[connection], (request[PEER], serial) = found, found
            if serial in revoked:
                raise _forbidden(request, f"the certificate of {found[0]} has been revoked")
        try:
            return await handler(request)
        except MessageError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None

    return check


class Server:
    """One listening application.

    Args:
        app: what it serves.
        address: where.
        tls: mutual TLS; None for an application in plaintext.
    """

    def __init__(self, app: web.Application, address: Address, tls: ssl.SSLContext | None) -> None:
        if tls is None and not app[PLAINTEXT]:
            raise ValueError("a server without TLS takes an application that is in plaintext")
        # What is compressed could be any size when it is not: nothing is unpacked, and `application` refuses it.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            shutdown_timeout=DRAIN_SECONDS,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,
        )
        self._address, self._tls = address, tls
        self._listening: asyncio.Server | None = None

    async def start(self) -> Address:
        """Listen; returns the address, with the port that was chosen where 0 was asked for.

        Raises:
            OSError: the address can't be used.
        """
        await self._runner.setup()
        assert self._runner.server is not None
        connections = Connections(self._runner.server)
        self._listening = await connections.listen(self._address.host, self._address.port, self._tls)
        return Address(self._address.host, self._listening.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Take no more connections, let the requests under way end, and stop."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()


async def until_stopped() -> None:
    """Return when the process is asked to end, by SIGTERM or SIGINT."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, asked.set)
    await asked.wait()
