"""What every module of the opened model can declare: weights that stay, and dealer material for one request."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from secformer_jax.functions.series import Series
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import Weight, WeightProducts
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime.shares import RING_BITS


class Block(nn.Module):
    """A module with resident weights (collections "weights" and "opened") and material (collection "dealer")."""

    def weight(self, name: str, *shape: int) -> Weight:
        """A resident weight under this module's path: its shares, and in clear the weight less its mask."""
        ring = self.variable("weights", name, lambda: jnp.zeros(shape, jnp.int64)).value
        return Weight(ring, self.variable("opened", name, lambda: jnp.zeros(shape, jnp.int64)).value)

    def material(self, name: str, make: Callable[[], Any]) -> Any:
        """Dealer material of this module, abstract when the model is initialised."""
        return self.variable("dealer", name, make).value

    def mask_name(self, name: str) -> str:
        """The dealer's name of a weight's mask."""
        return "/".join((*self.path, name))


def row_series(series: Series, shape: tuple[int, ...], bits: int, result_bits: int) -> OpenedSeries:
    """Abstract material for a series with one value a row, to be truncated to result_bits.

    The masks, in which the coefficients are, multiply what public factors are rounded by, and those, sines, what masks
    are. Either error stays below a third of the result's last bit, or of the series' own error where that is larger, as
    far as 64 bits have room; and the ring has whole bytes.
    """
    ends = np.abs(series.ends())
    fine = -math.log2(max(2.0**-result_bits, series.error * float(ends.min())))
    public_bits = math.ceil(fine + math.log2(series.norm()))
    mask_bits = math.ceil(fine + math.log2(len(series.harmonics)) / 2)
    # Twice the greatest value, which is at one of the ends: a little beyond them the series goes on.
    needed = mask_bits + public_bits + math.ceil(math.log2(max(1.0, 2 * float(ends.max())))) + 2
    width = min(RING_BITS, -(-needed // 8) * 8)
    mask_bits += (width - needed) // 2
    public_bits += width - needed - (width - needed) // 2
    return OpenedSeries.abstract(series, shape, bits=bits, mask_bits=mask_bits, public_bits=public_bits, width=width)


def narrowed(block: Block, name: str, x: Fixed, bits: int, width: int = RING_BITS, *, signed: bool = True) -> Fixed:
    """x with no more than these fraction bits, in a ring of `width` bits, by a dealer's pair: one message."""
    pair = block.material(name, lambda: TruncationPair.abstract(x.shape, x.bits - bits, x.width, width, signed=signed))
    [opening] = open_together([pair.masked(x)])
    return pair.finish(opening, x)


def project(block: Block, x: Fixed, width: int, bits: int) -> Fixed:
    """x times the output kernel, untruncated: one opening."""
    kernel = block.weight("out_kernel", x.shape[-1], width)
    masks = block.material(
        "output",
        lambda: WeightProducts.abstract(
            x.shape, x.width, out=("matmul", block.mask_name("out_kernel"), (x.shape[-1], width))
        ),
    )
    [e] = open_together([x.masked(masks.a, masks.width)])
    return Fixed(masks.times("out", e, kernel), bits, x.width)
