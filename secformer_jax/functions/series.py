"""Fourier series of a function of one variable on a bounded domain: what one masked opening evaluates.

Any smooth function on an interval has a smooth periodic extension beyond it, so a series of few harmonics fits it
there. Outside the interval the series follows that extension: it stays bounded and is not the function.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ParamSpec, cast

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions import cache_folder

P = ParamSpec("P")
Function = Callable[[np.ndarray], np.ndarray]
FIT = 1
"""Another number for another way to fit."""
_LAWSON_ROUNDS = 8
_MOST = 256
"""Harmonics of a series."""
_ROTATIONS = 32


@dataclass(frozen=True)
class Series:
    """constant + sum_k cos[k] cos(h_k w x) + sin[k] sin(h_k w x), w = 2 pi/period, h_k = harmonics[k].

    Attributes:
        period: where the series is opened a power of two (possibly below 1), so that it is reduced by a shift.
        low, high: the domain that it was fitted on.
        error: largest error there, absolute, or relative where the fit was relative.
    """

    period: float
    constant: float
    harmonics: tuple[int, ...]
    cos: tuple[float, ...]
    sin: tuple[float, ...]
    low: float
    high: float
    error: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """The series in plaintext, differentiable; same shape and type as x."""
        if len(self.harmonics) <= _ROTATIONS and len(set(np.diff(self.harmonics))) == 1:
            return self._by_rotation(x)
        angle = x[..., None] * jnp.asarray([2 * math.pi * h / self.period for h in self.harmonics], x.dtype)
        terms = jnp.cos(angle) @ jnp.asarray(self.cos, x.dtype) + jnp.sin(angle) @ jnp.asarray(self.sin, x.dtype)
        return terms + jnp.asarray(self.constant, x.dtype)

    def ends(self) -> np.ndarray:
        """The values at both ends of the domain, in float64."""
        angle = np.outer([self.low, self.high], 2 * math.pi / self.period * np.asarray(self.harmonics))
        return self.constant + np.cos(angle) @ np.asarray(self.cos) + np.sin(angle) @ np.asarray(self.sin)

    def norm(self) -> float:
        """The root of the sum of the coefficients' squares: what independent errors of the harmonics add up to."""
        return math.sqrt(sum(c * c + s * s for c, s in zip(self.cos, self.sin, strict=True)))

    def _by_rotation(self, x: jax.Array) -> jax.Array:
        """Equally spaced harmonics, each by a rotation of the one before: training's time is mostly GeLU otherwise.

        Rounding grows with their number, and so does the program: it is for few.
        """
        angle, first = (
            x * jnp.asarray(2 * math.pi * h / self.period, x.dtype)
            for h in (self.harmonics[1] - self.harmonics[0], self.harmonics[0])
        )
        (turn_cos, turn_sin), (cos, sin) = ((jnp.cos(each), jnp.sin(each)) for each in (angle, first))
        total = jnp.full_like(x, self.constant)
        for by_cos, by_sin in zip(self.cos, self.sin, strict=True):
            total += by_cos * cos + by_sin * sin
            cos, sin = cos * turn_cos - sin * turn_sin, sin * turn_cos + cos * turn_sin
        return total

    @classmethod
    def sines(cls, period: float, coefficients: Sequence[float], limit: float, error: float) -> Series:
        """sum_k coefficients[k-1] sin(2 pi k x/period), k = 1..K, good for abs(x) <= limit."""
        count = len(coefficients)
        zeros, harmonics = (0.0,) * count, tuple(range(1, count + 1))
        return cls(period, 0.0, harmonics, zeros, tuple(coefficients), -limit, limit, error)

    def scaled(self, factor: float) -> Series:
        """The same series times a positive factor; a relative error stays what it is."""
        cos, sin = tuple(factor * c for c in self.cos), tuple(factor * s for s in self.sin)
        return replace(self, constant=factor * self.constant, cos=cos, sin=sin)

    def stretched(self, factor: float) -> Series:
        """The series of x/factor."""
        return replace(self, period=self.period * factor, low=self.low * factor, high=self.high * factor)


def evaluate(x: jax.Array, series: Series) -> jax.Array:
    """A series in plaintext; under MPC a masked opening takes this function's place."""
    return series(x)


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
    penalty = ridge * np.eye(basis.shape[1]) / np.abs(y).max() * math.sqrt(points)
    weight, best, best_error = np.ones(points), np.zeros(basis.shape[1]), math.inf
    for _ in range(_LAWSON_ROUNDS):
        root = np.sqrt(weight)[:, None]
        stacked = np.concatenate([rows * root, penalty])
        solution = np.linalg.lstsq(stacked, np.concatenate([target * root[:, 0], np.zeros(len(penalty))]), rcond=None)[
            0
        ]
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
            values: dict[str, Any] = json.loads(data)
            lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
            return Series(**{**values, **lists})
        series = make(*arguments, **more)
        cache_folder.write(name, json.dumps(asdict(series)).encode())
        return series

    return cast(Callable[P, Series], fitted)


def power_of_two(value: float) -> float:
    """The smallest power of two that is at least this value."""
    return 2.0 ** math.ceil(math.log2(value))


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
    """tanh(x) on abs(x) <= 27, within 0.0005: odd sines; BERT's pooler, whose input has a few units."""
    half = fit(np.tanh, 0.0, 27.0, period=64, harmonics=range(1, 48, 2), odd=True)
    return replace(half, low=-27.0)


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
