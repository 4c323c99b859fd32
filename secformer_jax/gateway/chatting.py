"""Conversations from HTTP to a cluster: each question has all that was said before it, and goes on where that was."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secformer_jax.cluster.clients.client import Answer as Pass
from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.conversation import ClusterConversation, tokens_of
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.errors import UserError
from secformer_jax.gateway.asking import BusyError, Cost
from secformer_jax.gateway.chat_forms import Asked, QuestionError
from secformer_jax.gateway.kept import Begun, Kept
from secformer_jax.inference.decoders.answer import Answer
from secformer_jax.models.decoders.tokens import ChatTokens

AT_ONCE, MOST_WAITING = 2, 16
"""Answers that grow at a time, and those that wait for them."""


@dataclass
class Chat:
    """One answer.

    Attributes:
        conversation: with the servers.
        prompt: ids of what it answers, behind the model's prefix.
        unread: those that the servers have not read, the last ones.
        answer: what has been said.
        cost: so far.
        pieces: what can be shown, as it comes.
    """

    conversation: ClusterConversation
    prompt: list[int]
    unread: list[int]
    answer: Answer
    cost: Cost = field(default_factory=Cost)
    pieces: AsyncIterator[str] = field(init=False)


class Chatting:
    """Asks a cluster that serves a decoder.

    Args:
        client: that has been entered.
        folder: of the model; its tokenizer is read.
    """

    def __init__(self, client: ClusterClient, folder: Path) -> None:
        self._client, self._folder = client, folder
        self._turns, self.waiting = asyncio.Semaphore(AT_ONCE), 0
        self._known: tuple[DecoderDeployment, ChatTokens] | None = None
        self._kept = Kept()

    @contextlib.asynccontextmanager
    async def chat(self, asked: Asked) -> AsyncIterator[Chat]:
        """An answer; when this is left, the servers keep what was said for the next question, or forget it.

        Raises:
            BusyError: too many wait.
            QuestionError: it can't be answered.
            UserError: nothing can.
        """
        if self.waiting >= MOST_WAITING:
            raise BusyError
        self.waiting += 1
        try:
            async with self._turns:
                served, tokens = self._known or await self._meet()
                prompt = _prompt(served, tokens, asked)
                conversation, unread = await self._conversation(served, tokens, asked, prompt)
                generator = None if asked.seed is None else np.random.default_rng(asked.seed)
                answer = Answer(tokens, served.config.eos_token_ids, prompt, asked.choice, asked.ending, generator)
                chat = Chat(conversation, prompt, unread, answer)
                chat.pieces = self._pieces(served, chat)
                try:
                    yield chat
                finally:
                    # One that ended at a text has more in its cache than was said.
                    if answer.text and answer.finish is not None and not asked.ending.stops:
                        await self._kept.keep(Begun(chat.conversation, (*asked.turns, answer.text), answer))
                    else:
                        await chat.conversation.end()
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        """Have the servers forget what waits for a question."""
        await self._kept.end()

    async def _meet(self) -> tuple[DecoderDeployment, ChatTokens]:
        served = await self._client.decoder()
        # Read once: of a large vocabulary it takes a second.
        self._known = served, await asyncio.to_thread(tokens_of, self._folder, served)
        return self._known

    async def _conversation(
        self, served: DecoderDeployment, tokens: ChatTokens, asked: Asked, prompt: list[int]
    ) -> tuple[ClusterConversation, list[int]]:
        """The one that a question goes on with, or a new one; and what the servers have still to read."""
        begun = await self._kept.take(asked.turns[:-1])
        room = _room(served, prompt)
        if begun is not None:
            unread = begun.answer.unread + tokens.next_prompt(asked.turns[-1])
            # No answer is longer than a new one has room for; where it has none, a short answer is better than none.
            most = max(1, min(asked.ending.most, room))
            if begun.conversation.fits(len(unread), most):
                return begun.conversation, unread
            await begun.conversation.end()
        if room < 1:
            raise QuestionError(
                f"messages of {len(prompt)} tokens, and there is room for {served.capacity}: send fewer"
            )
        return ClusterConversation(self._client, served), prompt

    async def _pieces(self, served: DecoderDeployment, chat: Chat) -> AsyncIterator[str]:
        started = time.perf_counter()
        try:
            async for said, found in self._passes(served, chat):
                chat.cost.add(found)
                chat.cost.seconds = time.perf_counter() - started
                yield said
        except UserError:
            # Another model may have been published, and conversations be forgotten: the next question looks.
            self._known = None
            await self._kept.end()
            raise

    async def _passes(self, served: DecoderDeployment, chat: Chat) -> AsyncIterator[tuple[str, Pass]]:
        try:
            async for each in chat.conversation.write(chat.unread, chat.answer):
                yield each
        except UserError:
            goes_on = chat.unread is not chat.prompt
            if chat.answer.ids or not goes_on or _room(served, chat.prompt) < 1:
                raise
            # The servers have forgotten what was said: nothing is lost but time.
            await chat.conversation.end()
            chat.conversation, chat.unread = ClusterConversation(self._client, served), chat.prompt
            async for each in chat.conversation.write(chat.unread, chat.answer):
                yield each


def _room(served: DecoderDeployment, prompt: Sequence[int]) -> int:
    """Tokens of an answer for which a new conversation has room behind a prompt; its last one is not read."""
    return served.capacity - len(prompt) + 1


def _prompt(served: DecoderDeployment, tokens: ChatTokens, asked: Asked) -> list[int]:
    if asked.system is not None and not _published(served, tokens, asked.system.strip()):
        raise QuestionError(
            "this model is published with a system's prompt, which is public and stands before every question: leave "
            "out the message of the system"
        )
    try:
        return tokens.prompt(asked.turns)
    except UserError as error:
        raise QuestionError(str(error)) from None


def _published(served: DecoderDeployment, tokens: ChatTokens, system: str) -> bool:
    """Whether a system's prompt is the published one: all of the prefix but the name of its role."""
    whole = tokens.text(served.prefix).strip()
    return whole.endswith(system) and whole.removesuffix(system).strip() in ("", "system")
