"""The package `openai` as a client of the gateway."""

import asyncio

import numpy as np
import pytest
from test_gateway import KEY, Plain, serving

openai = pytest.importorskip("openai", reason="the package openai is not installed")


def client_of(session, key):
    return openai.AsyncOpenAI(base_url=f"{session._base_url}/v1", api_key=key, max_retries=0)


def test_embeddings(minilm):
    asking, texts = Plain(minilm), ["a cat sleeps", "a dog barks at the cat"]

    async def run():
        async with serving(asking, KEY) as session, client_of(session, KEY) as client:
            models = await client.models.list()
            return models, await client.embeddings.create(model=models.data[0].id, input=texts)

    models, found = asyncio.run(run())
    assert [model.id for model in models.data] == ["mine"] and found.model == "mine"
    expected = [asking._plain(asking._tokenizer.encode([text]))[0] for text in texts]
    for each, vector in zip(found.data, expected, strict=True):
        assert np.dot(each.embedding, vector) / np.linalg.norm(each.embedding) / np.linalg.norm(vector) > 0.9999


def test_mistakes_are_its_own_exceptions(minilm):
    async def run(key, **options):
        async with serving(Plain(minilm), KEY) as session, client_of(session, key) as client:
            await client.embeddings.create(**{"model": "mine", "input": "a", **options})

    with pytest.raises(openai.AuthenticationError, match="key was expected"):
        asyncio.run(run("wrong"))
    with pytest.raises(openai.NotFoundError, match="mine is served"):
        asyncio.run(run(KEY, model="text-embedding-3-small"))
    with pytest.raises(openai.BadRequestError, match=r"input\[0\]: empty text"):
        asyncio.run(run(KEY, input=" "))
