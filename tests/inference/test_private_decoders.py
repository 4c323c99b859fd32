"""Private generation with small models: what plaintext gives, token by token, on every runtime that opens."""

import dataclasses

import decoders as cases
import numpy as np
import pytest

pytest.importorskip("spu")

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.range_check import DecoderRangeCheck
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.inference.decoders.simulated import SimulatedDecoder
from secformer_jax.models.decoders.calibrate import calibrate
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.mpc.runtime import config

RNG = np.random.default_rng(0)
PREFIX = (3, 5, 7)
TEXTS = [RNG.integers(0, 97, 20) for _ in range(6)]
CASES = {
    "llama behind a prefix": ("llama", PREFIX, {}),
    "llama with a head of its own": ("llama", (), {"tie_word_embeddings": False}),
    "gpt2": ("gpt2", (), {}),
    "gpt2 behind a prefix": ("gpt2", PREFIX, {}),
}
SENDS = 2 + 6 + 2 * (13 + 3 * 2)
"""The proof of the rows; two layers, two squarings in each."""


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory):
    name, prefix, changes = CASES[request.param]
    folder = tmp_path_factory.mktemp("decoder")
    cases.reference(name, folder, **changes)
    model = load(folder)
    return model, prefix, calibrate(model, prefix, TEXTS)


def plaintext(model, prefix) -> PlaintextDecoder:
    found = PlaintextDecoder(model, len(prefix) + 20)
    if prefix:
        found.extend(np.asarray(prefix))
    return found


@pytest.mark.parametrize("protocol", ["1pc_ref2k", "2pc_semi2k"])
def test_two_texts_by_turns(model, protocol):
    """A padded prompt and tokens behind it, of two requests, each with a cache of its own."""
    model, prefix, ranges = model
    with SimulatedDecoder(model, ranges, prefix, 16, config.load(protocol)) as decoder:
        private = [decoder.text(), decoder.text()]
        expected = [plaintext(model, prefix), plaintext(model, prefix)]
        spread = 0.0
        for start, stop, padded in ((0, 5, 6), (5, 6, 1), (6, 7, 1)):
            for text, private_text, plain in zip(TEXTS, private, expected, strict=False):
                tokens = text[start:stop]
                logits, result = private_text.extend(tokens, padded)
                truth = plain.extend(tokens)[0][-1]
                np.testing.assert_allclose(logits, truth, atol=2e-3 * np.abs(truth).max() + 2e-4)
                spread = max(spread, float(np.std(truth)))
                sends = SENDS if decoder.engine.config.world_size > 1 else 0
                assert result.profile.total.send_actions == sends
        assert spread > 0.1
        with pytest.raises(UserError, match="9 tokens padded to 9, behind 8, and there is room for 16"):
            private[0].extend(TEXTS[0][:9])


def test_more_keys_than_fit_are_refused(model):
    model, prefix, ranges = model
    with pytest.raises(UserError, match="and the model has 64 positions"):
        DecoderServing(model.config, ranges, len(prefix), 65)


def test_values_that_leave_their_domains_are_named(model):
    """None of the texts that ranges were measured on; those of narrower ranges by their places."""
    model, prefix, ranges = model
    with DecoderRangeCheck(model, ranges, prefix, 20) as check:
        truth = PlaintextDecoder(model, len(prefix) + 20)
        if prefix:
            truth.extend(np.asarray(prefix))
        logits, _ = check.text().extend(TEXTS[0])
        expected = truth.extend(TEXTS[0])[0]
        np.testing.assert_allclose(logits, expected, atol=2e-3 * np.abs(expected).max() + 2e-4)
        assert check.violations == []
    norm = ranges.places["layer.1.attention_norm"]
    other = {**norm, "mean_square": norm["mean_square"].scaled(0.4)}
    ranges = dataclasses.replace(ranges, places={**ranges.places, "layer.1.attention_norm": other})
    with DecoderRangeCheck(model, ranges, prefix, 20) as check:
        for text in TEXTS[:3]:
            check.text().extend(text)
        assert check.violations[0].place == "layer_1_attention/read/root/series"
