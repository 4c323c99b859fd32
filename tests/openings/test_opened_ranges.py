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
from secformer_jax.inference.private import PrivateModel
from secformer_jax.inference.range_check import RangeCheck, Violation, check_ranges
from secformer_jax.models.checkpoint import Checkpoint
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
    # Every series, and every truncation of what is not a series' result.
    both = ("variance", "input")
    expected = {("pooler.tanh", "input"), ("head", "input"), *(("embeddings.layer_norm", name) for name in both)}
    for i in range(TINY.num_hidden_layers):
        layer = f"layer.{i}"
        expected |= {(f"{layer}.{part}.layer_norm", name) for part in ("attention", "output") for name in both}
        expected |= {(f"{layer}.{name}", "output") for name in ("query", "key", "value")}
        expected |= {(f"{layer}.gelu", "input"), *((f"{layer}.softmax", name) for name in ("row_mean", "weighted_sum"))}
        if preset == "drop-in":
            names = ("centred_score", "square_mean_0", "square_mean_1", "square_1", "numerator")
            expected |= {(f"{layer}.softmax", name) for name in names}
        else:
            expected |= {(f"{layer}.softmax", "score")}
    assert seen == expected


def test_what_was_seen_is_what_plaintext_has_at_real_tokens(checked):
    preset, ranges, functions, check, _ = checked
    _, kept = Plaintext(MODEL, functions, calibration=ranges).intermediates(TEXTS)
    seen, real = {(each.place, each.quantity): each for each in check._seen.values()}, TEXTS.attention_mask == 1
    plain = {
        **{
            (f"layer.0.{name}", "output"): np.asarray(kept[f"layer.0.{name}"])[real]
            for name in ("query", "key", "value")
        },
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


@pytest.mark.parametrize("name", ["key", "value"])
def test_a_ring_that_is_left(name):
    """Calibrated to a small part of what there is: the ring has no room for the rest, and the check says where."""
    ranges = calibrate(MODEL, "fast")
    for place in ("query", "key", "value"):
        ranges = with_range(ranges, f"layer.0.{place}", "output", Range(-0.01, 0.01))
    ranges = with_range(ranges, "layer.0.attention.layer_norm", "variance", Range(1e-5, 2e-5))
    with RangeCheck(MODEL, presets.preset("fast"), ranges) as check:
        check(TEXTS)
        left = {(each.place, each.quantity): each for each in check.violations}
    found = left[f"layer.0.{name}", "output"]
    assert max(-found.seen_low, found.seen_high) > 5 > found.high == -found.low == 1.0


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


def widths(plan) -> dict[str, int]:
    layer = plan.layers[0]
    return {
        "table": plan.table_width,
        "attention": layer.width,
        "feed_forward": layer.feed_width,
        "score": layer.softmax.score_width,
        "sums": layer.softmax.sums_width,
    }


GROWING = [
    ("embeddings.layer_norm", "variance", ("table",)),
    ("layer.0.attention.layer_norm", "variance", ("attention",)),
    ("layer.0.output.layer_norm", "variance", ("feed_forward",)),
    ("layer.0.query", "output", ("attention",)),
    ("layer.0.key", "output", ("attention",)),
    ("layer.0.value", "output", ("attention", "sums")),
    ("layer.0.softmax", "score", ("score",)),
]


@pytest.mark.parametrize(("place", "quantity", "grown"), GROWING)
def test_rings_grow_with_the_ranges_and_no_others_do(place, quantity, grown):
    """32 times the values are five bits more, from where the range itself decides; never fewer, and at most 64.

    Queries and keys are balanced: what one of them grows, both grow by half.
    """
    ranges = calibrate(MODEL, "fast")
    found = ranges.range(place, quantity)
    power = 2 if quantity == "variance" else 1
    base, far = (
        widths(make_plan(MODEL.config, with_range(ranges, place, quantity, found.scaled(factor**power)), 16))
        for factor in (64.0, 64.0 * 32)
    )
    plain = widths(make_plan(MODEL.config, ranges, 16))
    for name, width in far.items():
        more = (2, 3) if place.endswith(("query", "key")) else (5,)
        assert width - base[name] in (more if name in grown else (0,))
        assert plain[name] <= base[name] <= width <= 64


def larger(model: Checkpoint, factors: dict[str, float]) -> Checkpoint:
    """With some weights multiplied."""

    def scaled(path, leaf):
        name = "/".join(key.key for key in path)
        return leaf * next((factor for part, factor in factors.items() if part in name), 1.0)

    return dataclasses.replace(model, params=jax.tree_util.tree_map_with_path(scaled, model.params))


FAR = {
    "LayerNorm inputs of 100": ({"attention/output/dense/kernel": 60.0, "0/output/dense/kernel": 40.0}, 1e4),
    "LayerNorm inputs of 10000": ({"attention/output/dense/kernel": 6e3, "0/output/dense/kernel": 4e3}, 1e8),
    "small embeddings": (dict.fromkeys(("word_embeddings", "position_embeddings", "token_type_embeddings"), 0.01), 0.0),
    "scores of 500": ({"self/query": 250.0}, 400.0),
    "scores of 30": ({"self/query": 15.0}, 25.0),
    "values of 1000": ({"self/value": 150.0}, 900.0),
}


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
@pytest.mark.parametrize("name", FAR)
def test_far_ranges_give_a_right_answer_or_are_refused(name, preset):
    factors, reached = FAR[name]
    model, functions = larger(MODEL, factors), presets.preset(preset)
    ranges = calibrate(model, preset)
    spans = {
        "LayerNorm inputs": ("layer.0.output.layer_norm", "variance"),
        "scores": ("layer.0.softmax", "score"),
        "values": ("layer.0.value", "output"),
    }
    for start, at in spans.items():
        assert not name.startswith(start) or ranges.range(*at).high > reached
    assert_right_or_refused(model, functions, ranges, refused=preset == "fast" and name.startswith("scores"))


def assert_right_or_refused(model: Checkpoint, functions, ranges: Calibration, refused: bool) -> None:
    """In one line, before anything is shared."""
    if refused:
        with pytest.raises(UserError) as caught:
            PrivateModel(model, functions, "1pc_ref2k", calibration=ranges)
        assert "\n" not in str(caught.value) and "layer.0" in str(caught.value)
        return
    with PrivateModel(model, functions, "1pc_ref2k", calibration=ranges) as private:
        answer = private(TEXTS).logits
    expected = Plaintext(model, functions, calibration=ranges)(TEXTS)
    assert np.ptp(expected, axis=0).min() > 0.05
    assert np.abs(answer - expected).max() <= 0.005


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_queries_of_1000_with_small_keys(preset):
    """Their scores are ordinary: the weights are balanced before they get fraction bits."""
    model = larger(MODEL, {"self/query": 4000.0, "self/key": 1 / 4000})
    ranges = calibrate(model, preset)
    assert ranges.range("layer.0.query", "output").high > 1000 > 1e5 * ranges.range("layer.0.key", "output").high
    assert_right_or_refused(model, presets.preset(preset), ranges, refused=False)


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
@pytest.mark.parametrize("part", ["self/query", "self/value"])
def test_what_is_too_large_is_refused(part, preset):
    """Scores of 7500 and more, and values of 100,000."""
    model = larger(MODEL, {part: 4000.0 if part == "self/query" else 15000.0})
    assert_right_or_refused(model, presets.preset(preset), calibrate(model, preset), refused=True)


def test_texts_unlike_the_calibrations_stay_in_their_range_of_answers():
    """Three tokens over and over: no logit is wild, and the check names what is left, if anything."""
    functions, ranges = presets.preset("fast"), calibrate(MODEL, "fast")
    ids = np.tile(np.array([[5, 5, 5, 5], [7, 7, 9, 9], [1, 1, 1, 2], [30, 30, 30, 31]], np.int32), (1, 4))
    texts = dataclasses.replace(
        TEXTS, input_ids=ids, token_type_ids=np.zeros_like(ids), attention_mask=np.ones(ids.shape, np.float32)
    )
    with RangeCheck(MODEL, functions, ranges) as check:
        logits = check(texts)
        error = np.abs(logits - Plaintext(MODEL, functions, calibration=ranges)(texts)).max()
        assert error <= 0.005 or check.violations
