"""A limit on the memory that requests under way take together: who comes later waits, and a long queue is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BusyError(RuntimeError):
    """Too many requests wait already, or one alone asks for more than there is."""


class Budget:
    """Bytes that requests share, given out in the order in which they ask.

    Args:
        limit: bytes in all.
        max_waiting: the most requests that wait at once.
    """

    def __init__(self, limit: int, max_waiting: int = 1024) -> None:
        self.limit, self.used = limit, 0
        self._max_waiting = max_waiting
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Hold some bytes.

        Raises:
            BusyError: more than the limit, or too many wait.
        """
        if size > self.limit:
            raise BusyError(f"{size} bytes are asked for at once, and {self.limit} are the most: ask in pieces")
        if self._waiting or self.used + size > self.limit:
            await self._wait(size)
        else:
            self.used += size
        try:
            yield
        finally:
            self.used -= size
            self._wake()

    async def _wait(self, size: int) -> None:
        if len(self._waiting) >= self._max_waiting:
            raise BusyError(f"{len(self._waiting)} requests wait already: ask again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif not turn.cancelled():
                self.used -= size
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.limit:
            size, turn = self._waiting.pop(0)
            if not turn.cancelled():
                self.used += size
                turn.set_result(None)
