"""Packed ring elements (`shares.pieces`) inside functions that XLA compiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.mpc.runtime.shares import pieces


def joined(found: Sequence[jax.Array]) -> jax.Array:
    """The elements, int64."""
    total, start = found[0].astype(jnp.int64), found[0].dtype.itemsize
    for piece in found[1:]:
        total = total | (piece.astype(jnp.int64) << (8 * start))
        start += piece.dtype.itemsize
    return total


def cut_pieces(elements: jax.Array, bits: int) -> Iterator[jax.Array]:
    """The pieces of elements modulo 2^bits."""
    if bits % 8:
        elements = elements & ((1 << bits) - 1)
    start = 0
    for piece in pieces(np.empty(0, np.uint8), bits):
        yield (elements >> (8 * start)).astype(piece.dtype)
        start += piece.itemsize
