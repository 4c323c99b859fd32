"""Conversations that a decoder's ranges are measured on."""

import dataclasses

import decoders as cases
import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.models.decoders import every_token
from secformer_jax.models.decoders.calibrate import SIDE_BY_SIDE, calibrate, conversations
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder

MOST = 4
PREFIX, PLACES, RARE, UNTRAINED = [1, 2, 3], 32, 207, 211
QUESTIONS = ["Hello?", "What is it?", "A", "So, then: what is it, and where?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = cases.write_tokenizer(tmp_path_factory.mktemp("model"))
    cases.reference("llama", folder, vocab_size=cases.TOKENS, max_position_embeddings=256)
    return load(folder)


def one_by_one(model, tokens, questions) -> tuple[list[int], int]:
    """A conversation, every token of it from the whole text before it; and how many answers have ended early."""
    text, early = list[int](), 0
    for i, question in enumerate(questions):
        text += tokens.next_prompt(question) if i else tokens.prompt([question])
        for _ in range(MOST):
            logits, _ = PlaintextDecoder(model, 256).extend(np.asarray([*tokens.prefix, *text]))
            token = int(np.argmax(logits[-1]))
            if token in model.config.eos_token_ids:
                early += 1
                break
            text.append(token)
    return text, early


def test_conversations_side_by_side_are_those_one_by_one(model):
    """Of other lengths, more than are read together, and with answers that end early."""
    tokens = read_tokens(model.path)
    chats = [[QUESTIONS[i % 4], QUESTIONS[(i + i // 4) % 4]] for i in range(SIDE_BY_SIDE + 1)]
    said, _ = one_by_one(model, tokens, chats[0])
    ending = dataclasses.replace(model, config=dataclasses.replace(model.config, eos_token_ids=(said[-1],)))
    done = []
    found = conversations(ending, tokens, chats, MOST, progress=lambda *each: done.append(each))
    expected = [one_by_one(ending, tokens, questions) for questions in chats]
    assert found == [text for text, _ in expected]
    assert sum(early for _, early in expected) >= 1
    assert done == [(i + 1, len(chats)) for i in range(len(chats))]


def test_a_conversation_longer_than_the_model_reads(model):
    tokens = read_tokens(model.path)
    with pytest.raises(UserError, match="257 tokens, and there is room for 256"):
        conversations(model, tokens, [["Hello?"], ["what " * 300]], MOST)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_first_layer_holds_for_every_token(family, tmp_path, monkeypatch):
    """One that no text has, with an embedding three times as long: at every place behind the prefix."""
    monkeypatch.setattr(every_token, "ROWS", 100)
    size = {"llama": "max_position_embeddings", "gpt2": "n_positions"}[family]
    cases.reference(family, tmp_path, vocab_size=cases.TOKENS, **{size: PLACES})
    found = load(cases.write_tokenizer(tmp_path))
    table = np.array(found.params["embeddings"]["embedding"])
    table[RARE] *= 3
    table[UNTRAINED] = 0
    model = dataclasses.replace(found, params={**found.params, "embeddings": {"embedding": table}})
    ranges = calibrate(model, PREFIX, [[8, 9, 10]])
    behind = PLACES - len(PREFIX)
    _, kept = PlaintextDecoder(model, PLACES).extend(np.asarray([*PREFIX, *[RARE] * behind]))
    x = np.asarray(kept["layer.0.attention_norm"], np.float64)[0, len(PREFIX) :]
    x = x - x.mean(axis=1, keepdims=True) if family == "gpt2" else x
    squares = np.mean(x * x, axis=1)
    holds(ranges.range("layer.0.attention_norm", "mean_square"), squares)
    holds(ranges.range("layer.0.attention_norm", "value"), x)
    places = slice(None) if family == "llama" else RARE % behind
    for name in ("query", "key", "value"):
        holds(
            ranges.range(f"layer.0.{name}", "output"),
            np.asarray(kept[f"layer.0.{name}"])[0, :, len(PREFIX) :][:, places],
        )
    norm = ranges.range("layer.0.attention_norm", "mean_square")
    assert norm.high < 1.01 * squares.max() and norm.low > 0.01 * squares.min()


def holds(found, values) -> None:
    slack = 1e-5 * max(abs(found.low), abs(found.high))
    assert found.low - slack <= np.min(values) and np.max(values) <= found.high + slack


def test_weights_that_are_no_numbers(model):
    table = np.array(model.params["embeddings"]["embedding"])
    table[RARE] = np.nan
    broken = dataclasses.replace(model, params={**model.params, "embeddings": {"embedding": table}})
    with pytest.raises(UserError, match="not a finite number"):
        calibrate(broken, PREFIX, [[8, 9, 10]])
