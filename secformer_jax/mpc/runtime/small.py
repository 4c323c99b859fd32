"""Local stages over few elements, by NumPy: one call an equation, nothing compiled.

XLA makes one loop of a stage, but takes a tenth of a second to compile it and half a millisecond to call it. With few
elements all equations take less; and NumPy's sums and products are rounded alike on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core
from jax.lax import RoundingMethod

from secformer_jax.mpc.runtime.shares import RING_BITS

ELEMENTS = 1 << 14
"""The most that an array has; beyond, XLA's one loop takes less."""


class _Call(NamedTuple):
    """One equation: a function, where its arguments are, and where its result goes."""

    function: Callable[..., Any]
    arguments: tuple[int, ...]
    public: tuple[int, ...]
    result: int


def _logical_shift(x: Any, count: Any) -> Any:
    return np.right_shift(np.asarray(x).view(np.uint64), np.asarray(count).astype(np.uint64)).view(np.int64)


def _broadcast(x: np.ndarray, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...], **_: Any) -> np.ndarray:
    sizes = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, np.shape(x), strict=True):
        sizes[axis] = size
    return np.broadcast_to(np.reshape(x, sizes), shape)


def _slice(x: np.ndarray, start_indices: Any, limit_indices: Any, strides: Any) -> np.ndarray:
    steps = strides or (1,) * len(start_indices)
    return x[tuple(slice(*each) for each in zip(start_indices, limit_indices, steps, strict=True))]


def _rounded(x: np.ndarray, bits: int, count: int) -> np.ndarray:
    """See `operations.round_off`."""
    return _logical_shift((x + (1 << (count - 1))) << (RING_BITS - bits), np.int64(RING_BITS - bits + count))


def _to_nearest_even(x: np.ndarray, rounding_method: RoundingMethod) -> np.ndarray:
    assert rounding_method is RoundingMethod.TO_NEAREST_EVEN
    return np.rint(x)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "shift_left": np.left_shift,
    "shift_right_arithmetic": np.right_shift,
    "shift_right_logical": _logical_shift,
    "round": _to_nearest_even,
    "dropped": _rounded,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "reshape": lambda x, new_sizes, **_: np.reshape(x, new_sizes),
    "squeeze": lambda x, dimensions: np.squeeze(x, axis=dimensions),
    "transpose": lambda x, permutation: np.transpose(x, permutation),
    "concatenate": lambda *x, dimension: np.concatenate(x, axis=dimension),
    "reduce_sum": lambda x, axes, **_: np.sum(x, axis=axes, dtype=x.dtype),
    "convert_element_type": lambda x, new_dtype, **_: np.asarray(x).astype(new_dtype),
    "bitcast_convert_type": lambda x, new_dtype: np.ascontiguousarray(x).view(new_dtype),
    "rev": lambda x, dimensions: np.flip(x, dimensions),
    "copy": np.asarray,
}
"""By JAX's primitives."""


class SmallFunction:
    """What `local.LocalFunction` does, equation by equation.

    Args:
        jaxpr: closed; its constants are public.
        secret: of its inputs.
        sums: primitives in which a public term is added to one component alone.
        calls: primitives that are nested functions.
    """

    def __init__(
        self, jaxpr: core.ClosedJaxpr, secret: Sequence[bool], *, sums: frozenset[str], calls: frozenset[str]
    ) -> None:
        self._sums, self._nested = sums, calls
        self._calls: list[_Call] = []
        self._constants: list[tuple[int, Any]] = []
        self._secret = [False, *secret]
        self._inputs = len(secret)
        slots = dict(zip(jaxpr.jaxpr.invars, range(1, 1 + self._inputs), strict=True))
        slots.update(zip(jaxpr.jaxpr.constvars, map(self._constant, jaxpr.consts), strict=True))
        self._results = self._add(jaxpr.jaxpr, slots)

    @staticmethod
    def fits(jaxpr: core.Jaxpr, calls: frozenset[str]) -> bool:
        """Whether every array is small, and every equation one of `FUNCTIONS`."""
        for eqn in jaxpr.eqns:
            if any(_size(v) > ELEMENTS for v in (*eqn.invars, *eqn.outvars)):
                return False
            if eqn.primitive.name in calls:
                if not SmallFunction.fits(eqn.params["jaxpr"].jaxpr, calls):
                    return False
            elif eqn.primitive.name not in FUNCTIONS:
                return False
        return True

    def __call__(self, first: np.ndarray, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As for `LocalFunction`; shares are arrays."""
        arguments = list(map(np.asarray, arguments))
        found = [self._on_component(one, i, arguments) for i, one in enumerate(first)]
        return [
            np.stack([each[k] for each in found]) if self._secret[slot] else found[0][k]
            for k, slot in enumerate(self._results)
        ]

    def _on_component(self, one: np.int64, index: int, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        values: list[Any] = [None] * len(self._secret)
        for slot, value in self._constants:
            values[slot] = value
        for slot, value in enumerate(arguments, 1):
            values[slot] = value[index] if self._secret[slot] else value
        with np.errstate(over="ignore"):
            for function, slots, public, result in self._calls:
                given = [values[slot] for slot in slots]
                for place in public:
                    given[place] = given[place] * one
                values[result] = function(*given)
        return [np.asarray(values[slot]) for slot in self._results]

    def _add(self, jaxpr: core.Jaxpr, slots: dict[Any, int]) -> list[int]:
        """The equations of a function with its arguments in these slots; returns those of its results."""

        def slot_of(v: Any) -> int:
            return slots[v] if isinstance(v, core.Var) else self._constant(np.asarray(v.val, v.aval.dtype))

        for eqn in jaxpr.eqns:
            given = tuple(map(slot_of, eqn.invars))
            if eqn.primitive.name in self._nested:
                inner = eqn.params["jaxpr"]
                own = dict(zip(inner.jaxpr.invars, given, strict=True))
                own.update(zip(inner.jaxpr.constvars, map(self._constant, inner.consts), strict=True))
                slots.update(zip(eqn.outvars, self._add(inner.jaxpr, own), strict=True))
                continue
            found = any(self._secret[slot] for slot in given)
            public = [i for i, slot in enumerate(given) if not self._secret[slot]]
            added = tuple(public) if found and eqn.primitive.name in self._sums else ()
            slots[eqn.outvars[0]] = result = self._slot(found)
            self._calls.append(_Call(_bound(eqn), given, added, result))
        return [slot_of(v) for v in jaxpr.outvars]

    def _slot(self, secret: bool) -> int:
        self._secret.append(secret)
        return len(self._secret) - 1

    def _constant(self, value: Any) -> int:
        slot = self._slot(False)
        self._constants.append((slot, np.asarray(value)))
        return slot


def _size(v: Any) -> int:
    return math.prod(v.aval.shape)


def _bound(eqn: Any) -> Callable[..., Any]:
    function, params = FUNCTIONS[eqn.primitive.name], eqn.params
    if isinstance(function, np.ufunc) or function in (_logical_shift, np.asarray):
        return function
    return lambda *x: function(*x, **params)
