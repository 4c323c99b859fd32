"""`pipeline("text-generation")`: what transformers' pipeline gives for a text, for messages, and for lists of them."""

import decoders as cases
import numpy as np
import pytest

pytest.importorskip("spu")

from secformer_jax import UserError, pipeline
from secformer_jax.models.decoders import ranges
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder

TEXT, MESSAGES = "What is it", [{"role": "user", "content": "What is it?"}]
CHATS = [["What is it?", "It is what?"], ["Be kind"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("model")
    cases.reference("llama", found, vocab_size=cases.TOKENS, num_hidden_layers=1, max_position_embeddings=256)
    cases.write_tokenizer(found)
    ranges.ensure_calibration(load(found), read_tokens(found), chats=CHATS)
    return found


@pytest.fixture(scope="module")
def pipe(folder):
    with pipeline("text-generation", folder, room=24) as found:
        yield found


def expected(folder, prompt) -> str:
    """Three of plaintext's likeliest tokens."""
    model, tokens = load(folder), read_tokens(folder)
    decoder, said, new = PlaintextDecoder(model, 64), [], [*tokens.prefix, *prompt]
    for _ in range(3):
        said.append(int(np.argmax(decoder.extend(np.asarray(new))[0][-1])))
        new = said[-1:]
    return tokens.text(said)


def test_texts_and_messages(folder, pipe):
    tokens = read_tokens(folder)
    said, answer = expected(folder, tokens.plain(TEXT)), expected(folder, tokens.prompt([MESSAGES[0]["content"]]))
    assert pipe(TEXT, max_new_tokens=3) == [{"generated_text": TEXT + said}]
    assert pipe([TEXT], max_new_tokens=3, return_full_text=False) == [[{"generated_text": said}]]
    whole = [*MESSAGES, {"role": "assistant", "content": answer}]
    assert pipe(MESSAGES, max_new_tokens=3) == [{"generated_text": whole}]
    assert pipe([MESSAGES], max_new_tokens=3) == [[{"generated_text": whole}]]


def test_tokens_are_drawn(pipe):
    drawn = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 3}
    assert pipe(TEXT, seed=1, **drawn) == pipe(TEXT, seed=1, **drawn)
    assert len({pipe(TEXT, seed=seed, **drawn)[0]["generated_text"] for seed in range(4)}) > 1


@pytest.mark.parametrize(
    "inputs", ("", 3, [], [{"role": "user"}], [*MESSAGES, *MESSAGES], [{"role": "system", "content": "a"}])
)
def test_what_is_no_input(pipe, inputs):
    with pytest.raises(UserError, match="a text, or messages"):
        pipe(inputs)


def test_bad_options(pipe, folder):
    with pytest.raises(UserError, match="at least 1 was expected"):
        pipe(TEXT, max_new_tokens=0)
    with pytest.raises(UserError, match="has functions of its own"):
        pipeline("text-generation", folder, preset="fast")
    with pytest.raises(UserError, match="generate text"):
        pipeline("text-generation", "sst2-student")
