"""Ranges recorded, files kept and refused, and the constants that follow."""

import json
import math

import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.functions import goldschmidt
from secformer_jax.functions.calibration import ROUNDED_BITS, Calibration, Range, load, load_all, save
from secformer_jax.functions.deflation import choose_reciprocal, choose_rsqrt
from secformer_jax.functions.measure import update
from secformer_jax.mpc.int64 import enable_x64


def batch(scale: float = 1.0):
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    return {
        "embeddings.layer_norm": rng.normal(size=(2, 4, 8)) * scale,
        "layer.0.softmax": rng.normal(size=(2, 3, 4, 4)) * scale,
        "layer.0.attention.layer_norm": rng.normal(size=(2, 4, 8)) * scale,
        "layer.0.gelu": rng.normal(size=(2, 4, 16)) * scale,
        "layer.0.output.layer_norm": rng.normal(size=(2, 4, 8)) * scale,
        "layer.0.hidden_states": rng.normal(size=(2, 4, 8)),
    }, mask


def test_update_records_every_place_and_merges():
    values, mask = batch()
    one = update(None, values, mask, fingerprint="abc")
    assert {place: set(ranges) for place, ranges in one.places.items()} == {
        "embeddings.layer_norm": {"variance"},
        "layer.0.softmax": {"score", "centred_score", "two_quad_mean"},
        "layer.0.attention.layer_norm": {"variance"},
        "layer.0.gelu": {"input"},
        "layer.0.output.layer_norm": {"variance"},
    }
    pre_gelu = values["layer.0.gelu"]
    assert one.range("layer.0.gelu", "input") == Range(pre_gelu.min(), pre_gelu.max())
    two = update(one, batch(3.0)[0], mask)
    assert (two.fingerprint, two.sentences, two.max_length) == ("abc", 4, 4)
    assert two.range("layer.0.gelu", "input").high == pytest.approx(3 * pre_gelu.max())
    assert two.range("embeddings.layer_norm", "variance").low == one.range("embeddings.layer_norm", "variance").low


def test_padded_keys_do_not_count_and_padded_rows_do():
    values, mask = batch()
    scores = values["layer.0.softmax"]
    scores[0, :, :, 2:] = 1000.0  # padded keys
    scores[0, :, 3, :2] = 50.0  # real keys of a padded query
    seen = update(None, values, mask)
    assert seen.range("layer.0.softmax", "score").high == 50.0
    assert seen.range("layer.0.softmax", "two_quad_mean").high == 55.0**2
    values["layer.0.gelu"][0, 3, 0] = 77.0  # a padded position
    assert update(None, values, mask).range("layer.0.gelu", "input").high == 77.0


def test_not_finite_is_refused():
    values, mask = batch()
    values["layer.0.gelu"][0, 0, 0] = np.nan
    with pytest.raises(UserError, match="finite"):
        update(None, values, mask)


def test_save_and_load(tmp_path):
    exact = update(None, *batch(), fingerprint="abc", family="exact/exact")
    quad = update(None, *batch(3.0), fingerprint="abc", family="quad/two_quad")
    path = save([exact, quad], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]
    assert load(path, family="exact/exact") == exact
    assert load(tmp_path, fingerprint="abc", family="quad/two_quad") == quad
    with pytest.raises(UserError, match=r"no ranges of exact/two_quad functions, only exact/exact, quad/two_quad"):
        load(path, family="exact/two_quad")


def test_saving_keeps_other_families_of_the_same_model(tmp_path):
    save([update(None, *batch(), fingerprint="abc", family="exact/exact")], tmp_path)
    again = update(None, *batch(), fingerprint="abc", family="exact/two_quad")
    save([again], tmp_path)
    assert set(load_all(tmp_path)) == {"exact/exact", "exact/two_quad"}
    other = update(None, *batch(), fingerprint="xyz", family="exact/two_quad")
    assert load_all(save([other], tmp_path)) == {"exact/two_quad": other}
    with pytest.raises(ValueError, match="one model"):
        save([again, other], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"calibration\.json can't be written"):
        save([update(None, *batch(), fingerprint="abc", family="exact/exact")], tmp_path / "no" / "calibration.json")


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="secformer calibrate"):
        load_all(tmp_path)
    seen = update(None, *batch(), fingerprint="abc", family="exact/exact")
    path = save([seen], tmp_path / "calibration.json")
    with pytest.raises(UserError, match="another model"):
        load_all(path, fingerprint="xyz")
    stored = json.loads(path.read_text())
    values = stored["families"]["exact/exact"]
    bad = ({"layer.0.gelu": {"input": {"low": 2, "high": 1}}}, {"layer.0.gelu": 3})
    broken = [
        "{",
        "[]",
        "{}",
        json.dumps({**stored, "format": 1}),
        json.dumps({**stored, "families": []}),
        *(json.dumps({**stored, "families": {"exact/exact": {**values, "places": places}}}) for places in bad),
    ]
    for text in broken:
        path.write_text(text)
        with pytest.raises(UserError, match=r"calibration\.json") as error:
            load_all(path)
        assert "\n" not in str(error.value)


def test_check_refuses_another_family_and_a_greater_length():
    seen = update(None, *batch(), family="exact/exact")
    seen.check("exact/exact", 4)
    with pytest.raises(UserError, match="of exact/exact functions, and these are quad/exact"):
        seen.check("quad/exact", 4)
    with pytest.raises(UserError, match=r"up to 4 tokens, .* padded to 8: .*--max-length 8"):
        seen.check("exact/exact", 8)


def test_a_missing_place_is_named():
    with pytest.raises(UserError, match=r"variance at layer\.7"):
        update(None, *batch()).range("layer.7.output.layer_norm", "variance")


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0025, 0.044), (0.09, 195.0), (3.0, 80.0), (0.01, 10.0)])
def test_chosen_constants_reach_the_tolerance_with_no_step_to_spare(low, high):
    q = np.geomspace(low, high, 1001)

    def errors(choose, function, power, spared=0):
        deflation, steps = choose(Range(low, high))
        with enable_x64():
            return np.abs(function(q, deflation=deflation, steps=steps - spared) * q**power - 1).max()

    for choose, function, power, limit in (
        (choose_reciprocal, goldschmidt.reciprocal, 1.0, 2.0),
        (choose_rsqrt, goldschmidt.rsqrt, 0.5, 3.0),
    ):
        deflation, steps = choose(Range(low, high))
        assert 0 < high < limit * deflation
        assert errors(choose, function, power) <= 2.0**-10
        assert steps == 1 or errors(choose, function, power, spared=1) > 2.0**-13


def test_constants_need_positive_values():
    for choose in (choose_reciprocal, choose_rsqrt):
        with pytest.raises(ValueError, match="positive"):
            choose(Range(-2.0, -1.0))
        assert choose(Range(0.0, 1.0))[1] < 40


@pytest.mark.parametrize(
    "low, high", [(-3.1415926, 2.7182818), (0.0, 1e-9), (-1e6, -3.0), (1.0, 1.0), (-0.0, 12345.678)]
)
def test_published_ranges_hold_the_measured_ones_and_are_no_fingerprint(low, high):
    found = Calibration("hash", "exact", 1, 16, {"layer.0.gelu": {"input": Range(low, high)}}).published()
    rounded = found.range("layer.0.gelu", "input")
    assert rounded.low <= low and rounded.high >= high and not found.fingerprint
    for exact, end in ((low, rounded.low), (high, rounded.high)):
        assert abs(end - exact) <= abs(exact) / 2 ** (ROUNDED_BITS - 1)
        # Few values are left: a change of the weights rarely shows.
        assert math.frexp(end)[0] * 2**ROUNDED_BITS == round(math.frexp(end)[0] * 2**ROUNDED_BITS)
    assert rounded.rounded() == rounded
    near = Range(low * (1 - 1e-6 * (low > 0)), high * (1 - 1e-6 * (high > 0))).rounded()
    assert low == high or near == rounded
