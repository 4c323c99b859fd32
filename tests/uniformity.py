"""Whether an opened value says anything: chi-square tests on many openings of one constant, each with its own mask."""

from collections.abc import Callable

import numpy as np
from scipy.stats import chi2_contingency, chisquare

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
    """p values of the opened values being uniform, in three places of six bits."""
    return [chisquare(counts(opened, shift)).pvalue for shift in shifts(bits)]


def alike(pair: tuple[np.ndarray, np.ndarray], bits: int) -> list[float]:
    """p values of the openings of two secrets having one distribution."""
    return [chi2_contingency([counts(opened, shift) for opened in pair]).pvalue for shift in shifts(bits)]
