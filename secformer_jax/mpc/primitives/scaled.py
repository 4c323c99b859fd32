"""Products that need no opening of their own: the opening of a truncation serves them.

A truncated value is T = P - high + q msb with P and q public (`fixed.TruncationPair`), so products of T are sums of
public factors times numbers that the dealer knows: those of high and msb with each other, and with other masks.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.mpc.material import Array, Leaf, Material, Randomness
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
    """What `ScaledPair` holds, and masks for the sum of T's squares over the last axis, modulo 2^squares."""

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
        high_msb, high_squares = _of_squares(randomness, scaled.pair, self.squares)
        return self.replace(scaled=scaled, high_msb=high_msb, high_squares=high_squares)

    def square_sum(self, opening: jax.Array, bits: int) -> Fixed:
        """The sum of squares, read with this many fraction bits."""
        return _square_sum(opening, self.scaled.pair, self.high_msb, self.high_squares, bits, self.squares)


class SquareSumPair(Material):
    """A truncation, and masks for the sum of T's squares over the last axis, modulo 2^(the result's width)."""

    pair: TruncationPair
    high_msb: Leaf
    high_squares: Leaf

    @classmethod
    def abstract(cls, pair: TruncationPair) -> SquareSumPair:
        """Shapes for the values of a pair."""
        return cls(pair, pair.high, jnp.zeros((*pair.r.shape[:-1], 1), jnp.int64))

    def deal(self, randomness: Randomness, masks) -> SquareSumPair:
        """Fresh masks; see Material."""
        pair = self.pair.deal(randomness, masks)
        high_msb, high_squares = _of_squares(randomness, pair, pair.result)
        return self.replace(pair=pair, high_msb=high_msb, high_squares=high_squares)

    def square_sum(self, opening: jax.Array, bits: int) -> Fixed:
        """The sum of squares, read with this many fraction bits."""
        return _square_sum(opening, self.pair, self.high_msb, self.high_squares, bits, self.pair.result)


def _of_squares(randomness: Randomness, pair: TruncationPair, bits: int) -> tuple[Array, Array]:
    """High msb, and the sum of high^2 over the last axis, of a dealt pair."""
    high, msb = pair.high.ring, pair.msb.ring
    return (
        randomness.derived(high * msb, ring_of_multiples(bits, pair.turn_bits + 1)),
        randomness.derived(np.sum(high * high, axis=-1, keepdims=True), bits),
    )


def _square_sum(
    opening: jax.Array, pair: TruncationPair, high_msb: jax.Array, high_squares: jax.Array, bits: int, width: int
) -> Fixed:
    """T^2 = P^2 - 2 P high + 2 P q msb + high^2 - 2 q high msb + q^2 msb, summed over the last axis."""
    known, sign = pair.public(opening)
    twice = 2 * known
    terms = known * known - twice * pair.high + (twice * sign + sign * sign) * pair.msb - 2 * sign * high_msb
    return Fixed(jnp.sum(terms, axis=-1, keepdims=True) + high_squares, bits, width)


class PairProduct(Material):
    """Two truncations, to T and to S, and T S from their openings alone, which may be of one message.

    (P - high + q msb)(P' - high' + q' msb') is linear in the products of high and msb with high' and msb'.
    """

    x: TruncationPair
    y: TruncationPair
    high_high: Leaf
    high_msb: Leaf
    msb_high: Leaf
    msb_msb: Leaf

    @classmethod
    def abstract(cls, x: TruncationPair, y: TruncationPair) -> PairProduct:
        """For two pairs of one result's ring, whose shapes broadcast."""
        if x.result != y.result:
            raise ValueError(f"values modulo 2^{x.result} and 2^{y.result}")
        zeros = jnp.zeros(jnp.broadcast_shapes(x.r.shape, y.r.shape), jnp.int64)
        return cls(x, y, zeros, zeros, zeros, zeros)

    def deal(self, randomness: Randomness, masks) -> PairProduct:
        """Fresh masks; see Material."""
        x, y = self.x.deal(randomness, masks), self.y.deal(randomness, masks)
        bits, x_turn, y_turn = x.result, x.turn_bits, y.turn_bits
        return self.replace(
            x=x,
            y=y,
            high_high=randomness.derived(x.high.ring * y.high.ring, bits),
            high_msb=randomness.derived(x.high.ring * y.msb.ring, ring_of_multiples(bits, y_turn)),
            msb_high=randomness.derived(x.msb.ring * y.high.ring, ring_of_multiples(bits, x_turn)),
            msb_msb=randomness.derived(x.msb.ring * y.msb.ring, ring_of_multiples(bits, x_turn + y_turn)),
        )

    def times(self, x: Fixed, x_opening: jax.Array, y: Fixed, y_opening: jax.Array) -> Fixed:
        """T S, untruncated; x and y are what was truncated."""
        p, q = self.x.public(x_opening)
        r, s = self.y.public(y_opening)
        of_x, of_y = q * self.x.msb - self.x.high, s * self.y.msb - self.y.high
        both = self.high_high - s * self.high_msb - q * self.msb_high + (q * s) * self.msb_msb
        bits = x.bits - self.x.dropped + y.bits - self.y.dropped
        return Fixed(p * r + p * of_y + r * of_x + both, bits, self.x.result)
