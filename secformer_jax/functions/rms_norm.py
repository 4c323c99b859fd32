"""RMSNorm over the last axis; its inverse square root is an argument."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from secformer_jax.functions.layer_norm import variance_unit


def rms_norm(
    x: jax.Array,
    scale: jax.Array,
    *,
    epsilon: float = 1e-5,
    rsqrt: Callable[[jax.Array], jax.Array] = jax.lax.rsqrt,
) -> jax.Array:
    """LayerNorm without the mean and without a bias.

    Formula: scale x (mean(x^2) + epsilon)^(-1/2), the mean over the last axis.
    Source: Zhang and Sennrich 2019; Llama's epsilon is 1e-5.
    Domain: that of `rsqrt`, which is called on variance_unit(width) (mean(x^2) + epsilon), see `layer_norm`.
    Cost for h values, a row: 3 h multiplications and one rsqrt.
    """
    width = x.shape[-1]
    unit = variance_unit(width)
    scaled = jnp.sum(jnp.square(x), axis=-1, keepdims=True) * (unit / width)
    return x * (rsqrt(scaled + unit * epsilon) * math.sqrt(unit)) * scale
