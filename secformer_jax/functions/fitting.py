"""Series of the functions that models have: weighted least squares, near the smallest largest error."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ParamSpec, cast

import numpy as np

from secformer_jax.functions import cache_folder
from secformer_jax.functions.series import Series, power_of_two

P = ParamSpec("P")
Function = Callable[[np.ndarray], np.ndarray]
FIT = 1
"""Another number for another way to fit."""
TANH_REACH = 27.0
_LAWSON_ROUNDS = 8
_MOST = 256
"""Harmonics of a series."""


def fit(
    function: Function,
    low: float,
    high: float,
    *,
    period: float,
    harmonics: Sequence[int],
    even: bool = False,
    odd: bool = False,
    relative: bool = False,
    ridge: float = 1e-7,
    give_up: float = math.inf,
) -> Series:
    """Fit a series to a function on [low, high], near the smallest largest error.

    Weighted least squares with Lawson's reweighting. The ridge term keeps coefficients small: they multiply the
    rounding of the masks.

    Args:
        function: vectorised, float64.
        low, high: the domain; its width must be below the period.
        period: see Series.
        harmonics: multiples of 2 pi/period to use.
        even: cosines alone.
        odd: sines alone, and no constant; the domain is one half of the function's.
        relative: minimise the error relative to the function.
        ridge: weight of the coefficients' squares, relative to the function's scale.
        give_up: an error from which reweighting is not worth its time.
    """
    centre, half = (high + low) / 2, (high - low) / 2
    points = max(800, 10 * len(harmonics))
    x = centre - half * np.cos(np.linspace(0, math.pi, points))
    y = function(x)
    scale = np.abs(y) if relative else np.full_like(y, np.abs(y).max())
    angle = np.outer(x, 2 * math.pi / period * np.asarray(harmonics))
    parts = ([] if odd else [np.ones((points, 1)), np.cos(angle)]) + ([] if even else [np.sin(angle)])
    basis = np.concatenate(parts, axis=1)
    rows, target = basis / scale[:, None], y / scale
    penalty, zeros = ridge * np.eye(basis.shape[1]) / np.abs(y).max() * math.sqrt(points), np.zeros(basis.shape[1])
    weight, best, best_error = np.ones(points), zeros, math.inf
    for _ in range(_LAWSON_ROUNDS):
        root = np.sqrt(weight)[:, None]
        equations, right = np.concatenate([rows * root, penalty]), np.concatenate([target * root[:, 0], zeros])
        solution = np.linalg.lstsq(equations, right, rcond=None)[0]
        miss = np.abs(rows @ solution - target)
        if miss.max() < best_error:
            best, best_error = solution, miss.max()
        if best_error > give_up:
            break
        weight = weight * (miss / miss.max() + 0.05)
        weight = weight / weight.mean()
    count = len(harmonics)
    error = best_error if relative else best_error * float(scale[0])
    sines = np.zeros(count) if even else best[-count:]
    best = np.zeros(1 + count) if odd else best
    return Series(
        float(period), float(best[0]), tuple(int(h) for h in harmonics), tuple(best[1 : 1 + count].tolist()),
        tuple(sines.tolist()), float(low), float(high), float(error),
    )  # fmt: skip


def _kept(make: Callable[P, Series]) -> Callable[P, Series]:
    """A fit is made once on this machine: hundreds of harmonics take a second, and models have hundreds of places."""

    @functools.lru_cache(maxsize=256)
    @functools.wraps(make)
    def fitted(*arguments: P.args, **more: P.kwargs) -> Series:
        name = cache_folder.key("series", FIT, np.__version__, make.__name__, arguments, sorted(more.items()))
        data = cache_folder.read(name)
        if data is not None:
            # What is beyond the bounds of series from elsewhere is fitted again.
            with contextlib.suppress(ValueError):
                return Series.from_json(json.loads(data))
        series = make(*arguments, **more)
        cache_folder.write(name, json.dumps(series.to_json()).encode())
        return series

    return cast(Callable[P, Series], fitted)


@_kept
def fit_reciprocal(low: float, high: float, tolerance: float = 2.0**-11) -> Series:
    """1/x on [low, high], relative error: the smallest of the harmonics tried that reaches the tolerance."""
    return _fewest(lambda x: 1 / x, low, high, tolerance, least=(high / low) ** 0.5)


@_kept
def fit_rsqrt(low: float, high: float, tolerance: float = 2.0**-13, *, epsilon: float = 0.0) -> Series:
    """(x + epsilon)^(-1/2) on [low, high], relative error: the fewest of the harmonics tried within the tolerance."""
    least = ((high + epsilon) / (low + epsilon)) ** 0.5
    return _fewest(lambda x: (x + epsilon) ** -0.5, low, high, tolerance, least=least)


def _fewest(
    function: Function, low: float, high: float, tolerance: float, *, least: float, ridge: float = 1e-4
) -> Series:
    period = power_of_two((high - low) * 1.15)
    series = None
    for count in (c for c in (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, _MOST) if c == _MOST or c >= least):
        # Reweighting makes the largest error two or three times smaller.
        give_up = 8 * tolerance if count < _MOST else math.inf
        fitted = range(1, count + 1)
        series = fit(function, low, high, period=period, harmonics=fitted, relative=True, ridge=ridge, give_up=give_up)
        if series.error <= tolerance:
            break
    assert series is not None
    return series


@_kept
def fit_exponential(low: float, high: float, tolerance: float = 4e-5) -> Series:
    """exp(x) on [low, high], relative error: the smallest of the harmonics tried that reaches the tolerance."""
    return _fewest(np.exp, low, high, tolerance, least=6, ridge=1e-6)


@_kept
def fit_gelu_tail(
    reach: float, tolerance: float = 1e-3, *, activation: str = "gelu", any_period: bool = False
) -> Series:
    """h(x) = gelu(x) - x/2 = x/2 erf(x/sqrt 2) on abs(x) <= reach: odd cosines alone; likewise for `_TAILS`' others.

    The periodic extension of h is a smoothed triangle wave, which is odd about a quarter of its period: so even
    harmonics vanish, and beyond the domain it saturates gently. Its smooth corners are about 3.5 wide at both ends
    (SiLU's 11), so the period is 2 (reach + 3.5); without `any_period` the next power of two. Harmonics
    grow with it.
    """
    tail, corner = _TAILS[activation]
    period = 2 * (reach + corner)
    if not any_period:
        period = power_of_two(period)
    for count in range(max(2, int(period / 5)), int(period / 3) + 4):
        harmonics = range(1, 2 * count, 2)
        half = fit(tail, 0.0, reach, period=period, harmonics=harmonics, even=True)
        series = replace(half, low=-reach)
        if series.error <= tolerance:
            return series
    return series


def widest_gelu_tail(reach: float, tolerance: float, activation: str) -> Series:
    """The same with the next power of two as its period, and good as far as that allows: no coefficient is large."""
    corner = _TAILS[activation][1]
    return fit_gelu_tail(power_of_two(2 * (reach + corner)) / 2 - corner, tolerance, activation=activation)


@functools.cache
def fit_tanh() -> Series:
    """tanh(x) on abs(x) <= `TANH_REACH`, within 0.0005: odd sines; BERT's pooler, whose input has a few units."""
    half = fit(np.tanh, 0.0, TANH_REACH, period=64, harmonics=range(1, 48, 2), odd=True)
    return replace(half, low=-TANH_REACH)


def _gelu_tail(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x / math.sqrt(2)) * x / 2


def _gelu_new_tail(x: np.ndarray) -> np.ndarray:
    return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) * x / 2


def _silu_tail(x: np.ndarray) -> np.ndarray:
    return np.tanh(x / 2) * x / 2


_TAILS: dict[str, tuple[Function, float]] = {
    "gelu": (_gelu_tail, 3.5),
    "gelu_new": (_gelu_new_tail, 3.5),
    "silu": (_silu_tail, 11.0),
}
"""By activation: h, and the width of its corners."""
