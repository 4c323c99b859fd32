"""Pi_Sin for functions on SPU's own fixed point: a series of a secret by one masked opening (SecFormer)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from secformer_jax.functions.series import Series
from secformer_jax.mpc.primitives.fixed import Fixed, fixed, open_together, real, ring
from secformer_jax.mpc.primitives.series import OpenedSeries

Shape = tuple[int, ...]


@dataclass(frozen=True)
class MaskedSeries:
    """A function that evaluates a series, with the evaluation done by masked opening.

    Attributes:
        function: takes its arguments and `evaluate`, a callable (u, series) -> values that it calls once.
        series: the series; its period must be a power of two.
        shape_of: the shape of u from those of the arguments.
        fraction_bits: of the runtime's fixed-point numbers.
    """

    function: Callable
    series: Series
    shape_of: Callable[..., Shape]
    fraction_bits: int

    def material(self, *shapes: Shape) -> OpenedSeries:
        """The masks that one evaluation on arguments of these shapes consumes, abstract."""
        return OpenedSeries.abstract(
            self.series,
            self.shape_of(*shapes),
            bits=self.fraction_bits,
            mask_bits=self.fraction_bits,
            public_bits=self.fraction_bits,
        )

    def __call__(self, *arguments: jax.Array, material: OpenedSeries) -> jax.Array:
        """Evaluate on secrets, using up the material."""
        return self.function(*arguments, evaluate=lambda u, _: open_series(u, material, self.fraction_bits))


def open_series(u: jax.Array, masks: OpenedSeries, fraction_bits: int) -> jax.Array:
    """The masks' series at a secret u of the runtime: one opening, then the runtime's truncation."""
    [opening] = open_together([masks.masked(fixed(u, fraction_bits))])
    return truncated(masks.finish(opening), fraction_bits).real(fraction_bits).astype(u.dtype)


def truncated(x: Fixed, fraction_bits: int) -> Fixed:
    """x / 2^fraction_bits, within one unit: SPU's own truncation, for abs(x) < 2^62 (SEMI2K: 4 bytes a value).

    That is a multiplication by the smallest fixed-point number, which has ring element 1. As a literal it would be
    caught by an optimisation of SPU that first multiplies by 2^17: that overflows from 2^45 on and costs twice as much.
    Never truncate a truncated value at once: the compiler would multiply the two numbers, to 0.
    """
    unit = real(lax.iota(jnp.int64, 2)[1:])
    return Fixed(ring(real(x.ring) * unit.reshape((1,) * x.ring.ndim)), x.bits - fraction_bits)
