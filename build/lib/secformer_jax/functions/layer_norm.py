"""LayerNorm over the last axis; its inverse square root is an argument."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def variance_unit(hidden_size: int) -> float:
    """What layer_norm scales the variance by before its inverse square root: hidden_size / 2^j, from 16 to 32."""
    return hidden_size / 2.0 ** (math.floor(math.log2(hidden_size)) - 4)


def layer_norm(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    *,
    epsilon: float = 1e-12,
    rsqrt: Callable[[jax.Array], jax.Array] = jax.lax.rsqrt,
) -> jax.Array:
    """LayerNorm.

    Formula: gamma (x - mean) (var + epsilon)^(-1/2) + beta, mean and (biased) variance over the last axis.
    Source: Ba et al. 2016; BERT's epsilon is 1e-12. With goldschmidt.rsqrt: SecFormer's LayerNorm.
    Domain: that of `rsqrt`, which is called on variance_unit(hidden_size) (var + epsilon), one number a row; no
    error of its own. SPU's own rsqrt fails at 2^18, a variance of 8,192 or more.
    Cost for h values, a row: 3 h multiplications and one rsqrt.

    Fixed point: 1/768 has three digits with 18 fraction bits, and so has a variance of 0.004. So sums are divided by
    a power of two, exactly, and the rest of the division is a factor near 1 (for the mean) or is done after the
    square root (for the variance).
    """
    hidden_size = x.shape[-1]
    power = 2.0 ** math.floor(math.log2(hidden_size))
    mean = jnp.sum(x, axis=-1, keepdims=True) * (1.0 / power)
    if power != hidden_size:
        mean = mean * (power / hidden_size)
    centred = x - mean
    unit = variance_unit(hidden_size)
    scaled_variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) * (unit / hidden_size)
    inverse = rsqrt(scaled_variance + unit * epsilon) * math.sqrt(unit)
    return centred * inverse * gamma + beta
