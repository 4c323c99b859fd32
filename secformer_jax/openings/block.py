"""What every module of the opened model can declare: weights that stay, and dealer material for one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from secformer_jax.functions.series import Series
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import Weight
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.openings import scales


class Block(nn.Module):
    """A module with resident weights (collections "masks" and "opened") and material (collection "dealer")."""

    def weight(self, name: str, *shape: int) -> Weight:
        """A resident weight under this module's path: the shares of its mask, and the masked weight in clear."""
        mask = self.variable("masks", name, lambda: jnp.zeros(shape, jnp.int64)).value
        return Weight(mask, self.variable("opened", name, lambda: jnp.zeros(shape, jnp.int64)).value)

    def material(self, name: str, make: Callable[[], Any]) -> Any:
        """Dealer material of this module, abstract when the model is initialised."""
        return self.variable("dealer", name, make).value

    def mask_name(self, name: str) -> str:
        """The dealer's name of a weight's mask."""
        return "/".join((*self.path, name))


def row_series(series: Series, shape: tuple[int, ...], bits: int, result_bits: int) -> OpenedSeries:
    """Abstract material for a series with one value a row, where precision is cheap."""
    mask_bits = result_bits + scales.ROW_TRUNCATION - scales.ROW_PUBLIC
    return OpenedSeries.abstract(series, shape, bits=bits, mask_bits=mask_bits, public_bits=scales.ROW_PUBLIC)


def narrowed(block: Block, name: str, x: Fixed, dropped: int) -> Fixed:
    """x with `dropped` fewer fraction bits, by a dealer's pair: one message of 8 bytes a value."""
    pair = block.material(name, lambda: TruncationPair.abstract(x.shape, dropped))
    [opening] = open_together([pair.masked(x)])
    return pair.finish(opening, x)
