"""Our pipelines answer as Hugging Face's do: golden answers of theirs, on the same models in plaintext."""

import asyncio
import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

import secformer_jax
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.inference.simulated import _own
from secformer_jax.inference.texts import Limits
from secformer_jax.models.checkpoint import load
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Tokenizer
from secformer_jax.pipelines.forms import TASKS
from secformer_jax.pipelines.pipeline import AsyncPipeline, Pipeline

FOLDER = Path(__file__).resolve().parents[1] / "data" / "pipelines"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
CALLS = [(task, number) for task in GOLDEN if task in TASKS for number in range(len(GOLDEN[task]))]


class Plain:
    """A model that answers in plaintext."""

    labels_alone = False

    def __init__(self, model, head=None):
        self.config, self.head = model.config, head or model.head
        self._plain = Plaintext(model, presets.preset("exact"), head=self.head)

    def most(self, length):
        return 4

    async def logits(self, encoded):
        return self._plain(encoded)


def plain_pipeline(task, folder=None, **limits):
    model = load(folder or FOLDER / task)
    return AsyncPipeline(task, Plain(model), Tokenizer(model.path, model.config), Limits(**limits))


def same(found, expected, path=""):
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert list(found) == list(expected), path
        for key in expected:
            same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{path}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4), path
    else:
        assert found == expected, path


@pytest.mark.parametrize(("task", "number"), CALLS)
def test_as_hugging_face(task, number):
    call = GOLDEN[task][number]
    same(asyncio.run(plain_pipeline(task)(*call["inputs"], **call["options"])), call["result"])


def test_whole_entities():
    pipe = plain_pipeline("token-classification")
    text = "Anna lives in New York."
    found = asyncio.run(pipe(text, aggregation_strategy="simple"))
    assert found and all(list(each) == ["entity_group", "score", "word", "start", "end"] for each in found)
    assert all(each["word"] == text[each["start"] : each["end"]] for each in found)


def test_vectors(minilm):
    model = minilm
    pipe = AsyncPipeline("feature-extraction", Plain(model), Tokenizer(model.path, model.config), Limits())
    one, many = asyncio.run(pipe("a cat")), asyncio.run(pipe(["a cat", "a dog"]))
    assert np.shape(one) == (1, 1, 384) and np.shape(many) == (2, 1, 1, 384)
    assert one == many[0] or np.allclose(one, many[0], atol=1e-5)


def test_waiting_code_is_not_needed():
    closed = []

    @contextlib.asynccontextmanager
    async def entering():
        yield plain_pipeline("text-classification")
        closed.append(True)

    call = GOLDEN["text-classification"][0]
    with Pipeline(entering()) as pipe:
        same(pipe(*call["inputs"]), call["result"])
    assert closed == [True]


@pytest.mark.parametrize(
    ("task", "inputs", "options", "said"),
    [
        ("text-classification", 3, {}, "a text"),
        ("text-classification", {"text": "a", "pair": "b"}, {}, "a text"),
        ("text-classification", "a", {"topk": 3}, "unknown argument topk"),
        ("text-classification", "", {}, "empty text"),
        ("text-classification", ["anna", " "], {}, "text 2: empty text"),
        ("text-classification", "anna " * 40, {}, "pass"),
        ("token-classification", "anna", {"aggregation_strategy": "first"}, "none, simple"),
        ("question-answering", {"question": "who"}, {}, "a question and a context"),
        ("question-answering", None, {"question": ["a", "b"], "context": ["c"]}, "2 questions"),
    ],
)
def test_what_is_refused(task, inputs, options, said):
    with pytest.raises(UserError, match=said):
        asyncio.run(plain_pipeline(task)(inputs, **options))


def test_another_task_and_an_unknown_one():
    model = load(FOLDER / "text-classification")
    tokenizer = Tokenizer(model.path, model.config)
    with pytest.raises(UserError, match="answers with classification"):
        AsyncPipeline("question-answering", Plain(model), tokenizer, Limits())
    with pytest.raises(UserError, match="unknown task 'translation'"):
        secformer_jax.pipeline("translation")


def test_simulated():
    pytest.importorskip("spu")
    # The student's own preset is fast: exact softmax is not what it was distilled for.
    assert _own(load("sst2-student")) == presets.preset("fast")
    with secformer_jax.pipeline("sentiment-analysis", config="1pc_ref2k") as pipe:
        good, bad = pipe(["A warm and wonderfully funny film.", "Dull, badly acted and far too long."])
    assert (good["label"], bad["label"]) == ("positive", "negative") and good["score"] > 0.5
