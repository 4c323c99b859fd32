"""Many texts: batches of one padded length, and answers in the order in which the texts were given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.answers import Entry, decode
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.heads import HEADS
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Encoded, Tokenizer

Request = tuple[str, str | None]
"""A text, and the second one of a pair."""
MOST_WAITING = 256
"""Requests that are not answered yet while more are read."""


class Answering(Protocol):
    """Whoever answers batches: a cluster, or the engine in this process."""

    @property
    def config(self) -> Architecture:
        """The model's."""

    @property
    def head(self) -> str:
        """One of `heads.HEADS`."""

    @property
    def labels_alone(self) -> bool:
        """See `answers.decode`."""

    def most(self, length: int) -> int:
        """Texts of a padded length in one batch; a power of two."""

    async def logits(self, encoded: Encoded) -> np.ndarray:
        """What is revealed of a batch of at most `most` texts, a power of two of them."""


@dataclass(frozen=True)
class Limits:
    """How texts are cut.

    Attributes:
        max_length: the padded length; None: the least that fits, for each text.
        truncate: cut what is longer instead of refusing it.
    """

    max_length: int | None = None
    truncate: bool = False


async def answered(
    answering: Answering, tokenizer: Tokenizer, requests: Iterable[Request], limits: Limits
) -> AsyncIterator[list[Entry]]:
    """What the model says of each request, see `answers.decode`; {"error": why} for one that it does not take.

    Texts wait for others of their length until a batch is full, `MOST_WAITING` of them at most: each size of a batch
    is compiled, so that few sizes are better than no waiting.

    Yields:
        Answers in the order of the requests, some at a time.

    Raises:
        UserError: nothing more is answered, see `Answering.logits`.
    """
    waiting = _Waiting(answering, tokenizer.pad_token_id)
    first = 0
    for index, request in enumerate(requests):
        try:
            encoded = encode_request(
                answering, tokenizer, *request, limits.max_length, limits.truncate, head=answering.head
            )
        except UserError as error:
            waiting.ready[index] = {"error": str(error)}
        else:
            await waiting.add(_Asked(index, request, encoded))
        if index - first >= MOST_WAITING:
            await waiting.flush()
        if found := waiting.take(first):
            first += len(found)
            yield found
    await waiting.flush()
    if found := waiting.take(first):
        yield found


async def answer(
    answering: Answering, tokenizer: Tokenizer, requests: Iterable[Request], limits: Limits
) -> list[Entry]:
    """All of `answered`."""
    return [entry async for found in answered(answering, tokenizer, requests, limits) for entry in found]


class _Asked(NamedTuple):
    number: int
    request: Request
    encoded: Encoded


class _Waiting:
    """Texts that wait for others of their length, and answers that wait for those before them."""

    def __init__(self, answering: Answering, pad_token_id: int) -> None:
        self._answering, self._pad = answering, pad_token_id
        self._by_length: dict[int, list[_Asked]] = {}
        self.ready: dict[int, Entry] = {}

    async def add(self, asked: _Asked) -> None:
        """One more; a full batch is answered."""
        length = asked.encoded.input_ids.shape[1]
        self._by_length.setdefault(length, []).append(asked)
        await self._answer_full(length)

    async def flush(self) -> None:
        """Answer all of them: what is left of a length goes with the texts of the next one, where that is twice it."""
        for length in sorted(self._by_length):
            await self._answer_full(length)
            left = self._by_length.pop(length)
            if 2 * length in self._by_length:
                self._by_length[2 * length] += left
                continue
            for part in powers_of_two(len(left), self._most(length)):
                await self._answer(left[part], length)

    def take(self, first: int) -> list[Entry]:
        """The answers that are there from this index on, without a gap."""
        found: list[Entry] = []
        while first + len(found) in self.ready:
            found.append(self.ready.pop(first + len(found)))
        return found

    def _most(self, length: int) -> int:
        return self._answering.most(length) // HEADS[self._answering.head].rows

    async def _answer_full(self, length: int) -> None:
        most = self._most(length)
        while len(self._by_length[length]) >= most:
            batch = self._by_length[length][:most]
            await self._answer(batch, length)
            del self._by_length[length][:most]

    async def _answer(self, batch: Sequence[_Asked], length: int) -> None:
        answering = self._answering
        rows = Encoded.joined([asked.encoded.padded(length, self._pad) for asked in batch])
        logits = await answering.logits(rows)
        for asked, own in zip(batch, logits, strict=True):
            tokens, alone = asked.encoded.tokens[0], answering.labels_alone
            entry = decode(answering.config, answering.head, own, tokens, asked.request, labels_alone=alone)
            self.ready[asked.number] = entry


def powers_of_two(count: int, most: int) -> Iterator[slice]:
    """Cut so many into parts of a power of two each, the greatest first: every size is compiled."""
    start = 0
    while start < count:
        size = min(most, 1 << ((count - start).bit_length() - 1))
        yield slice(start, start + size)
        start += size
