"""What no ring holds is refused, and the owner told what there is instead."""

import pytest

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import MARGIN, Calibration, Range
from secformer_jax.openings.decoder import plan
from secformer_jax.openings.rings import reach, ring, within


def test_a_ring_holds_what_is_truncated():
    assert ring("here", 20, 8.0) == 20 + 3 + 2
    assert ring("here", 20, 0.1) == 22
    assert within("here", 64) == 64
    with pytest.raises(UserError, match=r"here: values up to 1,099,511,627,776 take a ring of 65 bits.*preset puma"):
        ring("here", 20, 2.0**40, later=3)


def test_a_decoder_is_not_told_of_a_preset_that_it_has_not():
    ranges = Calibration("", places={"head": {"output": Range(-(2.0**60), 1.0)}})
    assert reach(ranges, "head") == MARGIN * 2.0**60
    with pytest.raises(UserError, match="take another model") as refused:
        plan.logits_width(ranges)
    assert "puma" not in str(refused.value)
