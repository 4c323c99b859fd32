"""A series of a secret by one masked opening: its error by both ways to evaluate it, and what it sends."""

import numpy as np
import pytest
from sweeps import in_float64

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.functions.fitting import fit_exponential, fit_gelu_tail, fit_reciprocal, fit_rsqrt
from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, open_together
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.shares import packed_bytes

# As the opened model uses them: bits that are opened of the fraction, those of the masks, of the public factors.
OPENED = {
    "gelu": (fit_gelu_tail(12.5), 19, 12, 14),
    "reciprocal": (fit_reciprocal(1.0, 50.0), 38, 20, 23),
    "exponential": (fit_exponential(-3.0, 3.1, 5e-5).stretched(8.0), 18, 18, 20),
    "small period": (fit_rsqrt(0.003, 0.04), 38, 20, 23),
}
FEW, MANY = 500, 20000
UNIT = 2.0**-35
"""What the rounding of float64 adds, to any number of harmonics."""


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def material(fitted: Series, shape: tuple[int, ...], bits: int, mask_bits: int, public_bits: int, **more):
    return abstract(
        lambda: OpenedSeries.abstract(fitted, shape, bits=bits, mask_bits=mask_bits, public_bits=public_bits, **more)
    )


def evaluate(engine: Engine, masks: OpenedSeries, x: np.ndarray, more_bits: int = 0, width: int = 64):
    """Largest error, and the result of a secret with some more fraction bits than are opened, in a ring of its own."""
    bits = masks.bits + more_bits

    def function(masks, ring):
        [opening] = open_together([masks.masked(Fixed(ring, bits, width))])
        found = masks.finish(opening)
        return found.ring << (64 - found.width)

    ring = np.rint(x * 2.0**bits).astype(np.int64)
    result = run(engine, function, masks, ring)
    found = result.value * 2.0 ** -(64 - masks.width + masks.mask_bits + masks.public_bits)
    truth = in_float64(masks.series, ring.ravel() * 2.0**-bits).reshape(x.shape)
    return np.abs(found - truth).max(), result


def rounding(masks: OpenedSeries) -> float:
    """What the roundings of masks and public factors can add up to; those of a part may be coarser."""
    total = (len(masks.series.harmonics) + 1) * 2.0**-masks.mask_bits
    for part in masks.parts:
        chosen = np.s_[part.first : part.first + part.with_cos.shape[0]]
        sizes = np.abs(masks.series.cos[chosen]).sum() + np.abs(masks.series.sin[chosen]).sum()
        total += sizes * (2.0 ** (1 + part.dropped - masks.public_bits) + UNIT)
    return total


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("name", OPENED)
def test_opened_series(engine, name, count):
    fitted, *bits = OPENED[name]
    width = fitted.high - fitted.low
    x = np.linspace(fitted.low - width / 10, fitted.high + width / 10, count)
    masks = material(fitted, x.shape, *bits)
    error, result = evaluate(engine, masks, x)
    assert error <= rounding(masks)
    if engine.config.protocol != "REF2K":  # one opening, of the bits of one period in whole bytes, and nothing else
        sent = packed_bytes(count, bits[0] + int(np.log2(fitted.period)))
        assert (result.profile.total.send_bytes, result.profile.total.send_actions) == (sent, 1)


@pytest.mark.parametrize("width", [49, 43, 41, 36])
def test_coarse_factors_in_narrow_rings(engine, width):
    """Of the higher harmonics, whose coefficients are small: their masks have whole bytes less."""
    fitted, *bits = OPENED["gelu"]
    masks = material(fitted, (FEW,), *bits, width=width, coarse=True)
    coarse = masks.parts[-1]
    assert coarse.dropped == (width - 1) % 8 + 1 and coarse.width == width - coarse.dropped and coarse.width % 8 == 0
    assert sum(part.with_cos.shape[0] for part in masks.parts) == len(fitted.harmonics)
    error, _ = evaluate(engine, masks, np.linspace(fitted.low, fitted.high, FEW))
    assert error <= rounding(masks) <= 0.005


def test_low_bits_are_rounded_before_the_opening(engine):
    """The secret has nine more fraction bits than are opened, and a ring that is little wider than the period."""
    fitted, *bits = OPENED["gelu"]
    masks = material(fitted, (FEW,), *bits)
    error, result = evaluate(engine, masks, np.linspace(fitted.low, fitted.high, FEW), 9, 34)
    # The slope is at most 0.63; three shares are rounded to within one and a half units.
    assert error <= rounding(masks) + 0.63 * 1.5 * 2.0 ** -bits[0]
    if engine.config.protocol != "REF2K":
        assert result.profile.total.send_bytes == 3 * FEW


def test_shapes_and_far_values(engine):
    """Any shape; and a secret many periods away, modulo the ring."""
    fitted, *bits = OPENED["gelu"]
    x = np.linspace(-(2.0**20), 2.0**20, 24).reshape(2, 3, 4)
    masks = material(fitted, x.shape, *bits)
    error, result = evaluate(engine, masks, x)
    assert result.value.shape == x.shape
    assert error <= rounding(masks)


@pytest.mark.parametrize("count", [FEW, MANY])
def test_many_harmonics(count):
    """Neither the dealer's recurrence nor the parties' own evaluation loses anything over hundreds of them."""
    fitted = fit_reciprocal(1.0, 1000.0)
    assert len(fitted.harmonics) == 256
    with Engine(config.load("1pc_ref2k")) as engine:
        engine.publish({})
        x = np.geomspace(fitted.low, fitted.high, count)
        error, _ = evaluate(engine, material(fitted, x.shape, 38, 22, 26), x)
    assert error < 1e-5


@pytest.mark.parametrize("count", [FEW, MANY])
def test_any_harmonics(count):
    gaps = Series(32.0, 0.25, (1, 2, 5, 40), (0.0,) * 4, (1.0, 0.5, 0.25, 0.125), -1.0, 1.0, 0.1)
    with Engine(config.load("1pc_ref2k")) as engine:
        engine.publish({})
        masks = material(gaps, (count,), 18, 18, 18)
        error, _ = evaluate(engine, masks, np.linspace(-1, 1, count))
        assert error <= rounding(masks) < 2.0**-14


def test_periods_and_rings_that_are_refused():
    twenty = Series.sines(20.0, (1.0, 0.5), 1.0, 0.1)
    with pytest.raises(ValueError, match=r"power of two, got 20"):
        material(twenty, (4,), 18, 18, 18).deal(Randomness(), {})
    masks = material(fit_gelu_tail(12.5), (4,), 19, 12, 14)
    with pytest.raises(ValueError, match=r"period of 32.0 doesn't fit a ring of 4 integer bits"):
        masks.masked(Fixed(np.zeros(4, np.int64), 28, 32))
