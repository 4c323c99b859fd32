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

from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, opened_modulo, signed_modulo
from secformer_jax.mpc.runtime.local import local

FINE_BITS = 28
"""Fraction bits that public sines and cosines can have: their products stay below 2^63."""

_DEALT_TOGETHER = 1 << 15
"""Values whose masks the dealer computes at a time: they fit a core's cache."""

_MOST_BY_RECURRENCE = 64
"""The recurrence's rounding grows with the square of the harmonic: with more, each sine has its own polynomial."""


class OpenedSeries(Material):
    """Masks for one evaluation: t, and for each harmonic what multiplies the public cosine and sine of delta."""

    t: jax.Array
    with_cos: jax.Array
    with_sin: jax.Array
    series: Series = flax.struct.field(pytree_node=False)
    bits: int = flax.struct.field(pytree_node=False)
    mask_bits: int = flax.struct.field(pytree_node=False)
    public_bits: int = flax.struct.field(pytree_node=False)
    trigonometry_bits: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(
        cls, series: Series, shape, *, bits: int, mask_bits: int, public_bits: int, trigonometry_bits: int = FINE_BITS
    ) -> OpenedSeries:
        """Shapes for secrets of this shape; the result has mask_bits + public_bits fraction bits.

        Args:
            series: what to evaluate.
            shape: of the secrets.
            bits: their fraction bits.
            mask_bits: those of the masks.
            public_bits: those of the public factors.
            trigonometry_bits: those that the public factors are computed with; the recurrence loses some for each
                harmonic. Where it is public_bits, a shift of every factor is saved.
        """
        zeros = jnp.zeros((len(series.harmonics), *shape), jnp.int64)
        t = jnp.zeros(shape, jnp.int64)
        return cls(t, zeros, zeros, series, bits, mask_bits, public_bits, trigonometry_bits)

    @property
    def _modulus_bits(self) -> int:
        period_bits = math.log2(self.series.period)
        if not period_bits.is_integer():
            raise ValueError(f"masked opening needs a period that is a power of two, got {self.series.period}")
        return self.bits + int(period_bits)

    def deal(self, randomness: Randomness, resident) -> OpenedSeries:
        """Fresh masks; see Material."""
        # Uniform over the whole ring, and so modulo the period, which is all that its users look at.
        t = randomness.bits(self.t.shape)
        masks = np.empty((2, *self.with_cos.shape), np.int64)
        flat = masks.reshape(2, len(self.series.harmonics), -1)
        for start in range(0, t.size, _DEALT_TOGETHER):
            part = np.s_[start : start + _DEALT_TOGETHER]
            self._fill(flat[:, :, part], t.reshape(-1)[part])
        return self.replace(t=t, with_cos=masks[0], with_sin=masks[1])

    def _fill(self, masks: np.ndarray, t: np.ndarray) -> None:
        """Write a cos + b sin and b cos - a sin of each harmonic of t: the parts of (a - ib) e^(i h w t).

        Harmonic by harmonic from the last one: float64 loses less than 2^-40 over hundreds of them.
        """
        angle = (t & ((1 << self._modulus_bits) - 1)) * (2j * math.pi / 2.0**self._modulus_bits)
        wave, last, turns = np.ones(t.shape, complex), 0, {}
        for k, (h, a, b) in enumerate(zip(self.series.harmonics, self.series.cos, self.series.sin, strict=True)):
            if h - last not in turns:
                turns[h - last] = np.exp((h - last) * angle)
            wave, last = wave * turns[h - last], h
            term = wave * (complex(a, -b) * 2.0**self.mask_bits)
            masks[0, k], masks[1, k] = np.rint(term.real), np.rint(-term.imag)

    def masked(self, x: Fixed) -> jax.Array:
        """What to open: x - t modulo the period, uniform whatever x is."""
        return opened_modulo(x.ring - self.t, self._modulus_bits)

    def delta(self, opening: jax.Array) -> jax.Array:
        """x - t modulo the period, from the opened value: a public integer with `bits` fraction bits."""
        return signed_modulo(opening, self._modulus_bits)

    def finish(self, opening: jax.Array) -> Fixed:
        """The series at x, from the opened value; no message, untruncated."""
        delta = self.delta(opening)
        many = delta.size > 1 << 13 and len(self.series.harmonics) <= _MOST_BY_RECURRENCE
        total = local(self._by_recurrence)(delta, self.with_cos, self.with_sin) if many else self._directly(delta)
        bits = self.mask_bits + self.public_bits
        constant = round(self.series.constant * 2.0**bits)
        return Fixed(total + np.int64((constant + 2**63) % 2**64 - 2**63), bits)

    def _directly(self, delta: jax.Array) -> jax.Array:
        """Every harmonic's sine from its own polynomial: no error that grows with the harmonic."""
        harmonic = jnp.asarray(self.series.harmonics, jnp.int64).reshape(-1, *[1] * delta.ndim)
        drop = 64 - self._modulus_bits
        turn = ((harmonic * delta) << drop) >> drop
        cosine, sine = _cos_sin(_unit(turn, self._modulus_bits - 1, FINE_BITS), FINE_BITS)
        shift = FINE_BITS - self.public_bits
        return jnp.sum((cosine >> shift) * self.with_cos + (sine >> shift) * self.with_sin, axis=0)

    def _by_recurrence(self, delta: jax.Array, with_cos: jax.Array, with_sin: jax.Array) -> jax.Array:
        """Chebyshev's recurrence over evenly spaced harmonics: two products each, for large arrays."""
        first, step = self.series.harmonics[0], 2 if self.series.harmonics[1:2] == (3,) else 1
        if self.series.harmonics != tuple(range(first, first + step * len(self.series.harmonics), step)) or first != 1:
            raise ValueError(f"harmonics {self.series.harmonics} are not 1, 2, 3, ... or 1, 3, 5, ...")
        bits = self.trigonometry_bits
        cosine, sine = _cos_sin(_unit(delta, self._modulus_bits - 1, bits), bits)
        double = (4 * _times(cosine, cosine, bits) - (2 << bits)) if step == 2 else 2 * cosine
        # c(h + step) = double c(h) - c(h - step). For u = +-c with the signs + + - - in turn, that is +-double u + u:
        # an addition, where a subtraction costs SPU two passes. The terms with a minus are summed apart.
        doubles = double, -double
        before = (-cosine, sine) if step == 2 else (jnp.full_like(cosine, -(1 << bits)), jnp.zeros_like(sine))
        now, shift = (cosine, sine), bits - self.public_bits
        sums: tuple[list[jax.Array], list[jax.Array]] = ([], [])
        for k in range(len(self.series.harmonics)):
            negative = k % 4 in (2, 3)
            factors = [factor >> shift if shift else factor for factor in now]
            sums[negative].append(factors[0] * with_cos[k] + factors[1] * with_sin[k])
            sign = doubles[k % 2]
            now, before = (_times(sign, now[0], bits) + before[0], _times(sign, now[1], bits) + before[1]), now
        total = functools.reduce(jnp.add, sums[0])
        return total - functools.reduce(jnp.add, sums[1]) if sums[1] else total


def _unit(turn: jax.Array, turn_bits: int, bits: int) -> jax.Array:
    """An integer in [-2^turn_bits, 2^turn_bits) as a number in [-1, 1) with `bits` fraction bits."""
    return turn >> (turn_bits - bits) if turn_bits >= bits else turn << (bits - turn_bits)


def _times(x: jax.Array, y: jax.Array, bits: int) -> jax.Array:
    return (x * y) >> bits


def _cos_sin(z: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """cos(pi z) and sin(pi z) for public z in [-1, 1): polynomials in z^2, within 2^-22."""
    square = _times(z, z, bits)
    cosine, sine = (_polynomial(square, c, bits) for c in (_cosine_coefficients(), _sine_coefficients()))
    return cosine, _times(z, sine, bits)


def _polynomial(x: jax.Array, coefficients: tuple[float, ...], bits: int) -> jax.Array:
    integers = [round(c * (1 << bits)) for c in coefficients]
    total = integers[-1] * x >> bits
    for coefficient in integers[-2:0:-1]:
        total = _times(total + coefficient, x, bits)
    return total + integers[0]


@functools.cache
def _sine_coefficients() -> tuple[float, ...]:
    return _even_fit(lambda z: math.pi * np.sinc(z), 7)


@functools.cache
def _cosine_coefficients() -> tuple[float, ...]:
    return _even_fit(lambda z: np.cos(math.pi * z), 7)


def _even_fit(function, terms: int) -> tuple[float, ...]:
    """Coefficients in z^2 of a polynomial through the function at Chebyshev's nodes."""
    nodes = (np.cos(math.pi * (np.arange(terms) + 0.5) / terms) + 1) / 2
    return tuple(np.linalg.solve(np.vander(nodes, terms, increasing=True), function(np.sqrt(nodes))).tolist())
