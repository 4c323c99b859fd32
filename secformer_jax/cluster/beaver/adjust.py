"""What the dealer answers, operation by operation: pure functions of what the parties' arrays add up to.

With r_i the sum over the parties of array i (or their exclusive or, or product), the parties hold shares of the masks,
and one of them adds the answer to its share of the last array, which thereby becomes what the operation needs.
Source: SPU's TrustedParty (libspu/mpc/semi2k/beaver), whose names these are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...mpc.ring import ring_matmul
from .prg import MERSENNE_61, permutation, prime_field, ring_bytes
from .request import Request

# Work on pieces that stay in a core's cache.
PIECE = 1 << 18

ADD, XOR, MULTIPLY = np.add, np.bitwise_xor, np.multiply


@dataclass(frozen=True)
class Operation:
    """How one operation is computed.

    Attributes:
        combine: for each array how the parties' parts become one.
        adjust: (*arrays, request) -> the answers, each as long as an array.
        masks: how many answers there are; answer i is masked by array i - masks, counted from the end.
        replays: whether the first arrays may be those of an earlier request (a weight whose opening is kept).
    """

    combine: tuple[np.ufunc, ...]
    adjust: Callable[..., tuple[np.ndarray, ...]]
    masks: int = 1
    replays: bool = False


def _mul(a, b, c, request):
    return (a * b - c,)


def _square(a, b, request):
    return (a * a - b,)


def _and(a, b, c, request):
    return ((a & b) ^ c,)


def _mul_private(product, c, request):
    return (product - c,)


def _trunc(a, b, request):
    signed = a.view(a.dtype.str.replace("u", "i"))
    return ((signed >> request.bits).view(a.dtype) - b,)


def _trunc_pr(r, b, c, request):
    bits, width = a_type(r, request.bits + 1), a_type(r, 8 * r.dtype.itemsize - 1)
    return ((r << a_type(r, 1)) >> bits) - b, (r >> width) - c


def _rand_bit(a, request):
    drawn = np.unpackbits(np.frombuffer(os.urandom(-(-a.size // 8)), np.uint8), count=a.size)
    return (drawn.astype(a.dtype) - a,)


def _eqz(a, b, request):
    return (a ^ b,)


def a_type(like: np.ndarray, number: int) -> np.generic:
    """A number in an array's type, so that shifts keep it."""
    return like.dtype.type(number)


def _dot(a, b, c, request):
    m, n, k = request.dimensions
    a = a.reshape(k, m).T if request.transpose[0] else a.reshape(m, k)
    b = b.reshape(n, k).T if request.transpose[1] else b.reshape(k, n)
    product = ring_matmul(a.astype(np.int64), b.astype(np.int64)).astype(c.dtype)
    return (product.reshape(-1) - c,)


def _perm(a, b, request):
    assert request.permutation is not None
    moved = np.empty_like(a)
    moved[permutation(request.permutation.seed, request.permutation.counter, a.size)] = a
    return (moved - b,)


OPERATIONS = {
    "AdjustMul": Operation((ADD, ADD, ADD), _mul, replays=True),
    "AdjustMulPriv": Operation((MULTIPLY, ADD), _mul_private),
    "AdjustSquare": Operation((ADD, ADD), _square, replays=True),
    "AdjustDot": Operation((ADD, ADD, ADD), _dot, replays=True),
    "AdjustAnd": Operation((XOR, XOR, XOR), _and),
    "AdjustTrunc": Operation((ADD, ADD), _trunc),
    "AdjustTruncPr": Operation((ADD, ADD, ADD), _trunc_pr, masks=2),
    "AdjustRandBit": Operation((ADD,), _rand_bit),
    "AdjustEqz": Operation((ADD, XOR), _eqz),
    "AdjustPerm": Operation((ADD, ADD), _perm),
}
WHOLE = (_dot, _perm)
"""Operations whose arrays can't be cut into pieces."""


def answers(operation: Operation, request: Request) -> list[np.ndarray]:
    """The answers to a request that has been checked, in the order in which they are sent; uint8 each."""
    if request.prime_field:
        return [_prime(operation, request).view(np.uint8)]
    size = request.arrays[0].size
    if operation.adjust in WHOLE:
        parts = [_draw(array, how, 0, array.size, request.dtype) for array, how in _with(operation, request)]
        return [answer.view(np.uint8) for answer in operation.adjust(*parts, request)]
    results = [np.empty(size, np.uint8) for _ in range(operation.masks)]
    for start in range(0, size, PIECE):
        end = min(start + PIECE, size)
        parts = [_draw(array, how, start, end, request.dtype) for array, how in _with(operation, request)]
        for result, answer in zip(results, operation.adjust(*parts, request), strict=True):
            result[start:end] = answer.view(np.uint8)
    return results


def _with(operation: Operation, request: Request):
    return zip(request.arrays, operation.combine, strict=True)


def _draw(array, how: np.ufunc, start: int, end: int, dtype: np.dtype) -> np.ndarray:
    """Elements of one array from byte `start` (a whole block) to `end`, the parties' parts combined."""
    counter = array.counter + start // 16
    parts = [ring_bytes(seed, counter, end - start).view(dtype) for seed in array.seeds]
    total = parts[0]
    for part in parts[1:]:
        how(total, part, out=total)
    return total


def _prime(operation: Operation, request: Request) -> np.ndarray:
    """AdjustMul and AdjustMulPriv modulo 2^61 - 1."""
    combine = {ADD: _add_prime, MULTIPLY: _multiply_prime}
    totals = []
    for array, how in _with(operation, request):
        parts = [prime_field(seed, array.counter, array.size // 8) for seed in array.seeds]
        total = parts[0]
        for part in parts[1:]:
            total = combine[how](total, part)
        totals.append(total)
    product = _multiply_prime(*totals[:2]) if len(totals) == 3 else totals[0]
    return _add_prime(product, MERSENNE_61 - totals[-1])


def _reduce(x: np.ndarray) -> np.ndarray:
    x = (x & MERSENNE_61) + (x >> np.uint64(61))
    return np.where(x >= MERSENNE_61, x - MERSENNE_61, x)


def _add_prime(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _reduce(x + y)


def _multiply_prime(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x y modulo 2^61 - 1 by halves: x = x1 2^31 + x0, and 2^62 = 2."""
    low, half = np.uint64((1 << 31) - 1), np.uint64(31)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    # Each product is below 2^62, so three of them fit; 2^31 m is split where it passes 2^61.
    middle = _reduce(x1 * y0 + x0 * y1)
    shifted = ((middle & np.uint64((1 << 30) - 1)) << half) + (middle >> np.uint64(30))
    return _reduce(_reduce(_reduce(np.uint64(2) * (x1 * y1)) + _reduce(shifted)) + _reduce(x0 * y0))
