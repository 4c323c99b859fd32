"""Pi_Sin for functions on SPU's own fixed point: a series of a secret by one masked opening (SecFormer)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from secformer_jax.functions.series import Series
from secformer_jax.mpc.primitives.fixed import fixed, open_together, truncated
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
    """The masks' series at a secret u of the runtime: one opening of 8 bytes a value, then its truncation."""
    [opening] = open_together([masks.masked(fixed(u, fraction_bits))])
    [result] = truncated([masks.finish(opening)], fraction_bits)
    return result.real(fraction_bits).astype(u.dtype)
