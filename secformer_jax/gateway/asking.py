"""Texts from HTTP to a cluster: one client for all of them, and the model that is published at the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from secformer_jax.cluster.clients.answering import ClusterAnswering
from secformer_jax.cluster.clients.client import SEEN_BYTES, Answer, ClusterClient
from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.published import Published
from secformer_jax.errors import UserError
from secformer_jax.inference.answers import Entry
from secformer_jax.inference.texts import Limits, Request, answer
from secformer_jax.models.text import Tokenizer

AT_ONCE, MOST_WAITING = 4, 64
"""Requests that are asked at a time, and those that wait for them."""


class BusyError(RuntimeError):
    """Too many requests wait."""


@dataclass
class Cost:
    """What one request cost.

    Attributes:
        seconds: as its client sees it.
        sent_bytes: to each server, all runs together.
        seen: by server, see `client.Answer`.
    """

    seconds: float = 0.0
    sent_bytes: list[int] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)

    def entry(self) -> Entry:
        """As answers say it."""
        seen = [each[:SEEN_BYTES].hex() for each in self.seen]
        return {"seconds": round(self.seconds, 3), "sent_bytes": self.sent_bytes, "seen": seen}

    def add(self, found: Answer) -> None:
        """One run more."""
        before = self.sent_bytes or [0] * len(found.sent_bytes)
        self.sent_bytes = [one + other for one, other in zip(before, found.sent_bytes, strict=True)]
        self.seen = list(found.seen)


class Asking:
    """Asks a cluster.

    Args:
        client: that has been entered.
        folder: of the model; its tokenizer is read.
        limits: how texts are cut.
    """

    def __init__(self, client: ClusterClient, folder: Path, limits: Limits) -> None:
        self._client, self._folder, self._limits = client, folder, limits
        self._served: Published | None = None
        self._tokenizer: Tokenizer | None = None
        self._turns, self._meeting, self.waiting = asyncio.Semaphore(AT_ONCE), asyncio.Lock(), 0

    async def served(self) -> Published:
        """What is published; answers are those of an encoder.

        Raises:
            UserError: nothing is, or nobody is there.
        """
        async with self._meeting:
            if self._served is None:
                served = await self._client.published()
                if isinstance(served, Deployment):
                    self._tokenizer = Tokenizer(self._folder, served.config)
                self._served = served
        return self._served

    async def answers(self, requests: Sequence[Request]) -> tuple[list[Entry], Cost]:
        """See `texts.answer`, and what it cost.

        Raises:
            BusyError: too many wait.
            UserError: nothing is answered.
        """
        if self.waiting >= MOST_WAITING:
            raise BusyError
        self.waiting += 1
        try:
            async with self._turns:
                started, cost = time.perf_counter(), Cost()
                entries = await self._asked(requests, cost.add)
                cost.seconds = time.perf_counter() - started
                return entries, cost
        finally:
            self.waiting -= 1

    async def _asked(self, requests: Sequence[Request], noted: Callable[[Answer], None]) -> list[Entry]:
        served = await self.served()
        assert self._tokenizer is not None and isinstance(served, Deployment)
        try:
            return await answer(
                ClusterAnswering(self._client, served, noted=noted), self._tokenizer, requests, self._limits
            )
        except UserError:
            self.look_again()
            raise

    def look_again(self) -> None:
        """Another model may have been published: let the next request look."""
        self._served = None

    def tokens(self, requests: Sequence[Request]) -> int:
        """How many tokens they have, those around a text included."""
        assert self._tokenizer is not None
        total = 0.0
        for text, pair in requests:
            encoded = self._tokenizer.encode([text], None if pair is None else [pair], truncate=True)
            total += encoded.attention_mask.sum()
        return int(total)
