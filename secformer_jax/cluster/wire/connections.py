"""How many connections one peer may have at a server: others find a place whatever a stranger opens."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
from collections import Counter
from collections.abc import Callable

from secformer_jax.cluster.wire.tls import PeerError, peer_name

CONNECTIONS_OF_ONE = 128
HANDSHAKE_SECONDS = 10.0
DESCRIPTORS = 1 << 16


class Connections:
    """Counts the connections of each certificate's name.

    Args:
        inner: makes the protocol of one connection.
        most: connections of one name.
    """

    def __init__(self, inner: Callable[[], asyncio.Protocol], most: int = CONNECTIONS_OF_ONE) -> None:
        self._inner, self._most = inner, most
        self._open: Counter[str] = Counter()

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Counted(self._inner(), self._open, self._most)

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None, backlog: int = 512) -> asyncio.Server:
        """Listen, with all the descriptors that the system grants; who does not finish in time is dropped.

        A connection takes a descriptor before anybody knows whose it is.

        Raises:
            OSError: the address can't be used.
        """
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS calls more unlimited than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, min(most, DESCRIPTORS)), most))
        timeout = HANDSHAKE_SECONDS if tls is not None else None
        loop = asyncio.get_running_loop()
        return await loop.create_server(self, host, port, ssl=tls, backlog=backlog, ssl_handshake_timeout=timeout)


class _Counted(asyncio.Protocol):
    """Passes all on to another protocol, if its peer has a connection left."""

    def __init__(self, inner: asyncio.Protocol, counts: Counter[str], most: int) -> None:
        self._inner, self._counts, self._most = inner, counts, most
        self._name: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            name = peer_name(transport.get_extra_info("ssl_object"))
        except PeerError:
            name = ""
        if self._counts[name] >= self._most:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        self._name = name
        self._counts[name] += 1
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._name is not None:
            self._counts[self._name] -= 1
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._name is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._name is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
