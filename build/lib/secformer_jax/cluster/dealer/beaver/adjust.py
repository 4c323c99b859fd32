"""What the dealer answers, operation by operation: pure functions of what the parties' arrays add up to.

With r_i the sum over the parties of array i (or their exclusive or, or product), the parties hold shares of the masks,
and one of them adds the answer to its share of the last array, which thereby becomes what the operation needs.
Source: SPU's TrustedParty (libspu/mpc/semi2k/beaver), whose names these are.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from secformer_jax.cluster.dealer.beaver.prg import BLOCK, blocks, permutation, ring_bytes
from secformer_jax.cluster.dealer.beaver.request import Array, Request
from secformer_jax.mpc.ring import ring_matmul

# Work on pieces that stay in a core's cache.
PIECE = 1 << 17

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
    if c.itemsize == 8:
        product = ring_matmul(a.view(np.int64), b.view(np.int64)).view(c.dtype)
    else:
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


class Kept:
    """Sums of the parties' arrays that serve in every request, the masks of weights: the latest used, so many bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._sums: OrderedDict[Array, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, array: Array, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """The sum of an array, drawn unless it is there; not to be written to."""
        with self._lock:
            found = self._sums.get(array)
            if found is not None:
                self._sums.move_to_end(array)
                return found
        drawn = draw()
        drawn.flags.writeable = False
        with self._lock:
            if array not in self._sums and drawn.nbytes <= self._limit:
                self._sums[array] = drawn
                self._held += drawn.nbytes
                while self._held > self._limit:
                    self._held -= self._sums.popitem(last=False)[1].nbytes
        return drawn


def answers(operation: Operation, request: Request, older: Collection[int], kept: Kept) -> list[np.ndarray]:
    """The answers to a request that has been checked, in the order in which they are sent; uint8 each.

    Args:
        operation: what is asked for.
        request: of which arrays.
        older: those of them, by position, that an earlier request had.
        kept: where sums of older factors of matrix products are kept.
    """
    size = request.arrays[0].size
    whole = operation.adjust in WHOLE
    if whole or size <= PIECE:
        end = max(array.size for array in request.arrays)
        factors = [i for i in older if operation.adjust is _dot]
        parts = _draw(operation, request, 0, end) if not factors else _with_kept(operation, request, factors, kept)
        return [answer.view(np.uint8) for answer in operation.adjust(*parts, request)]
    results = [np.empty(size, np.uint8) for _ in range(operation.masks)]
    for start in range(0, size, PIECE):
        end = min(start + PIECE, size)
        parts = _draw(operation, request, start, end)
        for result, answer in zip(results, operation.adjust(*parts, request), strict=True):
            result[start:end] = answer.view(np.uint8)
    return results


def _with_kept(operation: Operation, request: Request, older: Collection[int], kept: Kept) -> list[np.ndarray]:
    """Whole arrays, those of earlier requests from what is kept."""

    def draw(index: int) -> np.ndarray:
        one = dataclasses.replace(request, arrays=(request.arrays[index],))
        return _draw(dataclasses.replace(operation, combine=(operation.combine[index],)), one, 0, one.arrays[0].size)[0]

    return [
        kept.get(array, functools.partial(draw, i)) if i in older else draw(i) for i, array in enumerate(request.arrays)
    ]


def _draw(operation: Operation, request: Request, start: int, end: int) -> list[np.ndarray]:
    """Elements of every array from byte `start` (a whole block) to `end`, the parties' parts combined."""
    drawn: list[np.ndarray] = []
    for seeds, counter, sizes in _runs(request.arrays, start, end):
        streams = ring_bytes(seeds, counter, BLOCK * sum(map(blocks, sizes)))
        offset = 0
        for size in sizes:
            how = operation.combine[len(drawn)]
            total, *others = (stream[offset : offset + size].view(request.dtype) for stream in streams)
            for part in others:
                how(total, part, out=total)
            drawn.append(total)
            offset += BLOCK * blocks(size)
    return drawn


def _runs(arrays: Sequence[Array], start: int, end: int) -> list[tuple[tuple[bytes, ...], int, list[int]]]:
    """Arrays that follow each other in the same streams, drawn at once: (seeds, counter, sizes)."""
    found: list[tuple[tuple[bytes, ...], int, list[int]]] = []
    for i, array in enumerate(arrays):
        size = min(end, array.size) - start
        before = arrays[i - 1]
        if i and array.counter == before.end and array.seeds == before.seeds and not start and before.size <= end:
            found[-1][2].append(size)
        else:
            found.append((array.seeds, array.counter + start // BLOCK, [size]))
    return found
