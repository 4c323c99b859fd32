"""Sine series: the part of SecFormer's GeLU that one masked opening computes."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class SineSeries:
    """The series sum_k coefficients[k-1] sin(2 pi k u / period), k = 1..K."""

    period: float
    coefficients: tuple[float, ...]

    def scaled(self, factor: float) -> "SineSeries":
        """The same series times a public factor, which so costs nothing."""
        return SineSeries(self.period, tuple(factor * b for b in self.coefficients))


SECFORMER_SINE = SineSeries(
    period=20.0, coefficients=(1.25772, -0.0299154, 0.382155, -0.0519123, 0.196033, -0.0624557, 0.118029)
)
"""erf(u) for |u| <= 1.7, as published in SecFormer; max error 0.0218. (The exact 7th coefficient is 0.118092.)"""


def sine_series(u: jax.Array, series: SineSeries) -> jax.Array:
    """The series evaluated directly.

    Formula: s_k = sin(k theta), theta = 2 pi u / period, by s_(k+1) = 2 cos(theta) s_k - s_(k-1) (Chebyshev).
    Source: SecFormer (Luo et al., Findings of ACL 2024), Pi_Sin, of which this is the function computed.
    Domain: all u in plaintext; error of rounding only (below 1e-4 in float32 for |u| <= 2 periods).
    Cost: one sine, one cosine and K - 1 multiplications. mpc replaces it with one masked opening and no multiplication.
    """
    theta = u * (2.0 * math.pi / series.period)
    previous, current = jnp.zeros_like(theta), jnp.sin(theta)
    double_cos = 2.0 * jnp.cos(theta) if len(series.coefficients) > 1 else None
    total = series.coefficients[0] * current
    for coefficient in series.coefficients[1:]:
        previous, current = current, double_cos * current - previous
        total = total + coefficient * current
    return total
