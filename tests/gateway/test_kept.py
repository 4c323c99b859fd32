"""Conversations that wait for their next question: what the servers read anew, and what they forget."""

import asyncio
import types

import decoders as cases
import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.gateway import kept
from secformer_jax.gateway.chat_forms import QuestionError, asked_of, usage_of
from secformer_jax.gateway.chatting import Chatting
from secformer_jax.inference.decoders.inputs import TokenInputs
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.openings.decoder import scales

ANSWER = (60, 61, 1)
"""The last ends it."""


class Client:
    """A cluster whose model always says the same, and that notes what it is asked."""

    def __init__(self, tokens, capacity=128) -> None:
        self.passes, self.ended, self.forgotten, self.fails = [], [], set(), False
        self._served = types.SimpleNamespace(
            config=types.SimpleNamespace(eos_token_ids=(1,)),
            chat=tokens.format,
            prefix=tokens.prefix,
            capacity=capacity,
            logits_bits=40,
            inputs=TokenInputs(cases.TOKENS, 20),
            check=lambda shape: None,
        )

    async def decoder(self):
        return self._served

    async def ask(self, served, shape, arrays):
        if self.fails or shape.conversation in self.forgotten:
            raise UserError("this conversation is not here any more")
        self.passes.append(shape)
        token = int(np.argmax(arrays[0][shape.real - 1]))
        logits = np.zeros(cases.TOKENS, np.int64)
        logits[ANSWER[ANSWER.index(token) + 1 if token in ANSWER[:-1] else 0]] = 1 << scales.STREAM
        return types.SimpleNamespace(logits=logits, sent_bytes=(1, 1), seen=())

    async def end(self, conversation):
        self.ended.append(conversation)

    def prompts(self) -> list[tuple[str, int, int]]:
        return [(shape.conversation, shape.start, shape.real) for shape in self.passes if shape.length > 1]


@pytest.fixture
def tokens(tmp_path):
    return read_tokens(cases.write_tokenizer(tmp_path))


async def say(chatting, *turns, **options) -> tuple[str, int]:
    """The answer, and how many tokens the servers had read."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    async with chatting.chat(asked_of({"messages": messages, "max_tokens": 3, "temperature": 0, **options})) as chat:
        said = "".join([piece async for piece in chat.pieces])
    usage = usage_of(chat.prompt, chat.unread, chat.answer)
    return said, usage["prompt_tokens_details"]["cached_tokens"]


def test_the_next_question_is_all_that_is_read(tokens, tmp_path):
    async def run() -> None:
        client = Client(tokens)
        chatting = Chatting(client, tmp_path)
        said, cached = await say(chatting, "What is it?")
        assert (said, cached) == (tokens.text(ANSWER[:2]), 0) and client.ended == []
        again, cached = await say(chatting, "What is it?", said, "Is it?")
        assert again == said and cached == len([*tokens.prompt(["What is it?"]), *tokens.plain(said)]) > 10
        (name, _, _), (second, start, real) = client.prompts()
        # A padded prompt, and two tokens of the answer; the one that ended it stands in the next prompt.
        assert (second, start, real) == (name, 18, len(tokens.next_prompt("Is it?")))
        await chatting.close()
        assert client.ended == [name]

    asyncio.run(run())


def test_an_answer_that_was_cut_short_is_read_to_its_end(tokens, tmp_path):
    async def run() -> None:
        client = Client(tokens)
        chatting = Chatting(client, tmp_path)
        said, _ = await say(chatting, "What is it?", max_tokens=2)
        await say(chatting, "What is it?", said, "Is it?")
        _, (_, start, real) = client.prompts()
        assert (start, real) == (17, 1 + len(tokens.next_prompt("Is it?")))

    asyncio.run(run())


def test_what_was_said_otherwise_is_read_whole(tokens, tmp_path):
    """Another answer, one that ended at a text, a conversation that somebody else goes on with, or one without room."""

    async def run() -> None:
        client = Client(tokens)
        chatting = Chatting(client, tmp_path)
        said, _ = await say(chatting, "What is it?")
        assert (await say(chatting, "What is it?", "No", "Is it?"))[1] == 0
        both = await asyncio.gather(*(say(chatting, "What is it?", said, "Is it?") for _ in range(2)))
        assert sorted(cached > 0 for _, cached in both) == [False, True]
        await say(chatting, "Who?", stop=["x"])
        assert (await say(chatting, "Who?", said, "Is it?"))[1] == 0
        assert len({name for name, _, _ in client.prompts()}) == 5
        small = Client(tokens, capacity=32)
        chatting = Chatting(small, tmp_path)
        await say(chatting, "What is it?")
        assert (await say(chatting, "What is it?", said, "Is it? It is"))[1] == 0
        first, second = (name for name, _, _ in small.prompts())
        assert first != second and small.ended == [first]

    asyncio.run(run())


def test_a_long_conversation_goes_on_as_long_as_there_is_room(tokens, tmp_path):
    """Rather than being refused, because all of it, read anew, has no room."""

    async def run() -> None:
        client, question = Client(tokens, capacity=64), "What is it? It is what it is"
        chatting = Chatting(client, tmp_path)
        said, _ = await say(chatting, question)
        assert len(tokens.prompt([question, said, "Is it?"])) > 32
        assert (await say(chatting, question, said, "Is it?", max_tokens=10))[1] > 0
        with pytest.raises(QuestionError, match="there is room for 64: send fewer"):
            await say(chatting, *(question, said) * 3, "Is it?")

    asyncio.run(run())


def test_few_wait_and_not_for_long(tokens, tmp_path, monkeypatch):
    async def run() -> None:
        client = Client(tokens)
        chatting = Chatting(client, tmp_path)
        for question in ("A", "B", "C"):
            said, _ = await say(chatting, question)
        names = [name for name, _, _ in client.prompts()]
        assert client.ended == names[: -kept.MOST]
        monkeypatch.setattr(kept, "SECONDS", 0.0)
        assert (await say(chatting, "C", said, "Is it?"))[1] == 0
        assert client.ended == names

    asyncio.run(run())


def test_servers_that_have_forgotten(tokens, tmp_path):
    """What was said is read anew; a cluster that answers nothing at all says so."""

    async def run() -> None:
        client = Client(tokens)
        chatting = Chatting(client, tmp_path)
        said, _ = await say(chatting, "What is it?")
        client.forgotten.add(client.passes[0].conversation)
        assert (await say(chatting, "What is it?", said, "Is it?")) == (said, 0)
        again = "What is it?", said, "Is it?", said, "Is it?"
        client.fails = True
        with pytest.raises(UserError, match="not here any more"):
            await say(chatting, *again)
        client.fails = False
        assert (await say(chatting, *again)) == (said, 0)

    asyncio.run(run())
