"""Values that leave the domain of their series are reported, with their place; what padding holds is not."""

import dataclasses

import jax
import numpy as np
import pytest
from opened_bert import TINY, calibrate, opened_checkpoint, request

from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration, Range

pytest.importorskip("spu")

from secformer_jax.errors import UserError
from secformer_jax.inference.range_check import RangeCheck, Violation, check_ranges
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.openings.plan import make_plan

MODEL = opened_checkpoint(TINY)
TEXTS = request(TINY, 0)
MARGIN = presets.GELU_MARGIN


def with_range(ranges: Calibration, place: str, quantity: str, narrow: Range) -> Calibration:
    return dataclasses.replace(ranges, places={**ranges.places, place: {**ranges.places[place], quantity: narrow}})


@pytest.fixture(scope="module", params=["fast", "drop-in"])
def checked(request):
    """The check of a preset with fitting ranges, after one batch."""
    ranges, functions = calibrate(MODEL, request.param), presets.preset(request.param)
    with RangeCheck(MODEL, functions, ranges) as check:
        logits = check(TEXTS)
    return request.param, ranges, functions, check, logits


def test_nothing_to_report(checked):
    preset, ranges, functions, check, logits = checked
    assert check.violations == []
    assert np.abs(logits - Plaintext(MODEL, functions, calibration=ranges)(TEXTS)).max() <= 0.005
    seen = {(each.place, each.quantity) for each in check._seen.values()}
    expected = {("embeddings.layer_norm", "variance"), ("pooler.tanh", "input")}
    for i in range(TINY.num_hidden_layers):
        layer = f"layer.{i}"
        expected |= {(f"{layer}.{part}.layer_norm", "variance") for part in ("attention", "output")}
        expected |= {(f"{layer}.gelu", "input"), (f"{layer}.softmax", "row_mean")}
        if preset == "drop-in":
            expected |= {(f"{layer}.softmax", name) for name in ("centred_score", "square_mean_0", "square_mean_1")}
    assert seen == expected


def test_what_was_seen_is_what_plaintext_has_at_real_tokens(checked):
    preset, ranges, functions, check, _ = checked
    _, kept = Plaintext(MODEL, functions, calibration=ranges).intermediates(TEXTS)
    seen, real = {(each.place, each.quantity): each for each in check._seen.values()}, TEXTS.attention_mask == 1
    plain = {
        ("layer.0.gelu", "input"): np.asarray(kept["layer.0.gelu"])[real],
        ("embeddings.layer_norm", "variance"): np.asarray(kept["embeddings.layer_norm"])[real].var(axis=-1),
        ("layer.0.output.layer_norm", "variance"): np.asarray(kept["layer.0.output.layer_norm"])[real].var(axis=-1),
    }
    if preset == "drop-in":
        scores = np.asarray(kept["layer.0.softmax"])
        keys = np.broadcast_to(real[:, None, None, :], scores.shape)
        centred = scores - scores.mean(axis=-1, where=keys, keepdims=True)
        plain["layer.0.softmax", "centred_score"] = centred[keys & real[:, None, :, None]]
    for place, values in plain.items():
        ends = seen[place].seen_low, seen[place].seen_high
        np.testing.assert_allclose(ends, (values.min(), values.max()), rtol=0.005, atol=0.005)


def test_a_place_that_is_left(checked):
    _, ranges, functions, check, _ = checked
    seen = {(each.place, each.quantity): each for each in check._seen.values()}
    gelu = seen["layer.0.gelu", "input"]
    reach = max(-gelu.seen_low, gelu.seen_high)
    narrow = with_range(ranges, "layer.0.gelu", "input", Range(-0.5 * reach, 0.5 * reach))
    norm = seen["layer.0.output.layer_norm", "variance"]
    narrow = with_range(narrow, "layer.0.output.layer_norm", "variance", Range(norm.seen_low, norm.seen_low * 1.1))
    first, second = check_ranges(MODEL, functions, narrow, TEXTS)
    assert (first.place, first.quantity) == ("layer.0.gelu", "input")
    assert (first.low, first.high) == pytest.approx((-0.5 * reach * MARGIN, 0.5 * reach * MARGIN))
    assert max(-first.seen_low, first.seen_high) == pytest.approx(reach, abs=0.05)
    assert second.place == "layer.0.output.layer_norm" and second.seen_high > second.high > second.low


def test_padding_does_not_count():
    """A word that leaves every domain is reported as text, and not as padding."""
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.at[-1].multiply(1000.0) if path[-2].key == "word_embeddings" else leaf, MODEL.params
    )
    model, functions = dataclasses.replace(MODEL, params=params), presets.preset("fast")
    wild = TINY.vocab_size - 1
    real = TEXTS.attention_mask == 1
    with RangeCheck(model, functions, calibrate(MODEL, "fast")) as check:
        tame = np.where(TEXTS.input_ids == wild, 1, TEXTS.input_ids)
        check(dataclasses.replace(TEXTS, input_ids=np.where(real, tame, wild).astype(np.int32)))
        assert check.violations == []
        tame[2, 1] = wild
        check(dataclasses.replace(TEXTS, input_ids=tame))
        assert check.violations[0].place == "embeddings.layer_norm"


def test_wording_and_union():
    one = Violation("layer.0.gelu", "input", -21.5, 25.0, -3.0, 27.06)
    assert str(one) == "layer.0.gelu input 27.06 left [-21.5, 25]"
    both = one.union(dataclasses.replace(one, seen_low=-30.0, seen_high=0.0))
    assert str(both) == "layer.0.gelu input -30 and 27.06 left [-21.5, 25]"


def test_what_is_not_checked():
    with pytest.raises(UserError, match="fast and drop-in"):
        RangeCheck(MODEL, presets.preset("secformer"), None)
    with pytest.raises(UserError, match="secformer calibrate"):
        RangeCheck(MODEL, presets.preset("fast"), None)


def test_a_range_too_wide_for_a_series_is_refused_by_its_place():
    ranges = with_range(calibrate(MODEL, "fast"), "layer.0.softmax", "two_quad_mean", Range(0.01, 1000.0))
    with pytest.raises(UserError, match=r"layer\.0\.softmax: two_quad_mean ranges over a factor of"):
        make_plan(MODEL.config, ranges, 16)
