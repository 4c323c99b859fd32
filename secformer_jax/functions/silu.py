"""SiLU, the gate of Llama's feed-forward part."""

import jax
import jax.numpy as jnp


def silu_exact(x: jax.Array) -> jax.Array:
    """SiLU itself.

    Formula: x / (1 + exp(-x)) = x/2 (1 + tanh(x/2)). Source: Hendrycks and Gimpel 2016; Shazeer 2020 (SwiGLU).
    Domain: all x, no error. Under MPC it is SPU's own tanh.
    """
    return 0.5 * x * (1.0 + jnp.tanh(0.5 * x))


_PUMA_QUADRATIC = (-0.0055465625580307, -0.0819767021525476, -0.3067541139982155)
_PUMA_SEXTIC = (0.0002743776353465, -0.011113046708173, 0.228143084172827, 0.5, 0.0085064025895951)


def silu_puma(x: jax.Array) -> jax.Array:
    """Puma's piecewise polynomials.

    Formula: 0 (x < -8); a quadratic on [-8, -4); a sextic on [-4, 4]; x (x > 4).
    Source: SPU's example of Puma's LLaMA-7B (flax_llama7b.py), whose constants these are.
    Domain: all x (in fixed point abs(x) < 128); max error 0.072, at x = 4.
    Cost: 3 comparisons, 3 multiplications, 3 products with a bit.

    The sextic is made monic, as in `gelu_puma`.
    """
    q2, q1, q0 = _PUMA_QUADRATIC
    a6, a4, a2, a1, a0 = _PUMA_SEXTIC
    g = a6 ** (1 / 3)
    x2 = jnp.square(x)
    t = g * x2
    sextic = t * (t * (t + a4 / g**2) + a2 / g) + (a1 * x + a0)
    quadratic = q2 * x2 + (q1 * x + q0)
    under_zero, under_quadratic, over = x < -8.0, x < -4.0, x > 4.0
    return (
        jnp.where(under_zero ^ under_quadratic, quadratic, 0.0)
        + jnp.where(~(under_quadratic ^ over), sextic, 0.0)
        + jnp.where(over, x, 0.0)
    )
