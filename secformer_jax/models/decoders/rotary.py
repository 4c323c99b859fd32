"""Rotary positions (Su et al. 2021): each pair of numbers of a query or key is turned by an angle of its position."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.models.decoders.architecture import Rotary


def frequencies(rotary: Rotary, head_dim: int) -> np.ndarray:
    """Angles a position, (head_dim / 2,), float64.

    "llama3" (Llama 3.1): wavelengths below original / high_freq_factor stay, those above original / low_freq_factor
    are stretched by `factor`, and those between are interpolated.
    """
    plain = rotary.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rotary.kind == "default":
        return plain
    if rotary.kind == "linear":
        return plain / rotary.factor
    turns = rotary.original_max_position_embeddings * plain / (2 * math.pi)
    kept = (turns - rotary.low_freq_factor) / (rotary.high_freq_factor - rotary.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return plain * (kept + (1 - kept) / rotary.factor)


def angles(rotary: Rotary, head_dim: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every position, each (positions, head_dim), float32."""
    turned = np.asarray(positions, np.float64)[:, None] * frequencies(rotary, head_dim)
    turned = np.concatenate([turned, turned], axis=-1)
    return np.cos(turned).astype(np.float32), np.sin(turned).astype(np.float32)


def rotated(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """x (..., positions, head_dim) turned: a pair is a number of the first half and its fellow of the second."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return x * cosines + jnp.concatenate([-second, first], axis=-1) * sines
