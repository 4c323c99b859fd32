"""Fourier series of a function of one variable on a bounded domain: what one masked opening evaluates.

Any smooth function on an interval has a smooth periodic extension beyond it, so a series of few harmonics fits it
there. Outside the interval the series follows that extension: it stays bounded and is not the function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST_HARMONICS, MOST_BITS = 1024, 40
"""Of a series from elsewhere: harmonics, and bits before or behind the point of its numbers."""
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

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Series:
        """The inverse of `to_json`; a KeyError, TypeError or ValueError where the values are none of `fitting`'s."""
        numbers = {name: _number(values[name]) for name in ("period", "constant", "low", "high", "error")}
        lists = [values[name] for name in ("harmonics", "cos", "sin")]
        if not all(type(each) is list for each in lists) or not len(lists[0]) == len(lists[1]) == len(lists[2]):
            raise ValueError("harmonics, cosines and sines that are not as many")
        harmonics, cos, sin = lists[0], *(tuple(map(_number, part)) for part in lists[1:])
        count = len(harmonics)
        whole = all(type(each) is int for each in harmonics) and 1 <= count <= MOST_HARMONICS
        if not whole or harmonics not in ([*range(1, count + 1)], [*range(1, 2 * count, 2)]):
            raise ValueError("harmonics that are neither the first ones nor the first odd ones")
        if numbers["period"] < 2.0**-MOST_BITS or numbers["low"] >= numbers["high"] or numbers["error"] < 0:
            raise ValueError("no period, domain or error")
        if not any((*cos, *sin)):
            raise ValueError("no coefficient but 0")
        return cls(harmonics=tuple(harmonics), cos=cos, sin=sin, **numbers)

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


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= 2.0**MOST_BITS:
        raise ValueError(f"{value!r} is no number of a series")
    return float(value)


def evaluate(x: jax.Array, series: Series) -> jax.Array:
    """A series in plaintext; under MPC a masked opening takes this function's place."""
    return series(x)


def power_of_two(value: float) -> float:
    """The smallest power of two that is at least this value."""
    return 2.0 ** math.ceil(math.log2(value))
