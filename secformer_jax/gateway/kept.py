"""Conversations that wait for their next question: the servers hold what was said, and need not read it anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from secformer_jax.cluster.clients.conversation import ClusterConversation
from secformer_jax.inference.decoders.answer import Answer

MOST, SECONDS = 2, 300.0
"""That wait, and how long: the servers have room for few, and forget what is idle (`party.rooms`)."""


@dataclass(eq=False)
class Begun:
    """One.

    Attributes:
        conversation: with the servers.
        turns: question, answer, .., answer.
        answer: the last one.
        since: when it ended, on this host's monotonic clock.
    """

    conversation: ClusterConversation
    turns: tuple[str, ...]
    answer: Answer
    since: float = field(default_factory=time.monotonic)


class Kept:
    """Those of a gateway."""

    def __init__(self) -> None:
        self._waiting: list[Begun] = []

    async def take(self, turns: Sequence[str]) -> Begun | None:
        """The one in which exactly this was said, which is its taker's then; those that have waited too long end."""
        await self._end([each for each in self._waiting if each.since + SECONDS <= time.monotonic()])
        found = next((each for each in self._waiting if each.turns == tuple(turns)), None)
        if found is not None:
            self._waiting.remove(found)
        return found

    async def keep(self, begun: Begun) -> None:
        """Let it wait; the one that has waited longest makes room."""
        self._waiting.append(begun)
        await self._end(self._waiting[:-MOST])

    async def end(self) -> None:
        """None waits any more."""
        await self._end(list(self._waiting))

    async def _end(self, some: Sequence[Begun]) -> None:
        self._waiting = [each for each in self._waiting if each not in some]
        for each in some:
            await each.conversation.end()
