"""Secret fixed-point numbers with an explicit scale, and the few operations that cost messages.

SPU's own fixed point keeps every value at one scale and truncates after every product. Here a value carries its own
number of fraction bits, so that a product is truncated only where a later one would overflow, several values share an
opening, and the scale of a weight is chosen so that a truncation by the runtime's own bits lands where it should.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from spu import experimental

from secformer_jax.mpc.material import Material, Randomness

RING_BITS = 64


class Fixed(flax.struct.PyTreeNode):
    """Secret (or public) values ring / 2^bits; ring is int64, an element of Z_2^64."""

    ring: jax.Array
    bits: int = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.ring.shape

    def at(self, bits: int) -> Fixed:
        """The same values with more fraction bits: a shift, no message."""
        if bits < self.bits:
            raise ValueError(f"from {self.bits} to {bits} fraction bits is a truncation")
        return self if bits == self.bits else Fixed(self.ring << (bits - self.bits), bits)

    def __add__(self, other: Fixed) -> Fixed:
        bits = max(self.bits, other.bits)
        return Fixed(self.at(bits).ring + other.at(bits).ring, bits)

    def reshape(self, *shape: int) -> Fixed:
        """The values in another shape."""
        return Fixed(self.ring.reshape(*shape), self.bits)

    def real(self, fraction_bits: int) -> jax.Array:
        """As an ordinary float32 of the runtime; needs at most its fraction bits."""
        return real(self.at(fraction_bits).ring).astype(jnp.float32)


def fixed(x: jax.Array, fraction_bits: int) -> Fixed:
    """An ordinary value of the runtime as Fixed."""
    return Fixed(ring(x), fraction_bits)


def truncated(values: Sequence[Fixed], fraction_bits: int) -> list[Fixed]:
    """Drop fraction_bits bits of each by SPU's truncation: one message for all (SEMI2K: 4 bytes a value)."""
    pieces = split(truncate(join([v.ring for v in values])), [v.shape for v in values])
    return [Fixed(piece, v.bits - fraction_bits) for piece, v in zip(pieces, values, strict=True)]


def truncate(x: jax.Array) -> jax.Array:
    """Ring elements divided by 2^fraction_bits, within one unit: SPU's own truncation, for abs(x) < 2^62.

    That is a multiplication by the smallest fixed-point number, which has ring element 1. As a literal it would be
    caught by an optimisation of SPU that first multiplies by 2^17: that overflows from 2^45 on and costs twice as much.
    Never truncate a truncated value at once: the compiler would multiply the two numbers, to 0.
    """
    unit = real(lax.iota(jnp.int64, 2)[1:])
    return ring(real(x) * unit.reshape((1,) * x.ndim))


def ring(x: jax.Array) -> jax.Array:
    """The ring elements behind fixed-point values: a reinterpretation, not a conversion."""
    return lax.bitcast_convert_type(x.astype(jnp.float64), jnp.int64)


def real(x: jax.Array) -> jax.Array:
    """Ring elements read as the runtime's fixed-point values: the inverse of `ring`."""
    return lax.bitcast_convert_type(x, jnp.float64)


def open_together(values: Sequence[jax.Array]) -> list[jax.Array]:
    """Reveal several masked ring arrays in one message, 8 bytes a value; each must be masked by fresh uniform masks."""
    return split(experimental.reveal(join(values)), [v.shape for v in values])


def opened_modulo(x: jax.Array, bits: int) -> jax.Array:
    """What `opened` needs to reveal x modulo 2^bits alone: the high bits are shifted out."""
    return x << (RING_BITS - bits)


def signed_modulo(x: jax.Array, bits: int) -> jax.Array:
    """The revealed value of `opened_modulo`, in [-2^(bits-1), 2^(bits-1))."""
    return x >> (RING_BITS - bits)


def join(arrays: Sequence[jax.Array]) -> jax.Array:
    """Arrays flattened into one."""
    return arrays[0] if len(arrays) == 1 else jnp.concatenate([a.reshape(-1) for a in arrays])


def split(flat: jax.Array, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """The inverse of `join`."""
    if len(shapes) == 1:
        return [flat]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [flat[end - int(np.prod(shape)) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]


class TruncationPair(Material):
    """r uniform in the ring, its bits dropped..62 as a number, and its bit 63: for a truncation by any number of bits.

    Source: Escudero et al. (CRYPTO 2020, ePrint 2020/338), section 5.1; the pair comes from the dealer.
    """

    r: jax.Array
    high: jax.Array
    msb: jax.Array
    dropped: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, shape: tuple[int, ...], dropped: int) -> TruncationPair:
        """Shapes for values of this shape."""
        zeros = jnp.zeros(shape, jnp.int64)
        return cls(zeros, zeros, zeros, dropped)

    def deal(self, randomness: Randomness, resident) -> TruncationPair:
        """Fresh masks; see Material."""
        r = randomness.bits(self.r.shape)
        unsigned = r.view(np.uint64)
        high = (unsigned << np.uint64(1)) >> np.uint64(1 + self.dropped)
        return self.replace(r=r, high=high.view(np.int64), msb=(unsigned >> np.uint64(63)).view(np.int64))

    def masked(self, x: Fixed) -> jax.Array:
        """What to open: x + 2^62 + r, for abs(x) < 2^62; uniform."""
        return x.ring + (1 << (RING_BITS - 2)) + self.r

    def finish(self, opening: jax.Array, x: Fixed) -> Fixed:
        """x with `dropped` fewer fraction bits, within one unit, from the opened value; no message."""
        low = lax.shift_right_logical(opening << 1, jnp.int64(1 + self.dropped))
        # The low 63 bits of the sum x + 2^62 + r carried into the top bit exactly where the top bits differ.
        top = lax.shift_right_logical(opening, jnp.int64(RING_BITS - 1))
        carried = top + (1 - 2 * top) * self.msb
        offset = 1 << (RING_BITS - 2 - self.dropped)
        ring_ = low - self.high + (carried << (RING_BITS - 1 - self.dropped)) - offset
        return Fixed(ring_, x.bits - self.dropped)
