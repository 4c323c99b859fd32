"""What a program does with ring elements beyond JAX's own arithmetic: openings, products of matrices, rounding.

They are JAX primitives, so that each appears in a traced function as one equation: the compiler makes a step of its
own of an opening and of a product, and rounding is part of what a party does to its own shares (`local`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import core as avals
from jax.extend import core

from secformer_jax.mpc.runtime.shares import RING_BITS

opening_p = core.Primitive("opening")
opening_p.multiple_results = True
product_p = core.Primitive("ring_product")
dropped_p = core.Primitive("dropped")


@opening_p.def_abstract_eval
def _opening(*values, bits):
    return values


@product_p.def_abstract_eval
def _product(x, y, *, bits):
    if x.shape[-1] != y.shape[-2] or (y.ndim > 2 and x.shape[:-2] != y.shape[:-2]):
        raise ValueError(f"no product of matrices: {x.shape} and {y.shape}")
    return avals.ShapedArray((*x.shape[:-1], y.shape[-1]), x.dtype)


@dropped_p.def_abstract_eval
def _dropped(x, *, bits, count):
    return x


def opened(values: Sequence[jax.Array], bits: Sequence[int]) -> list[jax.Array]:
    """Open secret int64 arrays modulo 2^bits, in one message; each must be masked by fresh masks, uniform there.

    Returns:
        Public arrays of these shapes, with values in [-2^(bits-1), 2^(bits-1)).
    """
    return list(opening_p.bind(*values, bits=tuple(bits)))


def product(x: jax.Array, y: jax.Array, bits: int) -> jax.Array:
    """x (..., n, d) times y (..., d, k) or (d, k) modulo 2^bits; at most one of them is secret."""
    return product_p.bind(x, y, bits=bits)


def dropped(x: jax.Array, bits: int, count: int) -> jax.Array:
    """Secret x modulo 2^bits without its lowest `count` bits, modulo 2^(bits - count); within one unit for two parties.

    Each party rounds its own share. What would be a wrong multiple of 2^bits is one of 2^(bits - count), and vanishes.
    """
    return dropped_p.bind(x, bits=bits, count=count) if count else x


def round_off(share: jax.Array, bits: int, count: int) -> jax.Array:
    """What a party does to its share in `dropped`: to the nearest multiple of 2^count, and the shift."""
    rounded = (share + (1 << (count - 1))) << (RING_BITS - bits)
    return jax.lax.shift_right_logical(rounded, jnp.int64(RING_BITS - bits + count))
