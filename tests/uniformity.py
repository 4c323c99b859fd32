"""Whether an opened value says anything: chi-square tests on many openings of one constant, each with its own mask."""

from collections.abc import Callable

import numpy as np
from scipy.stats import chi2, chi2_contingency, chisquare

OPENINGS = 100_000


def accepted(p_values: Callable[[], list[float]]) -> bool:
    """Whether every p > 0.001, on a second draw if not on the first: chance alone fails one in a hundred thousand."""
    return any(min(p_values()) > 0.001 for _ in range(2))


def counts(opened: np.ndarray, shift: int) -> np.ndarray:
    """How often each value of the six bits from `shift` up was opened."""
    return np.bincount(((opened >> shift) & 63).astype(np.int64), minlength=64)


def shifts(bits: int) -> tuple[int, int, int]:
    """Of a value of that many bits: the highest six bits, six in the middle, the lowest six."""
    return bits - 6, bits // 2 - 2, 0


def uniform(opened: np.ndarray, bits: int) -> list[float]:
    """p values of the opened values being uniform: in three places of six bits, and in each single bit."""
    return [*(chisquare(counts(opened, shift)).pvalue for shift in shifts(bits)), single_bits(opened, bits)]


def single_bits(opened: np.ndarray, bits: int) -> float:
    """p value of every bit being one in half of the openings."""
    ones = np.array([np.count_nonzero((opened >> bit) & 1) for bit in range(bits)])
    return float(chi2.sf(np.sum(np.square(2 * ones - opened.size) / opened.size), bits))


def alike(pair: tuple[np.ndarray, np.ndarray], bits: int) -> list[float]:
    """p values of the openings of two secrets having one distribution."""
    return [chi2_contingency([counts(opened, shift) for opened in pair]).pvalue for shift in shifts(bits)]


def three_bits(opened: np.ndarray, shift: int) -> np.ndarray:
    """The three bits from `shift` up of each value."""
    return ((opened >> shift) & 7).astype(np.int64)


def jointly(pair: tuple[np.ndarray, np.ndarray], bits: tuple[int, int]) -> list[float]:
    """p values of two openings being uniform together: the highest three bits of both, and the lowest three."""
    return [
        chisquare(np.bincount(8 * three_bits(pair[0], one) + three_bits(pair[1], other), minlength=64)).pvalue
        for one, other in ((bits[0] - 3, bits[1] - 3), (0, 0))
    ]
