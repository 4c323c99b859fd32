"""A whole BERT under MPC: the logits of plaintext, under every protocol, and nothing else revealed."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from random_bert import calibrate, random_checkpoint, random_request

from secformer_jax.functions import presets
from secformer_jax.models import transformer as bert

pytest.importorskip("spu")

from secformer_jax.errors import UserError
from secformer_jax.inference.private import Plaintext, PrivateModel
from secformer_jax.inference.serving import serving_for
from secformer_jax.mpc.runtime.program import OpeningStage

TOLERANCE = 0.02
# With BERT's own initializer_range of 0.02 all logits would be within the tolerance of 0.
TINY = dataclasses.replace(bert.SHAPES["tiny"], initializer_range=0.3)


@pytest.fixture(scope="module")
def tiny():
    return random_checkpoint(TINY)


@pytest.fixture(scope="module")
def ranges(tiny):
    return {name: calibrate(tiny, presets.preset(name)) for name in ("puma", "secformer")}


@pytest.mark.parametrize("preset", ["puma", "secformer"])
@pytest.mark.parametrize("protocol", ["2pc_semi2k", "3pc_aby3", "2pc_cheetah", "1pc_ref2k"])
def test_logits(tiny, ranges, protocol, preset):
    functions, request = presets.preset(preset), random_request(TINY, 0)
    expected = Plaintext(tiny, functions, calibration=ranges[preset])(request)
    assert np.abs(expected).max() > 10 * TOLERANCE and np.abs(expected[0] - expected[1]).max() > 10 * TOLERANCE
    with PrivateModel(tiny, functions, protocol, calibration=ranges[preset]) as private:
        answer = private(request)
    assert answer.logits.shape == (2, 2)
    assert np.abs(answer.logits - expected).max() <= TOLERANCE
    # The dealer is there for SecFormer's GeLU alone.
    assert (answer.result.offline_bytes > 0) == (preset == "secformer")


@pytest.mark.parametrize(("preset", "embedding"), [("puma", "client"), ("puma", "inside"), ("drop-in", "client")])
def test_what_a_client_shares_has_the_size_that_is_announced(tiny, preset, embedding):
    """Servers refuse anything else before they read it."""
    functions = presets.preset(preset)
    serving = serving_for(tiny, functions, calibrate(tiny, functions), 18, embedding)
    request = random_request(TINY, 0)
    inputs, specs = serving.inputs.arrays(request), serving.inputs.specs(*request.input_ids.shape)
    assert [(x.dtype.name, x.shape) for x in inputs] == [spec[:2] for spec in specs]


@pytest.mark.parametrize("head", ["regression", "embedding"])
def test_other_heads(head):
    config = dataclasses.replace(TINY, id2label=("score",))
    model, request = random_checkpoint(config, head), random_request(config, 1, texts=4)
    functions = presets.preset("puma")
    expected = Plaintext(model, functions)(request)
    with PrivateModel(model, functions, "1pc_ref2k") as private:
        found = private(request).logits
    assert found.shape == expected.shape == ((4, 1) if head == "regression" else (2,))
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("protocol", ["2pc_semi2k", "1pc_ref2k"])
def test_both_embeddings_agree(tiny, protocol):
    functions, request = presets.preset("puma"), random_request(TINY, 2)
    answers = {}
    for embedding in ("client", "inside"):
        with PrivateModel(tiny, functions, protocol, embedding=embedding) as private:
            answers[embedding] = private(request)
    client, inside = answers["client"], answers["inside"]
    assert np.abs(client.logits - inside.logits).max() < TOLERANCE / 2
    assert np.abs(client.logits - Plaintext(tiny, functions)(request)).max() <= TOLERANCE
    # The client's one-hot rows are larger to send; ids cost comparisons inside.
    assert client.result.input_bytes > 10 * inside.result.input_bytes
    if protocol == "2pc_semi2k":
        cost, dearer = (answer.result.profile.by_part["embedding"].send_actions for answer in (client, inside))
        assert cost < dearer


def test_unknown_embedding(tiny):
    with pytest.raises(UserError, match="unknown embedding 'outside': choose one of client, inside"):
        PrivateModel(tiny, presets.preset("puma"), embedding="outside")


def test_missing_calibration_is_said_before_anything_is_shared(tiny):
    with pytest.raises(UserError, match="no ranges: pass a calibration"):
        PrivateModel(tiny, presets.preset("secformer"))


def test_only_the_logits_are_reconstructed(tiny, ranges):
    with PrivateModel(tiny, presets.preset("secformer"), calibration=ranges["secformer"]) as private:
        parties = private._engine._parties
        with (
            mock.patch.object(parties, "reconstruct", wraps=parties.reconstruct) as revealed,
            mock.patch.object(parties, "run", wraps=parties.run) as stages,
        ):
            answer = private(random_request(TINY, 3))
    assert revealed.call_count == 1
    ran = [stage for call in stages.call_args_list for stage in call.args[0]]
    assert ran[-1].outputs == revealed.call_args.args
    assert answer.logits.shape == (2, 2)
    # Inside, all that is opened are the values that the dealer has masked: once for each layer's GeLU.
    assert not any(b"@spu.reveal" in stage.code for stage in ran)
    openings = [stage for stage in ran if isinstance(stage, OpeningStage)]
    assert [(stage.part, len(stage.outputs)) for stage in openings] == [("gelu", 1)] * TINY.num_hidden_layers


def test_padding_changes_nothing(tiny):
    request = random_request(TINY, 4)
    wider = type(request)(*(np.pad(array, ((0, 0), (0, 16))) for array in request.arrays()))
    with PrivateModel(tiny, presets.preset("puma"), "1pc_ref2k") as private:
        short, long = private(request), private(wider)
        again = private(request)
    assert (short.seq_length, long.seq_length) == (16, 32)
    assert np.abs(short.logits - long.logits).max() <= TOLERANCE
    assert long.compile_seconds > 0 and again.compile_seconds == 0


def test_minilm_on_one_pair(minilm):
    functions = presets.preset("puma")
    with PrivateModel(minilm, functions, "2pc_semi2k") as private:
        pair = "A cat sleeps on the sofa.", "A kitten naps on the couch."
        answer = private.infer(*pair)
        expected = Plaintext(minilm, functions)(private.tokenizer.encode(pair))
    assert answer.seq_length == 16
    assert expected[0] > 0.5
    assert np.abs(answer.logits - expected).max() <= TOLERANCE
