"""Matrix products modulo 2^bits as exact float64 products of digits: BLAS instead of integer loops.

A ring element is a sum of balanced digits, x = x_0 + 2^b x_1 + ..., each in [-2^(b-1), 2^(b-1)). Products of digits
whose weight reaches 2^bits vanish, so two digits take three products of matrices and three take six.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

from secformer_jax.mpc.blas import matmul


@dataclass(frozen=True)
class Digits:
    """A matrix, or a stack of them, by its digits; float32 holds them exactly.

    Attributes:
        parts: the digits from the lowest, each of the matrix's shape.
        width: bits of a digit.
    """

    parts: tuple[np.ndarray, ...]
    width: int


def layout(bits: int) -> tuple[int, int, int]:
    """(bits of a digit, digits, longest sum) for products modulo 2^bits: sums reach 2^53 at most, exactly."""
    if bits <= 24:
        return 24, 1, 1 << 7
    return 22, 2 if bits <= 44 else 3, 1 << 10


def cut(x: np.ndarray, bits: int) -> Digits:
    """The digits of ring elements (int64) for products modulo 2^bits."""
    width, count, _ = layout(bits)
    half, mask = 1 << (width - 1), (1 << width) - 1
    flat, parts = np.ascontiguousarray(x).reshape(-1), [np.empty(x.size, np.float32) for _ in range(count)]
    for start in range(0, flat.size, _BLOCK):
        block = np.s_[start : start + _BLOCK]
        rest = flat[block].copy()
        for index, part in enumerate(parts):
            low = rest + half
            low &= mask
            low -= half
            part[block] = low
            if index < count - 1:
                rest -= low
                rest >>= width
    return Digits(tuple(part.reshape(x.shape) for part in parts), width)


def ring_matmul(x: np.ndarray | Digits, y: np.ndarray | Digits, bits: int = 64) -> np.ndarray:
    """The product of matrices modulo 2^bits; what the int64 result holds above is of no meaning.

    Args:
        x: (..., n, d) ring elements, or their digits.
        y: (..., d, k), likewise; or one matrix (d, k) for all of x.
        bits: of the ring.
    """
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape[-2] <= _FEW_ROWS:
        return _by_rows(x, y)
    width, count, terms = layout(bits)
    left, right = (_digits(each, bits, count) for each in (x, y))
    shape = (*left[0].shape[:-1], right[0].shape[-1])
    if right[0].ndim == 2:
        left = tuple(part.reshape(-1, part.shape[-1]) for part in left)
    total = np.zeros((*left[0].shape[:-1], shape[-1]), np.int64)
    for start in range(0, left[0].shape[-1], terms):
        # [.. x_1 x_0] and [y_0; y_1; ..]: a level is the sum of all products of one weight, in one product.
        part = np.s_[..., start : start + terms]
        rows = _joined("rows", [each[part] for each in reversed(left)], -1)
        depth = rows.shape[-1] // count
        for first in range(0, shape[-1], _PANEL):
            panel = np.s_[..., start : start + terms, first : first + _PANEL]
            below = _joined("below", [each[panel] for each in right], -2)
            summed = _scratch.array("summed", (*rows.shape[:-1], below.shape[-1]), np.float64)
            product = _scratch.array("product", summed.shape, np.int64)
            for level in range(count):
                used = depth * (level + 1)
                matmul(rows[..., rows.shape[-1] - used :], below[..., :used, :], summed)
                np.copyto(product, summed, casting="unsafe")
                product <<= width * level
                total[..., first : first + _PANEL] += product
    return total.reshape(shape)


_FEW_ROWS = 4
"""So few are multiplied as integers: it takes as long as to read the matrix, and cutting that takes longer."""


def _by_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = np.empty((*x.shape[:-1], y.shape[-1]), np.int64)
    for index in np.ndindex(x.shape[:-1]):
        matrix = y if y.ndim == 2 else y[index[:-1]]
        np.einsum("d,dk->k", x[index], matrix, out=total[index])
    return total


_BLOCK = 1 << 14
"""Elements that are cut at a time: they fit a core's cache."""

_PANEL = 1024
"""Columns that are multiplied at a time: their digits in float64 don't take much."""


class _Scratch(threading.local):
    """Arrays that a thread uses again: from fresh memory each would cost as much as what is done with it."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array of this shape; the next call with this name overwrites it."""
        count = math.prod(shape)
        if name not in self._arrays or self._arrays[name].size < count:
            self._arrays[name] = np.empty(count, dtype)
        return self._arrays[name][:count].reshape(shape)


_scratch = _Scratch()


def _joined(name: str, parts: list[np.ndarray], axis: int) -> np.ndarray:
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return np.concatenate(parts, axis=axis, out=_scratch.array(name, tuple(shape), np.float64))


def _digits(x: np.ndarray | Digits, bits: int, count: int) -> tuple[np.ndarray, ...]:
    digits = x if isinstance(x, Digits) else cut(x, bits)
    if digits.width != layout(bits)[0] or len(digits.parts) < count:
        raise ValueError(f"digits of {digits.width} bits, {len(digits.parts)} of them, are not enough for {bits} bits")
    return digits.parts[:count]
