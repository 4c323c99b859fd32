"""Conversations that a decoder's ranges are measured on."""

import dataclasses

import decoders as cases
import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.calibrate import SIDE_BY_SIDE, conversations
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder

MOST = 4
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
