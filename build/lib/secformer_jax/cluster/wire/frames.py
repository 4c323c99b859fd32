"""Messages over a byte stream: blocking for a worker, awaited for its supervisor."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from secformer_jax.cluster.wire.message import PREFIX, Bytes, Message, lengths, parse


class Channel:
    """One end of a socket pair, blocking."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: Message) -> None:
        """Send a message whole."""
        for part in message.pack():
            self._end.sendall(part)

    def receive(self) -> Message:
        """The next message.

        Raises:
            EOFError: the other end is gone.
        """
        header, payload = lengths(self._exactly(PREFIX.size))
        return parse(self._exactly(header), self._exactly(payload))

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._end.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data  # type: ignore[return-value]


class Reader(Protocol):
    """A stream of asyncio's, or of an HTTP body."""

    async def readexactly(self, n: int) -> bytes:
        """That many bytes; asyncio.IncompleteReadError when the stream ends."""

    async def read(self, n: int) -> bytes:
        """Up to so many bytes; none when the stream ends."""


async def read(reader: Reader) -> Message:
    """The next message from a stream.

    Raises:
        asyncio.IncompleteReadError: the stream ends.
        MessageError: what comes is no message.
    """
    header, payload = lengths(await reader.readexactly(PREFIX.size))
    return parse(await reader.readexactly(header), await reader.readexactly(payload))


async def write(writer: asyncio.StreamWriter, parts: list[Bytes]) -> None:
    """Send a packed message."""
    for part in parts:
        writer.write(part)
        await writer.drain()
