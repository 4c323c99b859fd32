"""Pi_Sin: a sine series of a secret by one masked opening (SecFormer, section 3 and Algorithm 1), generalised.

With period P = 2^p and f fraction bits the dealer shares t, uniform in [0, P) on the fixed-point grid, and cos and sin
of each harmonic of t. The parties open delta = x - t modulo P, which is uniform whatever x is, and the angle-sum
identities give every harmonic of x as a public factor times a shared mask: one opening for all harmonics, no
multiplication of two secrets, one truncation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from spu import experimental

from ..nonlinear.fourier import SineSeries
from .dealer import Material, Randomness

RING_BITS = 64


class SeriesMasks(Material):
    """Masks for one evaluation: t, and b_k cos(2 pi k t/P) and b_k sin(2 pi k t/P), k = 1..K on a leading axis."""

    t: jax.Array
    cos: jax.Array
    sin: jax.Array
    series: SineSeries = flax.struct.field(pytree_node=False)
    fraction_bits: int = flax.struct.field(pytree_node=False)

    def deal(self, randomness: Randomness, resident: Mapping[str, np.ndarray]) -> SeriesMasks:
        """Fresh masks; see Material."""
        period_bits = _period_bits(self.series)
        t = randomness.bits(self.t.shape, period_bits + self.fraction_bits)
        angle = t * (2 * math.pi / 2 ** (period_bits + self.fraction_bits))
        terms = [(k * angle, b * 2**self.fraction_bits) for k, b in enumerate(self.series.coefficients, 1)]
        cos = np.stack([np.rint(np.cos(a) * scale).astype(np.int64) for a, scale in terms])
        sin = np.stack([np.rint(np.sin(a) * scale).astype(np.int64) for a, scale in terms])
        return self.replace(t=t, cos=cos, sin=sin)


@dataclass(frozen=True)
class MaskedSeries:
    """A function of x that evaluates a sine series, with the evaluation done by masked opening.

    Attributes:
        function: takes x and `sine_series`, a callable (u, series) -> values.
        series: the series that it evaluates; its period must be a power of two.
        fraction_bits: of the runtime's fixed-point numbers.
    """

    function: Callable
    series: SineSeries
    fraction_bits: int

    def material(self, shape: tuple[int, ...]) -> SeriesMasks:
        """The masks that one evaluation on values of this shape consumes, abstract."""
        harmonics = (len(self.series.coefficients), *shape)
        return SeriesMasks(
            t=jnp.zeros(shape, jnp.int64),
            cos=jnp.zeros(harmonics, jnp.int64),
            sin=jnp.zeros(harmonics, jnp.int64),
            series=self.series,
            fraction_bits=self.fraction_bits,
        )

    def __call__(self, x: jax.Array, *, material: SeriesMasks) -> jax.Array:
        """Evaluate on a secret x, using up the material."""
        return self.function(x, sine_series=lambda u, _: open_sine_series(u, material))


def open_sine_series(u: jax.Array, masks: SeriesMasks) -> jax.Array:
    """The masks' series at a secret u (any shape): one opening of 8 bytes a value, one truncation."""
    delta = masked_difference(u, masks.t, _period_bits(masks.series), masks.fraction_bits)
    theta = delta * (2 * math.pi / masks.series.period)
    factors = harmonics(theta, len(masks.series.coefficients))
    # A public factor taken as an integer multiplies the mask without a truncation: one at the end serves all terms.
    terms = [ring(sine) * masks.cos[k] + ring(cosine) * masks.sin[k] for k, (cosine, sine) in enumerate(factors)]
    total = functools.reduce(jnp.add, terms)
    return real(truncate(total), u.dtype)


def masked_difference(x: jax.Array, t: jax.Array, period_bits: int, fraction_bits: int) -> jax.Array:
    """Open delta = x - t modulo 2^period_bits, in [-P/2, P/2): public, and uniform if t is.

    The shift to the left drops the high bits of the difference before it is opened, so that nothing else is revealed.
    """
    dropped = RING_BITS - period_bits - fraction_bits
    opened = experimental.reveal((ring(x) - t) << dropped)
    return real(opened >> dropped, jnp.float64)


def harmonics(theta: jax.Array, count: int) -> list[tuple[jax.Array, jax.Array]]:
    """(cos(k theta), sin(k theta)) for k = 1..count, for public theta in [-pi, pi): one cosine and one sine in all."""
    cosine, sine = jnp.cos(theta), jnp.sin(theta)
    result = [(jnp.ones_like(theta), jnp.zeros_like(theta)), (cosine, sine)]
    for _ in range(count - 1):
        (c0, s0), (c1, s1) = result[-2:]
        result.append((2 * cosine * c1 - c0, 2 * cosine * s1 - s0))
    return result[1:]


def truncate(x: jax.Array) -> jax.Array:
    """Ring elements divided by 2^fraction_bits, within one unit: SPU's own truncation, for abs(x) < 2^62.

    That is a multiplication by the smallest fixed-point number, which has ring element 1. As a literal it would be
    caught by an optimisation of SPU that first multiplies by 2^17: that overflows from 2^45 on and costs twice as much.
    """
    unit = lax.bitcast_convert_type(lax.iota(jnp.int64, 2)[1:], jnp.float64)
    return ring(real(x, jnp.float64) * unit.reshape((1,) * x.ndim))


def ring(x: jax.Array) -> jax.Array:
    """The ring elements behind fixed-point values: a reinterpretation, not a conversion."""
    return lax.bitcast_convert_type(x.astype(jnp.float64), jnp.int64)


def real(x: jax.Array, dtype) -> jax.Array:
    """Ring elements read as fixed-point values: the inverse of `ring`."""
    return lax.bitcast_convert_type(x, jnp.float64).astype(dtype)


def _period_bits(series: SineSeries) -> int:
    bits = math.log2(series.period)
    if not bits.is_integer():
        raise ValueError(f"masked opening needs a period that is a power of two, got {series.period}")
    return int(bits)
