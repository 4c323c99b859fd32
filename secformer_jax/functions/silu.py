"""SiLU, the gate of Llama's feed-forward part."""

import jax
import jax.numpy as jnp


def silu_exact(x: jax.Array) -> jax.Array:
    """SiLU itself.

    Formula: x / (1 + exp(-x)) = x/2 (1 + tanh(x/2)). Source: Hendrycks and Gimpel 2016; Shazeer 2020 (SwiGLU).
    Domain: all x, no error. Under MPC it is SPU's own tanh.
    """
    return 0.5 * x * (1.0 + jnp.tanh(0.5 * x))
