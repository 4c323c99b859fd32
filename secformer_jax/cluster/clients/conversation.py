"""A conversation with a cluster that serves a decoder: the servers keep its cache until it is over."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np

from secformer_jax.cluster.clients.client import Answer, ClusterClient
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.errors import UserError
from secformer_jax.inference.decoders import answer as answers
from secformer_jax.inference.decoders.logits import read_logits
from secformer_jax.inference.decoders.prompts import passes_over
from secformer_jax.models.decoders.tokens import ChatTokens


class ClusterConversation:
    """One; `end` has the servers forget it, and so does the end of an `async with`.

    Args:
        client: who asks.
        served: the decoder.

    Attributes:
        used: how many of the conversation's tokens are taken, with the padding of prompts.
    """

    def __init__(self, client: ClusterClient, served: DecoderDeployment) -> None:
        self._client, self._served, self._name = client, served, secrets.token_hex(16)
        self.used = 0

    async def __aenter__(self) -> ClusterConversation:
        return self

    async def __aexit__(self, *exception) -> None:
        await self.end()

    async def end(self) -> None:
        """Have the servers forget it; those that are gone have."""
        with contextlib.suppress(UserError):
            await self._client.end(self._name)

    def fits(self, prompt: int, most: int) -> bool:
        """Whether there is room for a prompt of so many tokens and an answer of so many; its last one is not read."""
        return self.used + prompt + most - 1 <= self._served.capacity

    async def extend(self, tokens: Sequence[int], padded: int | None = None) -> tuple[np.ndarray, Answer]:
        """Logits (vocab_size,) after the last of these tokens, and what the pass cost.

        Args:
            tokens: ids.
            padded: how many rows the pass has; by default one for each token.

        Raises:
            UserError: there is no room for them, or a server refuses or died: the conversation is over then.
        """
        shape = RequestShape(1, padded or len(tokens), self._name, self.used, len(tokens))
        self._served.check(shape)
        rows = self._served.inputs.array(tokens, shape.length)
        found = await self._client.ask(self._served, shape, [rows])
        self.used += shape.length
        return read_logits(found.logits, self._served.logits_bits), found

    async def write(self, prompt: Sequence[int], answer: answers.Answer) -> AsyncIterator[tuple[str, Answer]]:
        """Let an answer grow behind a prompt: what can be shown more after each pass, and what the pass cost.

        Raises:
            UserError: as `extend`; an answer ends where there is no more room.
        """
        *before, last = passes_over(prompt, self.used, self._served.capacity, answer.most)
        for each in before:
            yield "", (await self.extend(*each))[1]
        logits, cost = await self.extend(*last)
        while True:
            said, full = answer.add(logits), self.used == self._served.capacity
            if answer.finish is None and full:
                said += answer.end()
            yield said, cost
            if full or not answer.goes_on:
                break
            logits, cost = await self.extend(answer.ids[-1:])


def tokens_of(folder: Path, served: DecoderDeployment) -> ChatTokens:
    """The tokenizer of a folder, which has to be the published model's.

    Raises:
        UserError: it is another one.
    """
    tokens = ChatTokens(folder, served.chat)
    if tokens.prefix != served.prefix:
        raise UserError(f"the tokenizer of {folder} is not the published model's: pass --model with that one's folder")
    return tokens
