"""Secret fixed-point numbers with an explicit scale and ring, and the few operations that cost messages.

SPU's own fixed point keeps every value at one scale, in one ring, and truncates after every product. Here a value
carries its own number of fraction bits and the width of its ring. So a product is truncated only where a later one
would overflow, several values share an opening, and an opening sends the bits that there are.

Elements are int64 whatever their ring: sums and products modulo 2^64 are right modulo 2^width too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from secformer_jax.mpc.material import Leaf, Material, Randomness
from secformer_jax.mpc.runtime.operations import dropped, opened
from secformer_jax.mpc.runtime.shares import RING_BITS


class Masked(NamedTuple):
    """A secret minus a mask, about to be opened modulo 2^width."""

    ring: jax.Array
    width: int


class Fixed(flax.struct.PyTreeNode):
    """Secret (or public) values ring / 2^bits; ring is int64, an element of Z_2^width."""

    ring: jax.Array
    bits: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False, default=RING_BITS)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.ring.shape

    def at(self, bits: int) -> Fixed:
        """The same values with more fraction bits: a shift, no message."""
        if bits < self.bits:
            raise ValueError(f"from {self.bits} to {bits} fraction bits is a truncation")
        return self if bits == self.bits else self.replace(ring=self.ring << (bits - self.bits), bits=bits)

    def __add__(self, other: Fixed) -> Fixed:
        bits = max(self.bits, other.bits)
        return Fixed(self.at(bits).ring + other.at(bits).ring, bits, min(self.width, other.width))

    def reshape(self, *shape: int) -> Fixed:
        """The values in another shape."""
        return self.replace(ring=self.ring.reshape(*shape))

    def rounded(self, bits: int) -> Fixed:
        """The same values with no more fraction bits than these: no message, but the ring loses as many bits."""
        count = max(0, self.bits - bits)
        return Fixed(dropped(self.ring, self.width, count), self.bits - count, self.width - count)

    def within(self, width: int) -> Fixed:
        """The same values in a ring that just holds them: no message."""
        if width > self.width:
            raise ValueError(f"from modulo 2^{self.width} to modulo 2^{width} takes a truncation")
        return self.replace(width=width)

    def masked(self, mask: jax.Array, width: int) -> Masked:
        """What to open: the values minus a mask that is uniform modulo 2^width, their own ring."""
        if self.width != width:
            raise ValueError(f"a mask modulo 2^{width} for values modulo 2^{self.width}")
        return Masked(self.ring - mask, width)

    def real(self, fraction_bits: int) -> jax.Array:
        """As an ordinary float32 of the runtime, from the ring of 64 bits; needs at most its fraction bits."""
        if self.width < RING_BITS:
            raise ValueError(f"a value modulo 2^{self.width} is none of the runtime's")
        return real(self.at(fraction_bits).ring).astype(jnp.float32)


def fixed(x: jax.Array, fraction_bits: int) -> Fixed:
    """An ordinary value of the runtime as Fixed."""
    return Fixed(ring(x), fraction_bits)


def ring(x: jax.Array) -> jax.Array:
    """The ring elements behind fixed-point values: a reinterpretation, not a conversion."""
    return lax.bitcast_convert_type(x.astype(jnp.float64), jnp.int64)


def real(x: jax.Array) -> jax.Array:
    """Ring elements read as the runtime's fixed-point values: the inverse of `ring`."""
    return lax.bitcast_convert_type(x, jnp.float64)


def open_together(values: Sequence[Masked]) -> list[jax.Array]:
    """Open several masked arrays in one message; each is then a public number in [-2^(width-1), 2^(width-1))."""
    return opened([value.ring for value in values], [value.width for value in values])


def ring_of_multiples(bits: int, shift: int) -> int:
    """Bits of a ring for what is only read times 2^shift, modulo 2^bits."""
    return max(1, bits - shift)


class TruncationPair(Material):
    """r uniform modulo 2^width, its bits dropped..width-2 as a number, and its top bit: for a truncation.

    With abs(y) < 2^(width-2), c = y + 2^(width-2) + r opened modulo 2^width, its top bit c_top and the rest c_low,

        y / 2^dropped = floor(c_low / 2^dropped) - high + 2^(width-1-dropped) (c_top xor msb) - 2^(width-2-dropped)

    within one unit, and c_top xor msb = c_top + (1 - 2 c_top) msb is linear in the shares of msb. High and msb are
    shared in the ring of the result, so a value comes into a wider ring by its truncation. Where no y is negative
    (`signed`), 0 <= y < 2^(width-1) and nothing is added to it or taken off again.

    Source: Escudero et al. (CRYPTO 2020, ePrint 2020/338), section 5.1; the pair comes from the dealer.
    """

    r: Leaf
    high: Leaf
    msb: Leaf
    dropped: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)
    result: int = flax.struct.field(pytree_node=False)
    signed: bool = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(
        cls,
        shape: tuple[int, ...],
        dropped: int,
        width: int = RING_BITS,
        result: int = RING_BITS,
        *,
        signed: bool = True,
    ) -> TruncationPair:
        """Shapes for values of this shape; width is their ring's, result that of what comes out."""
        zeros = jnp.zeros(shape, jnp.int64)
        return cls(zeros, zeros, zeros, dropped, width, result, signed)

    def deal(self, randomness: Randomness, masks) -> TruncationPair:
        """Fresh masks; see Material."""
        r = randomness.uniform(self.r.shape, self.width)
        high = (r.ring & ((1 << (self.width - 1)) - 1)) >> self.dropped
        msb = (r.ring >> (self.width - 1)) & 1
        msb_ring = ring_of_multiples(self.result, self.turn_bits)
        return self.replace(r=r, high=randomness.derived(high, self.result), msb=randomness.derived(msb, msb_ring))

    @property
    def turn_bits(self) -> int:
        """The logarithm of q's size: only multiples of so much of msb are ever read, and its ring is narrower."""
        return self.width - 1 - self.dropped

    def masked(self, x: Fixed) -> Masked:
        """What to open, uniform: x + 2^(width-2) + r, for abs(x) < 2^(width-2); or x + r, for 0 <= x < 2^(width-1)."""
        if x.width != self.width:
            raise ValueError(f"a pair for {self.width} bits, and a value of {x.width}")
        return Masked(x.ring + (self._offset << (self.width - 2)) + self.r, self.width)

    def finish(self, opening: jax.Array, x: Fixed) -> Fixed:
        """x with `dropped` fewer fraction bits, within one unit, from the opened value; no message."""
        known, sign = self.public(opening)
        return Fixed(known - self.high + sign * self.msb, x.bits - self.dropped, self.result)

    def public(self, opening: jax.Array) -> tuple[jax.Array, jax.Array]:
        """P and q, public, of the result P - high + q msb."""
        low = (opening & ((1 << (self.width - 1)) - 1)) >> self.dropped
        top = (opening >> (self.width - 1)) & 1
        known = low + (top << self.turn_bits) - (self._offset << (self.width - 2 - self.dropped))
        return known, (1 - 2 * top) << self.turn_bits

    @property
    def _offset(self) -> int:
        return int(self.signed)
