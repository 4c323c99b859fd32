"""Products that need no opening of their own: the opening of a truncation serves them.

A truncated value is T = P - high + q msb with P and q public (`fixed.TruncationPair`), so products of T are sums of
public factors times numbers that the dealer knows: those of high and msb with each other, and with other masks.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.mpc.material import Leaf, Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, ring_of_multiples


class ScaledPair(Material):
    """A truncation to T, and T r for one secret number r a row, that is opened as h = r - b later.

    T r = h T + P b - high b + q msb b
    """

    pair: TruncationPair
    b: Leaf
    high_b: Leaf
    msb_b: Leaf

    @classmethod
    def abstract(cls, shape: tuple[int, ...], dropped: int, width: int, result: int) -> ScaledPair:
        """Shapes for values of this shape; as for TruncationPair."""
        pair = TruncationPair.abstract(shape, dropped, width, result)
        return cls(pair, jnp.zeros((*shape[:-1], 1), jnp.int64), pair.high, pair.msb)

    def deal(self, randomness: Randomness, masks) -> ScaledPair:
        """Fresh masks; see Material."""
        pair, b = self.pair.deal(randomness, masks), randomness.uniform(self.b.shape, self.pair.result)
        return self.replace(
            pair=pair,
            b=b,
            high_b=randomness.derived(pair.high.ring * b.ring, pair.high.bits),
            msb_b=randomness.derived(pair.msb.ring * b.ring, pair.msb.bits),
        )

    def times(self, opening: jax.Array, x: Fixed, row: Fixed, row_e: jax.Array) -> Fixed:
        """T r, untruncated, from both openings; x is what was truncated."""
        known, sign = self.pair.public(opening)
        truncated = self.pair.finish(opening, x)
        ring = row_e * truncated.ring + (known * self.b - self.high_b + sign * self.msb_b)
        return Fixed(ring, truncated.bits + row.bits, self.pair.result)


class NormPair(Material):
    """What `ScaledPair` holds, and masks for the sum of T's squares over the last axis, modulo 2^squares.

    T^2 = P^2 - 2 P high + 2 P q msb + high^2 - 2 q high msb + q^2 msb
    """

    scaled: ScaledPair
    high_msb: Leaf
    high_squares: Leaf
    squares: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, shape: tuple[int, ...], dropped: int, width: int, result: int, squares: int) -> NormPair:
        """Shapes for values of this shape; see TruncationPair."""
        if squares > result:
            raise ValueError(f"squares modulo 2^{squares} of values modulo 2^{result}")
        scaled = ScaledPair.abstract(shape, dropped, width, result)
        return cls(scaled, scaled.pair.high, scaled.b, squares)

    def deal(self, randomness: Randomness, masks) -> NormPair:
        """Fresh masks; see Material."""
        scaled = self.scaled.deal(randomness, masks)
        high, msb = scaled.pair.high.ring, scaled.pair.msb.ring
        return self.replace(
            scaled=scaled,
            high_msb=randomness.derived(high * msb, ring_of_multiples(self.squares, self.scaled.pair.turn_bits + 1)),
            high_squares=randomness.derived(np.sum(high * high, axis=-1, keepdims=True), self.squares),
        )

    def square_sum(self, opening: jax.Array, bits: int) -> Fixed:
        """The sum of squares, read with this many fraction bits."""
        pair = self.scaled.pair
        known, sign = pair.public(opening)
        twice = 2 * known
        terms = known * known - twice * pair.high + (twice * sign + sign * sign) * pair.msb - 2 * sign * self.high_msb
        return Fixed(jnp.sum(terms, axis=-1, keepdims=True) + self.high_squares, bits, self.squares)
