"""A Fourier series of a secret by one masked opening: SecFormer's Pi_Sin for any function of one variable.

With t uniform in [0, P) and delta = x - t modulo P opened, the angle-sum identities make each harmonic of x a sum of
public factors, cos and sin of h w delta, times shared masks, cos and sin of h w t: no comparison, no secret product.
"""

from __future__ import annotations

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ..nonlinear.series import Series
from .dealer import Material, Randomness
from .fixed import Fixed, opened_modulo, signed_modulo

_UNIT_BITS = 28
"""Public sines and cosines are integers with this many fraction bits: their products stay below 2^63."""


class OpenedSeries(Material):
    """Masks for one evaluation: t, and for each harmonic what multiplies the public cosine and sine of delta."""

    t: jax.Array
    with_cos: jax.Array
    with_sin: jax.Array
    series: Series = flax.struct.field(pytree_node=False)
    bits: int = flax.struct.field(pytree_node=False)
    mask_bits: int = flax.struct.field(pytree_node=False)
    public_bits: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, series: Series, shape, *, bits: int, mask_bits: int, public_bits: int) -> OpenedSeries:
        """Shapes for secrets of this shape with `bits` fraction bits; the result has mask_bits + public_bits."""
        zeros = jnp.zeros((len(series.harmonics), *shape), jnp.int64)
        return cls(jnp.zeros(shape, jnp.int64), zeros, zeros, series, bits, mask_bits, public_bits)

    @property
    def _modulus_bits(self) -> int:
        period_bits = math.log2(self.series.period)
        if not period_bits.is_integer():
            raise ValueError(f"masked opening needs a period that is a power of two, got {self.series.period}")
        return self.bits + int(period_bits)

    def deal(self, randomness: Randomness, resident) -> OpenedSeries:
        """Fresh masks; see Material."""
        t = randomness.bits(self.t.shape, self._modulus_bits)
        angle = t * (2 * math.pi / 2.0**self._modulus_bits)
        terms = list(zip(self.series.harmonics, self.series.cos, self.series.sin, strict=True))
        scale = 2.0**self.mask_bits

        def ring(values: np.ndarray) -> np.ndarray:
            return np.rint(values * scale).astype(np.int64)

        with_cos = [ring(a * np.cos(h * angle) + b * np.sin(h * angle)) for h, a, b in terms]
        with_sin = [ring(b * np.cos(h * angle) - a * np.sin(h * angle)) for h, a, b in terms]
        return self.replace(t=t, with_cos=np.stack(with_cos), with_sin=np.stack(with_sin))

    def masked(self, x: Fixed) -> jax.Array:
        """What to open: x - t modulo the period, uniform whatever x is."""
        return opened_modulo(x.ring - self.t, self._modulus_bits)

    def delta(self, opening: jax.Array) -> jax.Array:
        """x - t modulo the period, from the opened value: a public integer with `bits` fraction bits."""
        return signed_modulo(opening, self._modulus_bits)

    def finish(self, opening: jax.Array) -> Fixed:
        """The series at x, from the opened value; no message, untruncated."""
        delta = self.delta(opening)
        many = delta.size > 1 << 13
        total = self._by_recurrence(delta) if many else self._directly(delta)
        bits = self.mask_bits + self.public_bits
        constant = round(self.series.constant * 2.0**bits)
        return Fixed(total + np.int64((constant + 2**63) % 2**64 - 2**63), bits)

    def _directly(self, delta: jax.Array) -> jax.Array:
        """Every harmonic's sine from its own polynomial: no error that grows with the harmonic."""
        harmonic = jnp.asarray(self.series.harmonics, jnp.int64).reshape(-1, *[1] * delta.ndim)
        drop = 64 - self._modulus_bits
        turn = ((harmonic * delta) << drop) >> drop
        cosine, sine = _cos_sin(_unit(turn, self._modulus_bits - 1))
        shift = _UNIT_BITS - self.public_bits
        return jnp.sum((cosine >> shift) * self.with_cos + (sine >> shift) * self.with_sin, axis=0)

    def _by_recurrence(self, delta: jax.Array) -> jax.Array:
        """Chebyshev's recurrence over evenly spaced harmonics: two products each, for large arrays."""
        first, step = self.series.harmonics[0], 2 if self.series.harmonics[1:2] == (3,) else 1
        if self.series.harmonics != tuple(range(first, first + step * len(self.series.harmonics), step)) or first != 1:
            raise ValueError(f"harmonics {self.series.harmonics} are not 1, 2, 3, ... or 1, 3, 5, ...")
        cosine, sine = _cos_sin(_unit(delta, self._modulus_bits - 1))
        one = 1 << _UNIT_BITS
        double = 2 * _times(cosine, cosine) - one if step == 2 else cosine
        # The terms before the first: h = 1 - step, which is -1 or 0.
        previous = (cosine, -sine) if step == 2 else (jnp.full_like(cosine, one), jnp.zeros_like(sine))
        current, shift, terms = (cosine, sine), _UNIT_BITS - self.public_bits, []
        for k in range(len(self.series.harmonics)):
            terms.append((current[0] >> shift) * self.with_cos[k] + (current[1] >> shift) * self.with_sin[k])
            following = tuple(2 * _times(double, now) - before for now, before in zip(current, previous, strict=True))
            previous, current = current, (following[0], following[1])
        return functools.reduce(jnp.add, terms)


def _unit(turn: jax.Array, bits: int) -> jax.Array:
    """An integer in [-2^bits, 2^bits) as a number in [-1, 1) with _UNIT_BITS fraction bits."""
    return turn >> (bits - _UNIT_BITS) if bits >= _UNIT_BITS else turn << (_UNIT_BITS - bits)


def _times(x: jax.Array, y: jax.Array) -> jax.Array:
    return (x * y) >> _UNIT_BITS


def _cos_sin(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos(pi z) and sin(pi z) for public z in [-1, 1): polynomials in z^2, within 2^-24."""
    square = _times(z, z)
    return _polynomial(square, _cosine_coefficients()), _times(z, _polynomial(square, _sine_coefficients()))


def _polynomial(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    integers = [round(c * (1 << _UNIT_BITS)) for c in coefficients]
    total = jnp.full_like(x, integers[-1])
    for coefficient in integers[-2::-1]:
        total = _times(total, x) + coefficient
    return total


@functools.cache
def _sine_coefficients() -> tuple[float, ...]:
    return _even_fit(lambda z: math.pi * np.sinc(z), 7)


@functools.cache
def _cosine_coefficients() -> tuple[float, ...]:
    return _even_fit(lambda z: np.cos(math.pi * z), 8)


def _even_fit(function, terms: int) -> tuple[float, ...]:
    """Coefficients in z^2 of a polynomial through the function at Chebyshev's nodes."""
    nodes = (np.cos(math.pi * (np.arange(terms) + 0.5) / terms) + 1) / 2
    return tuple(np.linalg.solve(np.vander(nodes, terms, increasing=True), function(np.sqrt(nodes))).tolist())
