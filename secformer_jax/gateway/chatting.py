"""Conversations from HTTP to a cluster: each question has all that was said before it, and a cache of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.conversation import ClusterConversation, tokens_of
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.errors import UserError
from secformer_jax.gateway.asking import BusyError, Cost
from secformer_jax.gateway.chat_forms import Asked, QuestionError
from secformer_jax.inference.decoders.answer import Answer
from secformer_jax.models.decoders.tokens import ChatTokens

AT_ONCE, MOST_WAITING = 2, 16
"""Answers that grow at a time, and those that wait for them."""


@dataclass
class Chat:
    """One answer.

    Attributes:
        prompt: ids of what it answers, behind the model's prefix.
        answer: what has been said.
        cost: so far.
        pieces: what can be shown, as it comes.
    """

    prompt: list[int]
    answer: Answer
    cost: Cost
    pieces: AsyncIterator[str]


class Chatting:
    """Asks a cluster that serves a decoder.

    Args:
        client: that has been entered.
        folder: of the model; its tokenizer is read.
    """

    def __init__(self, client: ClusterClient, folder: Path) -> None:
        self._client, self._folder = client, folder
        self._turns, self._waiting = asyncio.Semaphore(AT_ONCE), 0
        self._known: tuple[DecoderDeployment, ChatTokens] | None = None

    @contextlib.asynccontextmanager
    async def chat(self, asked: Asked) -> AsyncIterator[Chat]:
        """An answer, whose cache goes when this is left.

        Raises:
            BusyError: too many wait.
            QuestionError: it can't be answered.
            UserError: nothing can.
        """
        if self._waiting >= MOST_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            async with self._turns:
                served, tokens = self._known or await self._meet()
                prompt = _prompt(served, tokens, asked)
                generator = None if asked.seed is None else np.random.default_rng(asked.seed)
                last = served.config.eos_token_ids
                answer, cost = Answer(tokens, last, prompt, asked.choice, asked.ending, generator), Cost()
                async with ClusterConversation(self._client, served) as conversation:
                    yield Chat(prompt, answer, cost, self._pieces(conversation, prompt, answer, cost))
        finally:
            self._waiting -= 1

    async def _meet(self) -> tuple[DecoderDeployment, ChatTokens]:
        served = await self._client.decoder()
        # Read once: of a large vocabulary it takes a second.
        self._known = served, await asyncio.to_thread(tokens_of, self._folder, served)
        return self._known

    async def _pieces(
        self, conversation: ClusterConversation, prompt: list[int], answer: Answer, cost: Cost
    ) -> AsyncIterator[str]:
        started = time.perf_counter()
        try:
            async for said, found in conversation.write(prompt, answer):
                cost.add(found)
                cost.seconds = time.perf_counter() - started
                yield said
        except UserError:
            # Another model may have been published: the next question looks.
            self._known = None
            raise


def _prompt(served: DecoderDeployment, tokens: ChatTokens, asked: Asked) -> list[int]:
    if asked.system is not None and not _published(served, tokens, asked.system.strip()):
        raise QuestionError(
            "this model is published with a system's prompt, which is public and stands before every question: leave "
            "out the message of the system"
        )
    try:
        prompt = tokens.prompt(asked.turns)
    except UserError as error:
        raise QuestionError(str(error)) from None
    longest = max(served.lengths())
    if len(prompt) > longest:
        raise QuestionError(f"messages of {len(prompt)} tokens, and this model takes {longest}: send fewer")
    return prompt


def _published(served: DecoderDeployment, tokens: ChatTokens, system: str) -> bool:
    """Whether a system's prompt is the published one: all of the prefix but the name of its role."""
    whole = tokens.text(served.prefix).strip()
    return whole.endswith(system) and whole.removesuffix(system).strip() in ("", "system")
