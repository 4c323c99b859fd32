"""Squares of truncated values, times a key's weight and times a row's number that comes later: no opening of their own.

The opening that truncates a value to T = P - high + q msb, P and q public (`fixed.TruncationPair`), serves its square:

    f T^2 = P^2 f - 2 P (f high) + (2 P q + q^2) (f msb) + f high^2 - 2 q (f high msb)

is linear in the dealer's products for every secret factor f, and for f = 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from secformer_jax.mpc.material import Array, Leaf, Material, Randomness
from secformer_jax.mpc.primitives.fixed import TruncationPair, ring_of_multiples


class FactorSquared(Material):
    """f, and f times high, msb, high^2 and high msb of a pair: f T^2 from the pair's opening."""

    factor: Leaf
    high: Leaf
    msb: Leaf
    high_squared: Leaf
    high_msb: Leaf

    @classmethod
    def abstract(cls, shape: tuple[int, ...], factor: tuple[int, ...]) -> FactorSquared:
        """Shapes for the pair's values and for f."""
        x = jnp.zeros(shape, jnp.int64)
        return cls(jnp.zeros(factor, jnp.int64), x, x, x, x)

    def products(self, randomness: Randomness, pair: TruncationPair, factor: Array) -> FactorSquared:
        """The products of a dealt pair with f; see `Material.deal`."""
        f, high, msb, bits = factor.ring, pair.high.ring, pair.msb.ring, pair.result
        return self.replace(
            factor=factor,
            high=randomness.derived(f * high, bits),
            msb=randomness.derived(f * msb, pair.msb.bits),
            high_squared=randomness.derived(f * high * high, bits),
            high_msb=randomness.derived(f * high * msb, _twice_multiples(pair)),
        )

    def times(self, known: jax.Array, sign: jax.Array) -> jax.Array:
        """f T^2 from the public P and q."""
        return _square(known, sign, self.factor, self.high, self.msb, self.high_squared, self.high_msb)


class SquarePair(Material):
    """A truncation to T, and T^2."""

    pair: TruncationPair
    high_squared: Leaf
    high_msb: Leaf

    @classmethod
    def abstract(cls, pair: TruncationPair) -> SquarePair:
        """Shapes for the values of a pair."""
        return cls(pair, pair.high, pair.high)

    def deal(self, randomness: Randomness, masks) -> SquarePair:
        """Fresh masks; see Material."""
        pair = self.pair.deal(randomness, masks)
        high, msb = pair.high.ring, pair.msb.ring
        return self.replace(
            pair=pair,
            high_squared=randomness.derived(high * high, pair.result),
            high_msb=randomness.derived(high * msb, _twice_multiples(pair)),
        )

    def square(self, opening: jax.Array) -> jax.Array:
        """T^2, from the opened value."""
        known, sign = self.pair.public(opening)
        return _square(known, sign, 1, self.pair.high, self.pair.msb, self.high_squared, self.high_msb)


class SquaredPair(Material):
    """A truncation to T, and T^2 r, r one number for each row, which is computed from the square.

    r is opened later, as h = r - c, and T^2 r = h T^2 + c T^2.
    """

    square: SquarePair
    row: FactorSquared

    @classmethod
    def abstract(
        cls, shape: tuple[int, ...], dropped: int, width: int, result: int, *, signed: bool = True
    ) -> SquaredPair:
        """Shapes for values of this shape; as for TruncationPair."""
        pair = TruncationPair.abstract(shape, dropped, width, result, signed=signed)
        return cls(SquarePair.abstract(pair), FactorSquared.abstract(shape, (*shape[:-1], 1)))

    def deal(self, randomness: Randomness, masks) -> SquaredPair:
        """Fresh masks; see Material."""
        square = self.square.deal(randomness, masks)
        c = randomness.uniform(self.c.shape, square.pair.result)
        return self.replace(square=square, row=self.row.products(randomness, square.pair, c))

    @property
    def pair(self) -> TruncationPair:
        """The truncation's."""
        return self.square.pair

    @property
    def c(self) -> Leaf:
        """The mask of r."""
        return self.row.factor

    def squares(self, opening: jax.Array) -> tuple[jax.Array, jax.Array]:
        """T^2 and c T^2, from the opened value."""
        return self.square.square(opening), self.row.times(*self.pair.public(opening))


class SquareTimesPair(Material):
    """A truncation to T, and T^2 r for r that a pair of its own truncates, one number for each row: no other opening.

    With r = P' - high' + q' msb', T^2 r = P' T^2 - high' T^2 + q' msb' T^2.
    """

    square: SquarePair
    row: TruncationPair
    high: FactorSquared
    msb: FactorSquared

    @classmethod
    def abstract(cls, square: TruncationPair, row: TruncationPair) -> SquareTimesPair:
        """Shapes for two pairs of one result's ring."""
        if square.result != row.result:
            raise ValueError(f"values modulo 2^{square.result} and 2^{row.result}")
        factor = FactorSquared.abstract(square.r.shape, row.r.shape)
        return cls(SquarePair.abstract(square), row, factor, factor)

    def deal(self, randomness: Randomness, masks) -> SquareTimesPair:
        """Fresh masks; see Material."""
        square, row = self.square.deal(randomness, masks), self.row.deal(randomness, masks)
        high, msb = (
            factor.products(randomness, square.pair, of) for factor, of in ((self.high, row.high), (self.msb, row.msb))
        )
        return self.replace(square=square, row=row, high=high, msb=msb)

    def times(self, opening: jax.Array, row_opening: jax.Array) -> jax.Array:
        """T^2 r, from both openings."""
        of_square, (known, sign) = self.square.pair.public(opening), self.row.public(row_opening)
        with_msb = sign * self.msb.times(*of_square)
        return known * self.square.square(opening) - self.high.times(*of_square) + with_msb


class WeightedSquaredPair(Material):
    """The same for w T^2 r, w one number for each column: d = w - b is opened besides, and

    w T^2 = d T^2 + b T^2,    c w T^2 = d (c T^2) + (b c) T^2.
    """

    plain: SquaredPair
    column: FactorSquared
    both: FactorSquared

    @classmethod
    def abstract(
        cls, shape: tuple[int, ...], columns: tuple[int, ...], dropped: int, width: int, result: int
    ) -> WeightedSquaredPair:
        """Shapes for the values and w; as for TruncationPair."""
        return cls(
            SquaredPair.abstract(shape, dropped, width, result),
            FactorSquared.abstract(shape, columns),
            FactorSquared.abstract(shape, (*shape[:-1], columns[-1])),
        )

    def deal(self, randomness: Randomness, masks) -> WeightedSquaredPair:
        """Fresh masks; see Material."""
        plain = self.plain.deal(randomness, masks)
        pair, c = plain.pair, plain.c
        b = randomness.uniform(self.b.shape, pair.result)
        return self.replace(
            plain=plain,
            column=self.column.products(randomness, pair, b),
            both=self.both.products(randomness, pair, randomness.derived(b.ring * c.ring, pair.result)),
        )

    @property
    def b(self) -> Leaf:
        """The mask of w."""
        return self.column.factor

    def squares(self, opening: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
        """w T^2 and c w T^2, from the opened value and d."""
        square, with_c = self.plain.squares(opening)
        known, sign = self.plain.pair.public(opening)
        return d * square + self.column.times(known, sign), d * with_c + self.both.times(known, sign)


def _twice_multiples(pair: TruncationPair) -> int:
    """Bits of the ring of what is only read times 2 q."""
    return ring_of_multiples(pair.result, pair.turn_bits + 1)


def _square(
    known: jax.Array,
    sign: jax.Array,
    one: jax.Array | int,
    high: jax.Array,
    msb: jax.Array,
    high_squared: jax.Array,
    high_msb: jax.Array,
) -> jax.Array:
    with_msb = 2 * known * sign + sign * sign
    return known * known * one - 2 * known * high + with_msb * msb + high_squared - 2 * sign * high_msb
