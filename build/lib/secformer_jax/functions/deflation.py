"""Goldschmidt's constants from a range: what to divide by beforehand, and how many steps."""

import math

import numpy as np

from secformer_jax.functions.calibration import Range

TOLERANCE = 2.0**-10
_FRACTION_UNIT = 2.0**-18
_MAX_STEPS = 40


def choose_reciprocal(q_range: Range, tolerance: float = TOLERANCE) -> tuple[float, int]:
    """(deflation, steps) for goldschmidt.reciprocal on this range, which should include a margin already.

    Deflation: the middle of the range, where both ends converge alike, but at least high/1.8: 2 - y near 0 costs
    precision.
    Steps: the fewest with a relative error within the tolerance at both ends, rounding of the tracked y included.
    """
    low, high = _positive(q_range)
    deflation = max((low + high) / 2, high / 1.8)
    ends = (low / deflation, high / deflation)
    for steps in range(1, _MAX_STEPS):
        if all(_reciprocal_error(y, steps) <= tolerance for y in ends):
            return deflation, steps
    raise ValueError(f"no number of steps reaches {tolerance} on {q_range}")


def choose_rsqrt(q_range: Range, tolerance: float = TOLERANCE) -> tuple[float, int]:
    """(deflation, steps) for goldschmidt.rsqrt on this range, which should include a margin already.

    Both from a search over deflations that put the high end at y from 1.2 to 2.5: the fewest steps, then the largest
    deflation (furthest from divergence at y = 3).
    """
    low, high = _positive(q_range)
    best: tuple[int, float] | None = None
    for y_high in np.linspace(1.2, 2.5, 27):
        deflation = high / float(y_high)
        for steps in range(1, _MAX_STEPS if best is None else best[0]):
            if all(_rsqrt_error(q / deflation, steps) <= tolerance for q in (low, high)):
                best = (steps, deflation)
                break
    if best is None:
        raise ValueError(f"no number of steps reaches {tolerance} on {q_range}")
    return best[1], best[0]


def _reciprocal_error(y: float, steps: int) -> float:
    """Relative error after the steps; the last squares both what is left and the rounding gathered by then."""
    left, drift = 1.0 - y, 0.0
    for _ in range(steps - 1):
        drift += _FRACTION_UNIT / max(1.0 - abs(left), _FRACTION_UNIT)
        left = left * left
    return (abs(left) + drift) ** 2


def _rsqrt_error(y: float, steps: int) -> float:
    drift = 0.0
    for _ in range(steps - 1):
        drift += _FRACTION_UNIT / max(y, _FRACTION_UNIT)
        y = y * (3.0 - y) ** 2 / 4.0
    root = math.sqrt(y) * (1.0 - drift)
    return abs(1.0 - root * (3.0 - root * root) / 2.0)


def _positive(q_range: Range) -> tuple[float, float]:
    if q_range.high <= 0:
        raise ValueError(f"a range of positive values is needed, not {q_range}")
    return max(q_range.low, q_range.high * 2.0**-12), q_range.high
