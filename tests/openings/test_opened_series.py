"""A series of a secret by one masked opening: its error by both ways to evaluate it, and what it sends."""

import numpy as np
import pytest
from sweeps import coefficient_sum, in_float64

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.functions.series import Series, fit_exponential, fit_gelu_tail, fit_reciprocal, fit_rsqrt
from secformer_jax.mpc.material import Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, open_together
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine

# As the opened model uses them: fraction bits of the secret, of the masks, of the public factors.
OPENED = {
    "gelu": (fit_gelu_tail(12.5), 28, 14, 15),
    "reciprocal": (fit_reciprocal(1.0, 50.0), 38, 22, 26),
    "exponential": (fit_exponential(-3.0, 3.1, 5e-5).stretched(8.0), 41, 19, 19),
    "small period": (fit_rsqrt(0.003, 0.04), 38, 25, 26),
}
DIRECT, RECURRENCE = 500, 8200


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def evaluate(engine: Engine, fitted: Series, x: np.ndarray, bits: int, mask_bits: int, public_bits: int):
    masks = abstract(
        lambda: OpenedSeries.abstract(fitted, x.shape, bits=bits, mask_bits=mask_bits, public_bits=public_bits)
    )

    def function(masks, ring):
        [opening] = open_together([masks.masked(Fixed(ring, bits))])
        return masks.finish(opening).ring

    ring = np.rint(x * 2.0**bits).astype(np.int64)
    result = run(engine, function, masks, ring)
    truth = in_float64(fitted, ring.ravel() * 2.0**-bits).reshape(x.shape)
    return np.abs(result.value * 2.0 ** -(mask_bits + public_bits) - truth).max(), result


def rounding(fitted: Series, mask_bits: int, public_bits: int, unit: float) -> float:
    """What the roundings of masks and public factors can add up to."""
    return len(fitted.harmonics) * 2.0**-mask_bits + coefficient_sum(fitted) * (2.0 ** (1 - public_bits) + unit)


@pytest.mark.parametrize("count", [DIRECT, RECURRENCE])
@pytest.mark.parametrize("name", OPENED)
def test_opened_series(engine, name, count):
    fitted, bits, mask_bits, public_bits = OPENED[name]
    width = fitted.high - fitted.low
    x = np.linspace(fitted.low - width / 10, fitted.high + width / 10, count)
    error, result = evaluate(engine, fitted, x, bits, mask_bits, public_bits)
    unit = 2.0**-23 if count == DIRECT else max(fitted.harmonics) ** 2 * 2.0**-26
    assert error <= rounding(fitted, mask_bits, public_bits, unit)
    if engine.config.protocol != "REF2K":  # one opening and nothing else, but for ABY3's sum over the harmonics
        total, extra = result.profile.total, engine.config.protocol == "ABY3" and count == DIRECT
        assert (total.send_bytes, total.send_actions) == (8 * x.size + 8 * extra, 1 + extra)


def test_shapes_and_far_values(engine):
    """Any shape; and a secret many periods away, modulo the ring."""
    fitted, *bits = OPENED["gelu"]
    x = np.linspace(-(2.0**20), 2.0**20, 24).reshape(2, 3, 4)
    error, result = evaluate(engine, fitted, x, *bits)
    assert result.value.shape == x.shape
    assert error <= rounding(fitted, *bits[1:], unit=2.0**-23)


def test_many_harmonics_do_not_take_the_recurrence():
    """Its rounding, which grows with the square of the harmonic, would be 5% of 1/1000."""
    fitted = fit_reciprocal(1.0, 1000.0)
    assert len(fitted.harmonics) == 256
    with Engine(config.load("1pc_ref2k")) as engine:
        engine.publish({})
        x = np.geomspace(fitted.low, fitted.high, RECURRENCE)
        error, _ = evaluate(engine, fitted, x, 38, 22, 26)
    assert error < 2e-5


def test_periods_and_harmonics_that_are_refused():
    def material(fitted: Series, count: int = 4):
        return abstract(lambda: OpenedSeries.abstract(fitted, (count,), bits=18, mask_bits=18, public_bits=18))

    twenty = Series.sines(20.0, (1.0, 0.5), 1.0, 0.1)
    with pytest.raises(ValueError, match=r"power of two, got 20"):
        material(twenty).deal(Randomness(), {})
    # The recurrence takes evenly spaced harmonics from 1; a few values take any.
    gaps = Series(32.0, 0.0, (1, 2, 5), (0.0,) * 3, (1.0, 0.5, 0.25), -1.0, 1.0, 0.1)
    with Engine(config.load("1pc_ref2k")) as engine:
        engine.publish({})
        error, _ = evaluate(engine, gaps, np.linspace(-1, 1, 10), 18, 18, 18)
        assert error < 2.0**-14
        with pytest.raises(ValueError, match=r"\(1, 2, 5\) are not 1, 2, 3, ... or 1, 3, 5"):
            evaluate(engine, gaps, np.linspace(-1, 1, RECURRENCE), 18, 18, 18)
