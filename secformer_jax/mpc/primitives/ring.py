"""Matrix products modulo 2^64 in numpy: what a dealer computes for products of two masks."""

from __future__ import annotations

import numpy as np

DIGIT_BITS, DIGITS = 22, 3
# Balanced digits are at most 2^21 in size, so that sums of so many products stay below 2^53 and float64 is exact.
TERMS = 2048


def ring_matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """int64 matrix product modulo 2^64 by exact float64 products of 22-bit digits: BLAS instead of integer loops.

    Args:
        x: (..., n, d) ring elements.
        y: (..., d, k) ring elements.
    """
    total = np.zeros((), np.int64)
    for start in range(0, x.shape[-1], TERMS):
        left, right = _digits(x[..., start : start + TERMS]), _digits(y[..., start : start + TERMS, :])
        for i, x_digit in enumerate(left):
            for j, y_digit in enumerate(right[: DIGITS - i]):
                total = total + ((x_digit @ y_digit).astype(np.int64) << (DIGIT_BITS * (i + j)))
    return total


def _digits(x: np.ndarray) -> list[np.ndarray]:
    half = 1 << (DIGIT_BITS - 1)
    digits = []
    for _ in range(DIGITS):
        low = ((x + half) & ((1 << DIGIT_BITS) - 1)) - half
        digits.append(low.astype(np.float64))
        x = (x - low) >> DIGIT_BITS
    return digits
