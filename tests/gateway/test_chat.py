"""/v1/chat/completions before a scripted model: OpenAI's forms, its own package as the client, and what is refused."""

import asyncio
import json

import decoders as cases
import pytest
from scripted import SAID, Scripted
from test_gateway import KEY, serving

from secformer_jax.gateway.asking import BusyError
from secformer_jax.gateway.chat_forms import QuestionError, asked_of
from secformer_jax.models.decoders.chat import read_tokens

openai = pytest.importorskip("openai", reason="the package openai is not installed")


@pytest.fixture
def scripted(tmp_path):
    return Scripted(read_tokens(cases.write_tokenizer(tmp_path)))


def asked(scripted, key=KEY, **options):
    """What the package openai makes of an answer, or of its events."""

    async def run():
        async with serving(scripted, KEY, scripted) as session:
            client = openai.AsyncOpenAI(base_url=f"{session._base_url}/v1", api_key=key, max_retries=0)
            async with client:
                body = {"model": "mine", "messages": [{"role": "user", "content": "What is it?"}], **options}
                found = await client.chat.completions.create(**body)
                return [event async for event in found] if options.get("stream") else found

    return asyncio.run(run())


def test_an_answer(scripted):
    found = asked(scripted)
    [choice] = found.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (SAID, "assistant", "stop")
    usage = found.usage
    assert found.model == "mine" and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert found.secformer == {"seconds": 0.5, "sent_bytes": [10, 20], "seen": ["01", "02"]} and scripted.left == 1


def test_an_answer_that_grows(scripted):
    events = asked(scripted, stream=True, stream_options={"include_usage": True})
    *grown, last, usage = events
    assert len(grown) > 3 and "".join(event.choices[0].delta.content for event in grown) == SAID
    assert grown[0].choices[0].delta.role == "assistant" and last.choices[0].finish_reason == "stop"
    assert usage.choices == [] and usage.usage.completion_tokens > 3
    assert {event.id for event in events} == {events[0].id} and scripted.left == 1


def test_what_is_asked(scripted):
    """Conversations and settings reach the model."""
    messages = [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": "It is"},
        {"role": "user", "content": "Is it?"},
    ]
    found = asked(
        scripted, messages=messages, max_completion_tokens=2, temperature=0.5, top_p=0.9, stop=["x", "y"], seed=3
    )
    assert found.choices[0].finish_reason == "length" and found.usage.completion_tokens == 2
    [one] = scripted.asked
    assert (one.turns, one.system) == (("What is it?", "It is", "Is it?"), "Be kind")
    assert (one.choice.temperature, one.choice.top_p, one.seed) == (0.5, 0.9, 3)
    assert (one.ending.most, one.ending.stops) == (2, ("x", "y"))
    neutral = {
        "frequency_penalty": 0.0,
        "presence_penalty": None,
        "logit_bias": {},
        "response_format": {"type": "text"},
    }
    older = asked_of({"messages": messages[1:2], "max_completion_tokens": None, "max_tokens": 7, **neutral})
    assert older.ending.most == 7
    plain = asked_of({"messages": messages[1:2], "stop": "end"})
    assert (plain.choice.temperature, plain.ending.stops, plain.stream) == (1.0, ("end",), False)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"messages": []}, "messages is a list"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "user has the last word"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "speak in turn"),
        ({"messages": [{"role": "user", "content": " "}]}, "a content that is a text"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "user has the last word"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a content that is a text"),
        ({"messages": [{"role": "system", "content": "a"}]}, "user has the last word"),
        ({"temperature": -1}, "temperature is -1.0"),
        ({"temperature": 10**400}, "temperature is too large"),
        ({"temperature": True}, "a number was expected"),
        ({"top_p": "1"}, "a number was expected"),
        ({"max_tokens": 1.5}, "a whole number was expected"),
        ({"max_tokens": 0}, "at least 1 was expected"),
        ({"n": 2}, "one answer"),
        ({"seed": "1"}, "seed is '1'"),
        ({"stop": [""]}, "none empty"),
        ({"stop": 3}, "stop is a text"),
        ({"stream": "yes"}, "stream is true or false"),
        ({"tools": []}, "unknown key 'tools'"),
        ({"frequency_penalty": 0.5}, "only 0 is served"),
        ({"logprobs": True}, "only False is served"),
        ({"response_format": {"type": "json_object"}}, "only {'type': 'text'} is served"),
    ),
)
def test_bad_questions(change, message):
    body = {"messages": [{"role": "user", "content": "a"}], **change}
    with pytest.raises(QuestionError, match=message):
        asked_of(body)


def test_mistakes_are_its_own_exceptions(scripted):
    with pytest.raises(openai.AuthenticationError):
        asked(scripted, key="wrong")
    with pytest.raises(openai.NotFoundError, match="mine is served"):
        asked(scripted, model="gpt-4o")
    with pytest.raises(openai.BadRequestError, match="unknown key 'tools'"):
        asked(scripted, tools=[])
    scripted.fails = QuestionError("messages of 900 tokens")
    with pytest.raises(openai.BadRequestError, match="900 tokens"):
        asked(scripted)
    scripted.fails = BusyError()
    with pytest.raises(openai.RateLimitError):
        asked(scripted)
    scripted.fails = None
    scripted.head = "embedding"
    with pytest.raises(openai.NotFoundError, match="answers with embedding: /v1/embeddings"):
        asked(scripted)


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize(("before", "fails_after"), ((0, 0), (3, 2)))
def test_a_cluster_that_dies_at_once(scripted, stream, before, fails_after):
    """Or before the last pass of a long prompt."""
    scripted.before, scripted.fails_after = before, fails_after
    with pytest.raises(openai.InternalServerError, match="S1 is gone"):
        asked(scripted, stream=stream)
    assert scripted.left == scripted.looked == 1


def test_a_cluster_that_dies_on_the_way(scripted):
    """What was said stands, and the end says why."""
    scripted.fails_after = 3
    with pytest.raises(openai.APIError, match="S1 is gone"):
        asked(scripted, stream=True)
    with pytest.raises(openai.InternalServerError, match="S1 is gone"):
        asked(scripted)
    assert scripted.left == 2


def test_events_are_no_others(scripted):
    """As they are on the wire."""

    async def run():
        async with serving(scripted, "", scripted) as session:
            body = {"messages": [{"role": "user", "content": "a"}], "stream": True}
            async with session.post("/v1/chat/completions", json=body) as found:
                assert found.content_type == "text/event-stream"
                return (await found.text()).split("\n\n")

    *events, done, rest = asyncio.run(run())
    assert (done, rest) == ("data: [DONE]", "") and all(event.startswith("data: {") for event in events)
    assert json.loads(events[-1][6:])["secformer"]["seconds"] == 0.5


def test_a_client_that_leaves(scripted):
    """Nothing more is computed for it, and its conversation ends."""

    async def run():
        async with serving(scripted, "", scripted) as session:
            for count, stream in enumerate((True, False), 1):
                scripted.slow = asyncio.Event()
                body = {"messages": [{"role": "user", "content": "a"}], "stream": stream}
                asking = asyncio.create_task(session.post("/v1/chat/completions", json=body))
                await asyncio.sleep(0.2)
                if stream:
                    (await asking).close()
                else:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                await asyncio.sleep(0.2)
                before = scripted.computed
                scripted.slow.set()
                while scripted.left < count:
                    await asyncio.sleep(0.01)
                assert scripted.computed <= before + 2

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.parametrize("stream", (False, True))
def test_a_client_that_leaves_while_its_prompt_is_read(scripted, stream):
    async def run():
        scripted.before, scripted.slow = 50, asyncio.Event()
        async with serving(scripted, "", scripted) as session:
            body = {"messages": [{"role": "user", "content": "a"}], "stream": stream}
            asking = asyncio.create_task(session.post("/v1/chat/completions", json=body))
            await asyncio.sleep(0.2)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(0.2)
            scripted.slow.set()
            while not scripted.left:
                await asyncio.sleep(0.01)
            assert scripted.computed <= 3

    asyncio.run(asyncio.wait_for(run(), 20))
