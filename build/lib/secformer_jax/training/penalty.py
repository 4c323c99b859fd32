"""A penalty on values that leave narrow ranges: narrow ranges need fewer harmonics and fewer steps under MPC."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from secformer_jax.training.batches import Array


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Where values may be without a penalty.

    Attributes:
        gelu: greatest absolute value before GeLU; up to 8 with its margin a series of period 32 does.
        score: greatest absolute attention score; 2Quad keeps the order of scores above -5.
        variance: least and greatest variance before LayerNorm.
    """

    gelu: float = 8.0
    score: float = 4.0
    variance: tuple[float, float] = (0.05, 5.0)


def range_penalty(kept: Mapping[str, jax.Array], mask: Array, ranges: Ranges) -> jax.Array:
    """Sum over all places of the mean squared excess; of variances that of their logarithm. Padded keys don't count.

    kept: the model's named intermediates; mask (batch, length).
    """
    total = jnp.zeros(())
    low, high = ranges.variance
    for name, value in kept.items():
        value = value.astype(jnp.float32)
        if name.endswith(".gelu"):
            total += jnp.mean(jnp.square(jax.nn.relu(jnp.abs(value) - ranges.gelu)))
        elif name.endswith(".softmax"):
            excess = jax.nn.relu(jnp.abs(value) - ranges.score) * mask[:, None, None, :]
            total += jnp.mean(jnp.square(excess))
        elif name.endswith(".layer_norm"):
            logarithm = jnp.log(jnp.var(value, axis=-1) + 1e-6)
            outside = jax.nn.relu(jnp.log(low) - logarithm) + jax.nn.relu(logarithm - jnp.log(high))
            total += jnp.mean(jnp.square(outside))
    return total
