"""Goldschmidt's division and inverse square root, with deflation and number of steps as arguments.

Both keep a pair (y, p): y = q / deflation is driven to 1, and p gathers the same factors, so that p ends at 1/y or
y^(-1/2). In exact arithmetic y and p stay tied to each other (y = y_0 p, or y_0 p^2). In fixed point they drift
apart by the rounding of every step, relative to the smallest y on the way. So the last step takes its y from q and p
instead of from the tracked pair: the same number in exact arithmetic, and the drift of all earlier steps drops out
of the result.
"""

import jax


def reciprocal(q: jax.Array, *, deflation: float, steps: int) -> jax.Array:
    """1/q by Goldschmidt's iteration.

    Formula: y = q/deflation, p = 1; `steps` times: w = 2 - y, p = p w, y = y w; result p/deflation.
    Source: SecFormer (Luo et al., Findings of ACL 2024), its softmax protocol; deflation 5000 and 13 steps there.
    Domain: 0 < q < 2 deflation. Relative error exactly (1 - q/deflation)^(2^steps); diverges outside.
    Cost: 2 steps - 1 multiplications in steps + 1 rounds, no comparison; one public factor each way unless deflation
    is 1.

    Fixed point: the result must itself be representable: 1/q near 2^-f is lost. Callers scale what they divide
    (softmax_two_quad folds its deflation into the numerators) instead of passing a large q here.
    """
    _check(deflation, steps)
    y = q if deflation == 1.0 else q * (1.0 / deflation)
    p = None
    for _ in range(steps - 1):
        w = 2.0 - y
        p = w if p is None else p * w
        y = y * w
    if p is None:
        return (2.0 - y) * (1.0 / deflation)
    if deflation != 1.0:
        p = p * (1.0 / deflation)
    return p * (2.0 - q * p)


def rsqrt(q: jax.Array, *, deflation: float, steps: int) -> jax.Array:
    """q^(-1/2) by Goldschmidt's iteration.

    Formula: y = q/deflation, p = 1; `steps` times: w = (3 - y)/2, p = p w, y = y w^2; result p deflation^(-1/2).
    Source: SecFormer (Luo et al., Findings of ACL 2024), its LayerNorm protocol; deflation 2000 and 11 steps there.
    Domain: 0 < q < 3 deflation, and q not far under deflation: each step gains a factor 2.25 on y until y is near 1.
    The paper's constants leave an error of 44% at q = 0.1; deflation.choose_rsqrt chooses both for a range.
    Cost: 3 steps - 1 multiplications in 2 steps + 1 rounds, no comparison, and the public factors.
    """
    _check(deflation, steps)
    scale = deflation**-0.5
    half_y = q * (0.5 / deflation)
    p = None
    for _ in range(steps - 1):
        w = 1.5 - half_y
        p = w if p is None else p * w
        half_y = (half_y * w) * w
    if p is None:
        return (1.5 - half_y) * scale
    if deflation != 1.0:
        p = p * scale
    return p * (1.5 - 0.5 * ((q * p) * p))


def _check(deflation: float, steps: int) -> None:
    if steps < 1 or not deflation > 0:
        raise ValueError(f"deflation {deflation} and steps {steps}: both have to be positive")
