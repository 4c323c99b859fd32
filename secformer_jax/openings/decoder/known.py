"""What every party knows of a pass, and what one pass leaves to the next: places, angles, and the opened cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.rotary import angles
from secformer_jax.openings.decoder import scales

Array = Any
"""Whole numbers, of NumPy or traced; or their shape."""


class Known(NamedTuple):
    """Whole numbers, int64, about the new tokens of a pass and the keys that they look at, the prefix's first.

    Attributes:
        place: (new, capacity), one-hot: which row of the cache a new token's key and value are.
        visible: (new, keys), 1 where a token looks at a key.
        shares: (new, keys): nearly equal for the visible keys, else 0; a row's sum is 2^SHARE.
        inverse_count: (new,): 1 / visible keys, with INVERSE_COUNT fraction bits.
        cosines, sines: (new, head_dim), with ANGLE fraction bits.
        positions: (new, max_position_embeddings), one-hot, where the model has a table of them; else (new, 0).
        last: (new,), one-hot: the token that the logits are for.
    """

    place: Array
    visible: Array
    shares: Array
    inverse_count: Array
    cosines: Array
    sines: Array
    positions: Array
    last: Array


def known(
    config: DecoderArchitecture, prefix: int, capacity: int, filled: np.ndarray, new: int, *, start: int, real: int
) -> Known:
    """For `new` tokens in a row, of which the first `real` are no padding.

    Args:
        config: the model.
        prefix: keys that come before the cache's.
        capacity: rows of the cache.
        filled: bool (capacity,), which of them hold a token already.
        new: how many tokens.
        start: the first one's row of the cache.
        real: how many are no padding.
    """
    own = np.arange(capacity)[None, :] - start
    causal = (own >= 0) & (own <= np.arange(new)[:, None]) & (own < real)
    visible = np.concatenate([np.ones((new, prefix), bool), causal | filled[None, :]], axis=1)
    counts = visible.sum(axis=1)
    where = prefix + int(filled.sum()) + np.arange(new)
    cosines = sines = np.zeros((new, config.head_dim))
    positions = np.zeros((new, 0))
    if config.rotary is not None:
        cosines, sines = angles(config.rotary, config.head_dim, where)
    else:
        positions = where[:, None] == np.arange(config.max_position_embeddings)[None, :]
    found = (
        own == np.arange(new)[:, None],
        visible,
        _shares(visible),
        2.0**scales.INVERSE_COUNT / counts,
        cosines * 2.0**scales.ANGLE,
        sines * 2.0**scales.ANGLE,
        positions,
        np.arange(new) == real - 1,
    )
    return Known(*(np.rint(each).astype(np.int64) for each in found))


def _shares(visible: np.ndarray) -> np.ndarray:
    """2^SHARE cut into whole numbers for each row's visible keys, as equal as they can be."""
    counts, upto = visible.sum(axis=1, keepdims=True), np.cumsum(visible, axis=1)
    total = 1 << scales.SHARE
    return np.where(visible, upto * total // counts - (upto - 1) * total // counts, 0)


class Rows(flax.struct.PyTreeNode):
    """Keys or values of one layer's cache, (key_value_heads, capacity, head_dim) each.

    A row is opened once, under its own row of the mask, which serves one request. Before that it is its mask, less
    which it is 0: whatever has no share in it is multiplied to 0 then, too.

    Attributes:
        ring: shares.
        opened: in clear, each less its mask.
        mask: shares of that.
    """

    ring: Array
    opened: Array
    mask: Array

    def new_masks(self, place: Array) -> Array:
        """The masks of new tokens' rows, (key_value_heads, new, head_dim)."""
        return jnp.sum(place[None, :, :, None] * self.mask[:, None], axis=2)

    def filled(self, place: Array, ring: Array, opening: Array) -> Rows:
        """With the new tokens' rows, (key_value_heads, new, head_dim)."""

        others = 1 - jnp.sum(place, axis=0)

        def put(rows: Array, new: Array) -> Array:
            return rows * others[None, :, None] + jnp.sum(place[None, :, :, None] * new[:, :, None], axis=1)

        return self.replace(ring=put(self.ring, ring), opened=put(self.opened, opening))


class LayerCache(NamedTuple):
    """Of one layer."""

    keys: Rows
    values: Rows


def empty_cache(config: DecoderArchitecture, capacity: int) -> tuple[LayerCache, ...]:
    """Shapes, for every layer."""
    shape = (config.num_key_value_heads, capacity, config.head_dim)
    zeros = jax.ShapeDtypeStruct(shape, jnp.int64)
    rows = Rows(zeros, zeros, zeros)
    return (LayerCache(rows, rows),) * config.num_hidden_layers
