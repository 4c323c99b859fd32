"""The gateway's HTTP, before a model in plaintext: forms, limits, and who may ask."""

import asyncio
import base64
import contextlib
import json
import types
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from secformer_jax.cli.commands.gateway import HOSTS
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.gateway.asking import BusyError, Cost
from secformer_jax.gateway.openapi import document
from secformer_jax.gateway.server import PAGES, Gateway
from secformer_jax.inference.reveal import EVERYTHING
from secformer_jax.inference.texts import Limits, answer
from secformer_jax.models.checkpoint import load
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "data" / "pipelines"
KEY = "k" * 20


class Plain:
    """`asking.Asking` in plaintext."""

    labels_alone = False
    waiting = 0

    def __init__(self, model):
        self.config, self.head = model.config, model.head
        self._plain = Plaintext(model, presets.preset("exact"), head=model.head)
        self._tokenizer = Tokenizer(model.path, model.config)
        self.fails = None

    def most(self, length):
        return 4

    async def logits(self, encoded):
        return self._plain(encoded)

    async def served(self):
        if isinstance(self.fails, UserError):
            raise self.fails
        return types.SimpleNamespace(head=self.head, name="f" * 32, reveal=EVERYTHING)

    async def answers(self, requests):
        if self.fails is not None:
            raise self.fails
        entries = await answer(self, self._tokenizer, requests, Limits())
        return entries, Cost(0.5, [10, 20], [b"\x01\x02", b"\x03\x04"])

    def tokens(self, requests):
        return 3 * len(requests)


NOBODY = types.SimpleNamespace(waiting=0)


@contextlib.asynccontextmanager
async def serving(asking, key="", chatting=NOBODY):
    runner = web.AppRunner(Gateway(asking, chatting, "mine", HOSTS, key).application())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


def posted(asking, path, body, *, key="", raw=False, **headers):
    async def run():
        async with serving(asking, key) as session:
            data = body if raw else json.dumps(body)
            async with session.post(path, data=data, headers={"Content-Type": "application/json", **headers}) as found:
                return found.status, await found.json()

    return asyncio.run(run())


def fetched(asking, path, *, key="", **headers):
    async def run():
        async with serving(asking, key) as session, session.get(path, headers=headers) as found:
            return found.status, await found.text(), found.headers

    return asyncio.run(run())


@pytest.fixture(scope="module")
def classes():
    return Plain(load(FOLDER / "text-classification"))


@pytest.fixture(scope="module")
def vectors(minilm):
    return Plain(minilm)


@pytest.fixture(autouse=True)
def whole(request):
    yield
    for name in ("classes", "vectors"):
        if name in request.fixturenames:
            request.getfixturevalue(name).fails = None


def test_embeddings(vectors):
    texts = ["a cat", "a longer text about a dog"]
    status, found = posted(vectors, "/v1/embeddings", {"input": texts, "model": "mine"})
    assert status == 200 and found["object"] == "list" and found["model"] == "mine"
    assert [(each["object"], each["index"]) for each in found["data"]] == [("embedding", 0), ("embedding", 1)]
    assert found["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    expected = [[*vectors._plain(vectors._tokenizer.encode([text]))[0]] for text in texts]
    assert np.allclose([each["embedding"] for each in found["data"]], expected, atol=1e-5)
    _, coded = posted(vectors, "/v1/embeddings", {"input": texts[0], "encoding_format": "base64"})
    assert np.allclose(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), expected[0], atol=1e-5)
    assert found["secformer"] == {"seconds": 0.5, "sent_bytes": [10, 20], "seen": ["0102", "0304"]}


def test_labels(classes):
    status, found = posted(classes, "/v1/classify", {"input": ["anna", {"text": "anna", "text_pair": "works"}]})
    assert status == 200 and [each["index"] for each in found["data"]] == [0, 1]
    assert {each["label"] for each in found["data"]} <= {"bad", "so so", "good"}


def test_entities():
    found = posted(Plain(load(FOLDER / "token-classification")), "/v1/tokens", {"input": "anna lives", "tokens": True})
    assert found[0] == 200 and len(found[1]["data"][0]["tokens"]) == 2 and "entities" in found[1]["data"][0]


def test_answers():
    body = {"input": {"text": "who works?", "text_pair": "anna works for acme."}}
    status, found = posted(Plain(load(FOLDER / "question-answering")), "/v1/answers", body)
    answered = found["data"][0]["answer"]
    assert status == 200 and answered["text"] == "anna works for acme."[answered["start"] : answered["end"]]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("{", 400, "no JSON"),
        ("[" * 100_000, 400, "no JSON"),
        ("[]", 400, "a JSON object"),
        ('{"input": 3}', 400, "input is a text"),
        ('{"input": [1, 2]}', 400, "token ids"),
        ('{"input": []}', 400, "1 to 256"),
        (json.dumps({"input": ["a"] * 257}), 400, "1 to 256"),
        ('{"input": "anna", "temperature": 1}', 400, "unknown key 'temperature'"),
        ('{"input": "anna", "model": "gpt"}', 404, "mine is served"),
        ('{"input": ["anna", ""]}', 400, "input[1]: empty text"),
        (json.dumps({"input": "a" * (1 << 21)}), 413, ""),
    ],
)
def test_bodies_that_are_refused(classes, body, status, said):
    found, answered = posted(classes, "/v1/classify", body, raw=True)
    assert found == status and said in answered["error"]["message"]
    assert answered["error"]["type"] == "invalid_request_error"


def test_vectors_that_there_are_not(vectors):
    assert posted(vectors, "/v1/embeddings", {"input": "a", "dimensions": 3})[0] == 400
    assert posted(vectors, "/v1/embeddings", {"input": "a", "encoding_format": "int8"})[0] == 400


def test_the_model_answers_elsewhere(classes):
    status, found = posted(classes, "/v1/embeddings", {"input": "a"})
    assert status == 404 and "/v1/classify is where to ask" in found["error"]["message"]


def test_a_cluster_that_is_away_or_busy(classes):
    classes.fails = UserError("S0 can't be reached")
    status, found = posted(classes, "/v1/classify", {"input": "a"})
    assert (status, found["error"]["type"]) == (503, "server_error") and "S0" in found["error"]["message"]
    assert fetched(classes, "/health")[0] == 503 and fetched(classes, "/v1/models")[0] == 503
    classes.fails = BusyError()
    assert posted(classes, "/v1/classify", {"input": "a"})[0] == 429


def test_only_this_machine_and_its_own_page_ask(classes):
    body = {"input": "anna"}
    assert posted(classes, "/v1/classify", body, Host="evil.example")[0] == 403
    assert posted(classes, "/v1/classify", body, Origin="https://evil.example")[0] == 403
    status, found = posted(classes, "/v1/classify", body, **{"Content-Type": "text/plain"})
    assert status == 415 and "application/json" in found["error"]["message"]
    assert fetched(classes, "/health", Host="evil.example")[0] == 403
    assert fetched(classes, "/health", Host="[::2]:8000")[0] == 403
    for host in ("[::1]:8000", "[::1]", "localhost:8000", "127.0.0.1"):
        assert fetched(classes, "/health", Host=host)[0] == 200


def test_a_key(classes):
    body = {"input": "anna"}
    status, found = posted(classes, "/v1/classify", body, key=KEY)
    assert status == 401 and found["error"]["code"] == "invalid_api_key" and KEY not in json.dumps(found)
    assert posted(classes, "/v1/classify", body, key=KEY, Authorization=f"Bearer {KEY}")[0] == 200
    assert posted(classes, "/v1/classify", body, key=KEY, Authorization=f"Bearer {KEY}x")[0] == 401
    assert posted(classes, "/v1/classify", body, key=KEY, Authorization="Bearer é")[0] == 401
    assert fetched(classes, "/metrics", key=KEY)[0] == 401 and fetched(classes, "/v1/models", key=KEY)[0] == 401
    assert fetched(classes, "/", key=KEY)[0] == fetched(classes, "/health", key=KEY)[0] == 200


def test_health_metrics_and_models(classes):
    async def run():
        async with serving(classes) as session:
            await session.post("/v1/classify", json={"input": ["anna", "new york"]})
            found = [await (await session.get(path)).text() for path in ("/health", "/metrics", "/v1/models")]
            return found

    health, metrics, models = asyncio.run(run())
    assert json.loads(health)["state"] == "ready"
    assert 'secformer_gateway_texts_total{outcome="answered"} 2.0' in metrics
    assert 'secformer_gateway_sent_bytes_total{server="1"} 20.0' in metrics
    [model] = json.loads(models)["data"]
    assert (model["id"], model["head"], model["ask"]) == ("mine", "classification", "/v1/classify")
    assert model["reveals"] == "a logit for each label"


@pytest.mark.parametrize("path", ["/", "/docs", "/page.js", "/page.css", "/docs.js", "/openapi.json"])
def test_pages_load_nothing_from_outside(classes, path):
    status, text, headers = fetched(classes, path)
    assert status == 200 and "http://" not in text and "https://" not in text.replace("https://json-schema", "")
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")


def test_openapi_names_every_route(classes):
    paths = document()["paths"]
    app = Gateway(classes, None, "mine", HOSTS).application()
    served = {route.resource.canonical for route in app.router.routes() if route.method in ("GET", "POST")}
    assert set(paths) == served - {*PAGES, "/openapi.json"}
