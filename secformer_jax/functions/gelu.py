"""GeLU: exact, and the variants of MPCFormer, Puma and SecFormer."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from secformer_jax.functions import series

Evaluate = Callable[[jax.Array, series.Series], jax.Array]

_PUMA_CUBIC = (-0.011034134030615728, -0.11807612951181953, -0.42226581151983866, -0.5054031199708174)
_PUMA_SEXTIC = (0.0018067462606141187, -0.037688200365904236, 0.3603292692789629, 0.5, 0.008526321541038084)

SECFORMER_SINE = series.Series.sines(
    20.0, (1.25772, -0.0299154, 0.382155, -0.0519123, 0.196033, -0.0624557, 0.118029), limit=1.7, error=0.0218
)
"""erf(u) for |u| <= 1.7, as published in SecFormer. (The exact 7th coefficient is 0.118092.)"""

_SINE_RESCALE = 32.0 / SECFORMER_SINE.period

SEGMENT_SERIES = series.Series.sines(32.0, SECFORMER_SINE.sin, SECFORMER_SINE.high * _SINE_RESCALE, 0.0218).scaled(0.5)
"""The series that `gelu_fourier_segmented` evaluates: SecFormer's with a period that is a power of two, and halved."""


def gelu_exact(x: jax.Array) -> jax.Array:
    """GeLU itself.

    Formula: x/2 (1 + erf(x/sqrt 2)). Source: Hendrycks and Gimpel 2016; BERT's `gelu`.
    Domain: all x, no error. Under MPC it is SPU's own erf.
    Written with erf: `jax.nn.gelu` has erfc, for which SPU has no function of its own.
    """
    return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))


def gelu_new(x: jax.Array) -> jax.Array:
    """GeLU's tanh form, as a model may ask for it.

    Formula: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Source: Hendrycks and Gimpel 2016; GPT-2's `gelu_new`.
    Domain: all x, within 0.0005 of GeLU itself. Under MPC it is SPU's own tanh.
    """
    return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


EXACT = {"gelu": gelu_exact, "gelu_new": gelu_new}
"""What a model's hidden_act says."""


def gelu_quad(x: jax.Array) -> jax.Array:
    """MPCFormer's quadratic stand-in, for models distilled with it.

    Formula: 0.125 x^2 + 0.25 x + 0.5 = 0.125 (x + 1)^2 + 0.375.
    Source: MPCFormer (Li et al., ICLR 2023), "Quad"; the constants of its training code.
    Domain: all x, after distillation; against GeLU the max error is 0.561 for |x| <= 2 and grows as x^2/8 outside.
    Cost: one square.
    """
    return 0.125 * jnp.square(x + 1.0) + 0.375


def gelu_puma(x: jax.Array) -> jax.Array:
    """Puma's piecewise polynomials.

    Formula: 0 (x < -4); a cubic on [-4, -1.95); a sextic on [-1.95, 3]; x (x > 3).
    Source: Puma (Dong et al., arXiv 2307.12533), secure GeLU.
    Domain: all x (in fixed point |x| < 64); max error 0.0199, at x = 3.
    Cost: 3 comparisons, 4 multiplications, 3 products with a bit.

    The sextic is made monic in t = g x^2, g = a_6^(1/3): its even part is t (t (t + a_4/g^2) + a_2/g). With 18
    fraction bits a_6 itself has three digits and x^6 overflows for |x| > 22; t has neither trouble.
    """
    c3, c2, c1, c0 = _PUMA_CUBIC
    a6, a4, a2, a1, a0 = _PUMA_SEXTIC
    g = a6 ** (1 / 3)
    x2 = jnp.square(x)
    t = g * x2
    sextic = t * (t * (t + a4 / g**2) + a2 / g) + (a1 * x + a0)
    cubic = x2 * (c3 * x + c2) + (c1 * x + c0)
    under_zero, under_cubic, over = x < -4.0, x < -1.95, x > 3.0
    return (
        jnp.where(under_zero ^ under_cubic, cubic, 0.0)
        + jnp.where(~(under_cubic ^ over), sextic, 0.0)
        + jnp.where(over, x, 0.0)
    )


def gelu_fourier_segmented(x: jax.Array, evaluate: Evaluate = series.evaluate) -> jax.Array:
    """SecFormer's GeLU: a sine series for erf, cut at abs(u) = 1.7.

    Formula: x/2 (1 + s(u)), u = x/sqrt 2; s(u) = -1 (u < -1.7), sum b_k sin(2 pi k u/20) (|u| <= 1.7), 1 (u > 1.7).
    Source: SecFormer (Luo et al., Findings of ACL 2024), its GeLU protocol; the coefficients as published.
    Domain: all x; max error 0.0195, at |x| = 2.404 (the cut).
    Cost: 2 comparisons, 1 multiplication, 2 products with a bit, and the series: one masked opening under MPC.

    `evaluate(v, series)` is called once, with v = 32 u/20 and a series of period 32 (a power of two, so that a
    masked opening is reduced by a shift); the coefficients come halved, because the series stands for s/2.
    """
    limit = SEGMENT_SERIES.high
    v = x * (_SINE_RESCALE * math.sqrt(0.5))
    middle = 0.5 + evaluate(v, SEGMENT_SERIES)
    half = jnp.where(v > limit, 1.0, jnp.where(v < -limit, 0.0, middle))
    return x * half


def gelu_fourier(x: jax.Array, tail: series.Series, evaluate: Evaluate = series.evaluate) -> jax.Array:
    """GeLU without a comparison: x/2 plus a series of odd cosines for x/2 erf(x/sqrt 2).

    Formula: x/2 + tail(x), `tail` from fitting.fit_gelu_tail.
    Source: ours, after SecFormer's Pi_Sin.
    Domain: abs(x) <= tail.high, max error tail.error (0.001); beyond it the tail saturates near tail.high/2, so that
    the result bends towards half of GeLU's slope and stays bounded by abs(x).
    Cost: one masked opening under MPC; no comparison, no multiplication.
    """
    return 0.5 * x + evaluate(x, tail)
