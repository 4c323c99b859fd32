"""The dealer's material, laid in ahead: one piece on its way while the parties compute, one in the workers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from secformer_jax.cluster.deployment import RequestShape

log = logging.getLogger(__name__)


class Coming(NamedTuple):
    """A piece that comes over from the dealer, for requests of one size."""

    shape: RequestShape
    piece: str
    there: asyncio.Task[Any]


class Stock:
    """Says when all parties get which piece. A piece has a number, which serves one request, whatever becomes of it.

    Args:
        call: (command, fields): has all parties carry out a command of `Node`.
    """

    def __init__(self, call: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> None:
        self._call = call
        self._prepared: set[RequestShape] = set()
        self._coming: Coming | None = None

    async def take(self, shape: RequestShape) -> None:
        """Have a piece for the run that begins now; the next one for its size comes over meanwhile."""
        await self.prepare(shape)
        self._prepared.remove(shape)
        if self._coming is not None:
            # It is for another size. Each server holds one piece only that its worker has not got.
            await self._coming.there
        piece = secrets.token_hex(16)
        there = asyncio.ensure_future(self._call("fetch", {**dataclasses.asdict(shape), "piece": piece}))
        self._coming = Coming(shape, piece, there)

    async def prepare(self, shape: RequestShape) -> None:
        """Have a piece in the workers, and what needs no input computed."""
        if shape in self._prepared:
            return
        started, piece = time.perf_counter(), secrets.token_hex(16)
        if self._coming is not None and self._coming.shape == shape:
            (_, piece, there), self._coming = self._coming, None
            await there
        await self._call("prepare", {**dataclasses.asdict(shape), "piece": piece})
        self._prepared.add(shape)
        log.info("material", extra={"seconds": round(time.perf_counter() - started, 3)})

    def clear(self) -> None:
        """Forget all: the workers are gone."""
        self._prepared.clear()
        if self._coming is not None:
            self._coming.there.cancel()
            self._coming = None
