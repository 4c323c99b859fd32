"""Series: the stated error over the whole domain, coefficients that stay small, and what happens beyond the domain."""

import math

import jax
import numpy as np
import pytest
from scipy.special import erf
from sweeps import coefficient_sum, in_float64

from secformer_jax.functions import fitting
from secformer_jax.functions.fitting import fit_exponential, fit_gelu_tail, fit_reciprocal, fit_rsqrt, fit_tanh

POINTS = 20_001


def tail(x: np.ndarray) -> np.ndarray:
    """gelu(x) - x/2."""
    return x / 2 * erf(x / math.sqrt(2))


@pytest.mark.parametrize(("reach", "period", "count"), [(4.0, 16, 4), (12.5, 32, 8), (28.0, 64, 16)])
def test_gelu_tail(reach, period, count):
    fitted = fit_gelu_tail(reach)
    assert (fitted.low, fitted.high, fitted.period) == (-reach, reach, period)
    assert fitted.harmonics == tuple(range(1, 2 * count, 2)) and not any(fitted.sin)
    x = np.linspace(-reach, reach, POINTS)
    assert np.abs(in_float64(fitted, x) - tail(x)).max() <= 1.01 * fitted.error <= 1e-3
    # A triangle wave of the period: its first harmonic is period/pi^2, and beyond the domain it stays within period/4.
    assert abs(fitted.cos[0] + period / math.pi**2) < 0.02 * period and coefficient_sum(fitted) < 0.15 * period
    everywhere = in_float64(fitted, np.linspace(-4 * period, 4 * period, POINTS))
    assert everywhere.min() > -0.01 and everywhere.max() < period / 4 + 0.01
    # The corner at half the period is as round as the one at 0: up to there GeLU is off by 0.17 at most.
    beyond = np.linspace(reach, period / 2, 1001)
    assert np.abs(in_float64(fitted, beyond) - tail(beyond)).max() < 0.18


@pytest.mark.parametrize("ratio", [10, 50, 200, 1000])
@pytest.mark.parametrize(("fit", "power"), [(fit_reciprocal, -1.0), (fit_rsqrt, -0.5)])
def test_relative_fits(fit, power, ratio):
    for low in (1.0, 0.003)[: 1 if ratio > 50 else 2]:
        fitted = fit(low, low * ratio)
        x = np.concatenate([np.geomspace(low, low * ratio, POINTS), np.linspace(low, low * ratio, POINTS)])
        assert np.abs(in_float64(fitted, x) / x**power - 1).max() <= 1.02 * fitted.error
        # A ratio of 1,000 takes more harmonics than are tried, and the fit says how far it got.
        assert fitted.error <= (2.0**-11 if ratio <= 200 else 0.0125 if power == -1 else 0.003)
        assert fitted.period >= 1.15 * low * (ratio - 1) and math.log2(fitted.period).is_integer()
        # The ridge keeps the coefficients of the order of the function's largest value.
        largest = low**power
        assert max(map(abs, (*fitted.cos, *fitted.sin))) < (1.1 if ratio <= 200 else 5) * largest
        everywhere = in_float64(fitted, np.linspace(-2 * fitted.period, 2 * fitted.period, POINTS))
        assert np.abs(everywhere).max() <= abs(fitted.constant) + coefficient_sum(fitted)
        assert np.abs(everywhere).max() < (20 if ratio <= 200 else 700) * largest


@pytest.mark.parametrize(("low", "high"), [(-2.0, 3.1), (-6.0, 6.0), (-1.5, 0.7)])
@pytest.mark.parametrize("tolerance", [4e-5, 2e-6])
def test_exponential(low, high, tolerance):
    fitted = fit_exponential(low, high, tolerance)
    x = np.linspace(low, high, POINTS)
    assert np.abs(in_float64(fitted, x) / np.exp(x) - 1).max() <= 1.01 * fitted.error <= 1.02 * tolerance
    assert max(map(abs, (*fitted.cos, *fitted.sin))) < math.exp(high)
    assert np.abs(in_float64(fitted, np.linspace(-fitted.period, fitted.period, POINTS))).max() < 3 * math.exp(high)
    stretched = fitted.stretched(8.0)
    assert (stretched.low, stretched.high) == (8 * low, 8 * high)
    np.testing.assert_allclose(in_float64(stretched, 8 * x), in_float64(fitted, x), rtol=1e-9)


def test_a_fit_of_any_function():
    fitted = fitting.fit(np.tanh, -3.0, 3.0, period=8, harmonics=range(1, 9))
    x = np.linspace(-3, 3, POINTS)
    assert np.abs(in_float64(fitted, x) - np.tanh(x)).max() <= 1.01 * fitted.error < 2e-3
    np.testing.assert_allclose(np.asarray(fitted(x.astype(np.float32))), in_float64(fitted, x), atol=1e-5)
    tripled = fitted.scaled(3.0)
    np.testing.assert_allclose(in_float64(tripled, x), 3 * in_float64(fitted, x), rtol=1e-9, atol=1e-12)


def test_the_ridge_keeps_coefficients_small():
    options = {"period": 64, "harmonics": range(1, 25), "relative": True}
    loose = fitting.fit(lambda x: 1 / x, 1.0, 50.0, ridge=1e-9, **options)
    tight = fitting.fit(lambda x: 1 / x, 1.0, 50.0, ridge=1e-4, **options)
    assert coefficient_sum(tight) < coefficient_sum(loose) / 2 and tight.error < 0.01


@pytest.mark.parametrize("fitted", [fit_gelu_tail(12.5), fit_gelu_tail(40.0), fit_tanh(), fit_rsqrt(0.1, 5.0)])
def test_in_float32(fitted):
    """In plaintext, by rotation or by sines and cosines: float32's rounding of each, and no more."""
    x = np.linspace(fitted.low, fitted.high, POINTS)
    found = jax.jit(fitted)(x.astype(np.float32))
    assert found.dtype == np.float32
    assert np.abs(found - in_float64(fitted, x)).max() < 1e-5 * coefficient_sum(fitted)


FITS = {
    "reciprocal": (fit_reciprocal, (0.5, 7.25)),
    "rsqrt": (fit_rsqrt, (0.25, 7.25)),
    "exponential": (fit_exponential, (-3.25, 2.5)),
    "tail": (fit_gelu_tail, (6.125,)),
}


@pytest.mark.parametrize("fit", FITS)
def test_a_fit_is_made_once(fit, tmp_path, monkeypatch):
    """And kept for other processes; a damaged file is none."""
    (made, arguments), fits = FITS[fit], fitting.fit
    monkeypatch.setenv("SECFORMER_CACHE", str(tmp_path))
    made.cache_clear()
    first = made(*arguments)
    made.cache_clear()
    monkeypatch.setattr(fitting, "fit", None)
    assert made(*arguments) == first
    [kept] = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(fitting, "fit", fits)
    made.cache_clear()
    assert made(*arguments) == first
