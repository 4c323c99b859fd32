"""A language model on a real cluster under TLS: conversations side by side, each with its own cache, and their ends."""

import asyncio
import io
import json
import secrets

import decoders as cases
import numpy as np
import pytest
from aiohttp import web
from cluster_processes import until_ready

from secformer_jax.cli import app as cli
from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.conversation import ClusterConversation
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.published import read_description
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import checked, describe_decoder
from secformer_jax.errors import UserError
from secformer_jax.gateway.asking import Asking
from secformer_jax.gateway.chatting import Chatting
from secformer_jax.gateway.server import Gateway
from secformer_jax.inference.decoders.answer import Answer, Ending
from secformer_jax.inference.decoders.choice import Choice
from secformer_jax.inference.texts import Limits
from secformer_jax.models.decoders.calibrate import calibrate
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder

pytestmark = pytest.mark.timeout(900)
CAPACITY = 60
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(2, cases.TOKENS, 16).tolist() for _ in range(4)]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    cases.reference("llama", folder, vocab_size=cases.TOKENS, num_hidden_layers=1, max_position_embeddings=128)
    model, tokens = load(folder), read_tokens(cases.write_tokenizer(folder))
    return model, tokens, describe_decoder(model, calibrate(model, tokens.prefix, TEXTS), tokens, CAPACITY)


@pytest.fixture(scope="module")
def local(subject, tmp_path_factory):
    model, _, description = subject
    folder, options = tmp_path_factory.mktemp("cluster"), {"runs_in_flight": 2, "audits": 0.2}
    with LocalCluster(folder, "2pc_semi2k_dealer", clients=("alice", "bob"), options=options) as started:
        asyncio.run(owner.publish(started.cluster, model, description))
        until_ready(started)
        yield started


def plaintext(subject) -> PlaintextDecoder:
    model, tokens, _ = subject
    found = PlaintextDecoder(model, len(tokens.prefix) + CAPACITY)
    found.extend(np.asarray(tokens.prefix))
    return found


def likeliest(subject, prompt, most) -> list[int]:
    """Plaintext's answer, all of the conversation read anew."""
    truth, said = plaintext(subject), list[int]()
    logits, _ = truth.extend(np.asarray(prompt))
    while len(said) < most and not set(said[-1:]).intersection(subject[0].config.eos_token_ids):
        said.append(int(np.argmax(logits[-1])))
        logits, _ = truth.extend(np.asarray(said[-1:]))
    return said


def close(logits, truth) -> None:
    np.testing.assert_allclose(logits, truth, atol=2e-3 * np.abs(truth).max() + 2e-4)


async def follow(conversation, truth, tokens, steps) -> None:
    """A padded prompt and steps behind it are plaintext's."""
    prompt = tokens[:9]
    logits, _ = await conversation.extend(prompt, 16)
    close(logits, truth.extend(np.asarray(prompt))[0][-1])
    for token in tokens[9 : 9 + steps]:
        logits, _ = await conversation.extend([token])
        close(logits, truth.extend(np.asarray([token]))[0][-1])


def test_the_description(subject):
    _, _, description = subject
    assert read_description(description.to_json()) == description == checked(description)
    for change in ({"input_bits": 7}, {"logits_bits": 63}):
        with pytest.raises(UserError, match="which its ranges don't give"):
            checked(read_description({**description.to_json(), **change}))
    with pytest.raises(UserError, match="without the series"):
        checked(read_description({**description.to_json(), "series": {}}))
    for change in (
        {"prefix": [1, -1]},
        {"prefix": [True]},
        {"capacity": 999},
        {"capacity": 0},
        {"nonce": "short"},
        {"chat": {"prefix": "a"}},
        {"config": {}},
        {"format": 0},
        {"series": []},
    ):
        with pytest.raises(UserError, match="description"):
            read_description({**description.to_json(), **change})


def test_two_clients_talk_at_once(subject, local):
    """Each pass answered with its own cache, and the dealer's pieces looked at now and then."""

    async def talk() -> None:
        served = subject[2]
        async with ClusterClient(local.cluster, "alice") as alice, ClusterClient(local.cluster, "bob") as bob:
            found = [await client.decoder() for client in (alice, bob)]
            assert found[0].chat == served.chat and found[0].prefix == served.prefix
            async with ClusterConversation(alice, found[0]) as first, ClusterConversation(bob, found[1]) as second:
                both = ((first, TEXTS[0]), (second, TEXTS[1]))
                await asyncio.gather(*(follow(each, plaintext(subject), text, 3) for each, text in both))

    asyncio.run(talk())


def test_a_long_prompt_is_read_in_pieces(subject, local):
    """Each padded; logits behind it are plaintext's of all of it."""
    prompt = [token for text in TEXTS for token in text][:45]

    async def talk() -> np.ndarray:
        async with ClusterClient(local.cluster, "alice") as alice:
            served = await alice.decoder()
            answer = Answer(subject[1], (), prompt, Choice(), Ending(most=2))
            async with ClusterConversation(alice, served) as conversation:
                costs = [cost async for _, cost in conversation.write(prompt, answer)]
                assert len(costs) == 3
                with pytest.raises(UserError, match="12 tokens behind 49, and there is room for 60"):
                    await anext(conversation.write(prompt[:12], answer))
            return answer.ids

    assert asyncio.run(talk()) == likeliest(subject, prompt, 2)


def test_what_is_refused(subject, local):
    """A pass out of place, without room, under another's name; and a request that stands alone."""

    async def talk() -> None:
        async with ClusterClient(local.cluster, "alice") as alice, ClusterClient(local.cluster, "bob") as bob:
            served = await alice.decoder()
            one = served.inputs.array(TEXTS[0][:1], 1)
            async with ClusterConversation(alice, served) as conversation:
                await conversation.extend(TEXTS[0][:1])
                name = conversation._name
                for client, shape, message in (
                    (alice, RequestShape(1, 1, name, 0, 1), "has 1 tokens here, and not 0"),
                    (alice, RequestShape(1, 1, name, 2, 1), "has 1 tokens here, and not 2"),
                    (alice, RequestShape(1, 1, secrets.token_hex(16), 1, 1), "not here any more"),
                    (bob, RequestShape(1, 1, name, 1, 1), "not here any more"),
                    (alice, RequestShape(1, 1, name, CAPACITY, 1), f"there is room for {CAPACITY}"),
                    (alice, RequestShape(1, 1, name, 1, 2), "2 tokens padded to 1"),
                    (alice, RequestShape(1, 2, name, 1, 2), "one text is served"),
                    (alice, RequestShape(1, 1), "a request of it is a conversation's"),
                ):
                    with pytest.raises(UserError, match=message):
                        await client.ask(served, shape, [np.repeat(one, shape.length, axis=0)])
                # It goes on where it was.
                await conversation.extend(TEXTS[0][1:2])
                with pytest.raises(UserError, match="generates text: ask it with secformer generate"):
                    await alice.deployment()
                # What is over is over, under its name too; and others go on.
                await alice.end(name)
                for start in (0, 2):
                    with pytest.raises(UserError, match="this conversation is over"):
                        await alice.ask(served, RequestShape(1, 1, name, start, 1), [one])
            async with ClusterConversation(bob, served) as another:
                await another.extend(TEXTS[0][:1])

    asyncio.run(talk())


def test_the_command_line(subject, local, capsys, monkeypatch):
    """Answers are plaintext's likeliest tokens, of a prompt and of a conversation."""
    model, tokens, _ = subject
    asked = ["--cluster", str(local.path), "--client", "alice", "--model", str(model.path), "--max-tokens", "3"]
    assert cli.run(["generate", *asked, "--prompt", "What is it?", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["results"]
    truth, expected = plaintext(subject), []
    new = tokens.prompt(["What is it?"])
    for _ in range(3):
        expected.append(int(np.argmax(truth.extend(np.asarray(new))[0][-1])))
        new = expected[-1:]
    assert entry["tokens"] == expected and entry["answer"] == tokens.text(expected)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
    assert cli.run(["chat", *asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["tokens"] == expected
    other = cases.write_tokenizer(model.path.parent, cases.TEMPLATE, special=cases.SPECIAL[::-1])
    assert cli.run(["generate", *asked[:4], "--model", str(other), "--prompt", "What?"]) == 2
    assert "is not the published model's" in capsys.readouterr().err


def test_a_gateway_and_openais_client(subject, local):
    """An answer that is whole, one that grows, and the next question of a conversation; and what is refused."""
    openai, (model, tokens, _) = pytest.importorskip("openai"), subject
    question, message = "What is it?", {"role": "user", "content": "What is it?"}
    first = likeliest(subject, tokens.prompt([question]), 3)

    async def talk() -> tuple:
        async with ClusterClient(local.cluster, "bob") as bob:
            asking, chatting = Asking(bob, model.path, Limits()), Chatting(bob, model.path)
            gateway = Gateway(asking, chatting, "mine", frozenset({"127.0.0.1"}))
            runner = web.AppRunner(gateway.application())
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                asked = {"model": "mine", "messages": [message], "max_tokens": 3, "temperature": 0}
                whole = await client.chat.completions.create(**asked)
                grown = [event async for event in await client.chat.completions.create(**asked, stream=True)]
                said = whole.choices[0].message.content
                answered = [message, {"role": "assistant", "content": said}, {"role": "user", "content": "Is it?"}]
                follows = await client.chat.completions.create(**asked | {"messages": answered, "max_tokens": 2})
                with pytest.raises(openai.BadRequestError, match=f"there is room for {CAPACITY}: send fewer"):
                    await client.chat.completions.create(**asked | {"messages": [{**message, "content": "a " * 80}]})
                with pytest.raises(openai.BadRequestError, match="published with a system's prompt"):
                    system = {"role": "system", "content": "Be cruel"}
                    await client.chat.completions.create(**asked | {"messages": [system, message]})
                with pytest.raises(openai.NotFoundError, match="answers with generation: /v1/chat/completions"):
                    await client.embeddings.create(model="mine", input="a")
            await runner.cleanup()
            await chatting.close()
            return whole, grown, follows

    whole, grown, follows = asyncio.run(talk())
    said = "".join(event.choices[0].delta.content or "" for event in grown)
    assert whole.choices[0].message.content == said and grown[-1].choices[0].finish_reason in ("stop", "length")
    # What was said is not read again, and is known all the same.
    assert follows.usage.prompt_tokens_details.cached_tokens > 10
    read = [token for token in first if token not in model.config.eos_token_ids]
    second = [*tokens.prompt([question]), *read, *tokens.next_prompt("Is it?")]
    assert said == tokens.text(first)
    assert follows.choices[0].message.content == tokens.text(likeliest(subject, second, 2))


def test_a_token_that_is_none(subject, local):
    """Rows that are not one-hot are answered with nothing, nor is what comes behind them in the cache."""

    async def talk() -> None:
        async with ClusterClient(local.cluster, "alice") as alice:
            served = await alice.decoder()
            two, name = np.ones((1, cases.TOKENS), np.int64), secrets.token_hex(16)
            with pytest.raises(UserError, match="what was sent is no text"):
                await alice.ask(served, RequestShape(1, 1, name, 0, 1), [two])
            one = np.eye(cases.TOKENS, dtype=np.int64)[:1]
            with pytest.raises(UserError, match="this conversation is over"):
                await alice.ask(served, RequestShape(1, 1, name, 1, 1), [one])
            await alice.ask(served, RequestShape(1, 1, secrets.token_hex(16), 0, 1), [one])

    asyncio.run(talk())


def test_a_killed_server_ends_conversations_with_a_clear_line(subject, local):
    async def talk() -> None:
        async with ClusterClient(local.cluster, "alice") as alice, ClusterClient(local.cluster, "bob") as bob:
            served = await alice.decoder()
            first, second = ClusterConversation(alice, served), ClusterConversation(bob, served)
            await asyncio.gather(first.extend(TEXTS[0][:1]), second.extend(TEXTS[1][:1]))
            local.kill("S1")
            for conversation in (first, second):
                with pytest.raises(UserError) as error:
                    await conversation.extend(TEXTS[2][:1])
                assert "\n" not in str(error.value)
            local.start("S1")
            await asyncio.to_thread(until_ready, local)
            for conversation in (first, second):
                with pytest.raises(UserError, match="not here any more"):
                    await conversation.extend(TEXTS[2][:1])
            async with ClusterConversation(alice, served) as another:
                await follow(another, plaintext(subject), TEXTS[3], 1)

    asyncio.run(talk())
