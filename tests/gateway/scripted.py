"""A model that always says the same, in the place of a cluster."""

import asyncio
import contextlib
import types

import decoders as cases
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.gateway.asking import Cost
from secformer_jax.gateway.chatting import Chat
from secformer_jax.inference.decoders.answer import Answer
from secformer_jax.inference.reveal import EVERYTHING

SAID = "It is what it is."


class Scripted:
    """`asking.Asking` and `chatting.Chatting` of a model that always says the same."""

    waiting, head, before = 0, "generation", 0

    def __init__(self, tokens) -> None:
        self.tokens, self.asked, self.left, self.looked = tokens, [], 0, 0
        self.fails_after = self.fails = self.slow = None
        self.computed = 0

    async def served(self):
        return types.SimpleNamespace(head=self.head, name="f" * 32, reveal=EVERYTHING)

    def look_again(self):
        self.looked += 1

    @contextlib.asynccontextmanager
    async def chat(self, asked):
        if self.fails is not None:
            raise self.fails
        self.asked.append(asked)
        prompt = self.tokens.prompt(asked.turns)
        answer = Answer(self.tokens, [1], prompt, asked.choice, asked.ending)
        try:
            chat = Chat(None, prompt, prompt, answer, Cost(0.5, [10, 20], [b"\x01", b"\x02"]))
            chat.pieces = self._pieces(answer)
            yield chat
        finally:
            self.left += 1

    async def _pieces(self, answer):
        # A long prompt has passes before the one that gives the first token.
        for i in range(self.before):
            if self.slow is not None and i == 1:
                await self.slow.wait()
            self.computed += 1
            if i == self.fails_after:
                raise UserError("S1 is gone")
            yield ""
            await asyncio.sleep(0.01)
        ids = [*self.tokens._tokenizer.encode(SAID, add_special_tokens=False).ids, 1]
        for i, token in enumerate(ids):
            if self.slow is not None and i == 1:
                await self.slow.wait()
            self.computed += 1
            if i == self.fails_after:
                raise UserError("S1 is gone")
            yield answer.add(100 * np.eye(cases.TOKENS)[token])
            if answer.finish:
                return
