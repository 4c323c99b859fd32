"""What XLA compiles for a party's work on its shares, once for all functions that differ in public constants alone.

The layers of a model have equal stages, whose constants (periods, coefficients, offsets) are each layer's own: these
are arguments of what is compiled, and only shapes, widths and shifts are part of it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.runtime.linear import CALLS, SUMS, secret_results
from secformer_jax.mpc.runtime.operations import dropped_p, round_off
from secformer_jax.mpc.runtime.pieces import joined

_LIFTED = frozenset({"add", "sub", "mul", "broadcast_in_dim"})
"""Primitives whose numbers are arguments; those of others (shifts, masks of bits) make the loop what it is."""

Place = tuple[int, int]
"""A number in the equations: which equation, and which of its operands."""


class Kernel:
    """Equations as XLA compiles them, for one party's components.

    Args:
        jaxpr: of one of the functions that it serves.
        secret: of the inputs.
    """

    def __init__(self, jaxpr: core.Jaxpr, secret: Sequence[bool]) -> None:
        places = [place for place, _ in _numbers(jaxpr)]
        secret_outputs = secret_results(jaxpr, secret)
        consts = len(jaxpr.constvars)

        def on_components(one: jax.Array, constants: Sequence[jax.Array], *arguments: jax.Array) -> list[jax.Array]:
            numbers = dict(zip(places, constants[consts:], strict=True))
            return [value for value, _ in _evaluate(jaxpr, constants[:consts], arguments, secret, one, numbers)]

        def on_all(first: jax.Array, constants: Sequence[jax.Array], *arguments: jax.Array) -> list[jax.Array]:
            arguments = tuple(map(_elements, arguments, (v.aval for v in jaxpr.invars)))
            if first.shape == (1,):  # an axis of length one would cost XLA some of its fusions
                own = (x[0] if s else x for x, s in zip(arguments, secret, strict=True))
                found = on_components(first[0], constants, *own)
                return [x[None] if s else x for x, s in zip(found, secret_outputs, strict=True)]
            axes = (0, None, *(0 if s else None for s in secret))
            over = jax.vmap(on_components, axes, [0 if s else None for s in secret_outputs])
            return over(first, constants, *arguments)

        with enable_x64():
            self.jitted = jax.jit(on_all)
        self._compiled: dict[Any, Any] = {}
        self._compiling = threading.Lock()

    def __call__(self, *arguments: Any) -> list[jax.Array]:
        """The component that takes what is public, the constants, and the arguments: see `local.LocalFunction`."""
        leaves, tree = jax.tree.flatten(arguments)
        kinds = tree, *((leaf.shape, leaf.dtype) for leaf in leaves)
        if kinds not in self._compiled:
            # Parties and lanes of one process ask at the same time, and jit would compile for each of them.
            with self._compiling, enable_x64():
                if kinds not in self._compiled:
                    self._compiled[kinds] = self.jitted.lower(*arguments).compile()
        with enable_x64():
            return jax.block_until_ready(self._compiled[kinds](*arguments))


@dataclass(frozen=True)
class Bound:
    """A kernel with one function's constants."""

    kernel: Kernel
    constants: tuple[jax.Array, ...]

    def __call__(self, first: np.ndarray, arguments: Sequence[Any]) -> list[jax.Array]:
        """As `local.LocalFunction`."""
        return self.kernel(first, self.constants, *arguments)

    def traced(self, first: jax.Array, arguments: Sequence[Any]) -> list[jax.Array]:
        """The same inside another function that XLA compiles."""
        return self.kernel.jitted(first, self.constants, *arguments)


class Kernels:
    """Those of one program."""

    def __init__(self) -> None:
        self._kernels: dict[Hashable, Kernel] = {}

    def find(self, closed: core.ClosedJaxpr, secret: tuple[bool, ...]) -> Bound:
        """The one of these equations, made if none has their form."""
        jaxpr = closed.jaxpr
        constants = [*closed.consts, *(value for _, value in _numbers(jaxpr))]
        kernel = self._kernels.setdefault((_form(jaxpr), secret), Kernel(jaxpr, secret))
        with jax.ensure_compile_time_eval(), enable_x64():
            return Bound(kernel, tuple(map(jax.numpy.asarray, constants)))


def nested_constants(eqns: Sequence[Any]) -> tuple[bytes, ...]:
    """Of functions inside these equations, however deep: their printed form leaves them out."""
    found: tuple[bytes, ...] = ()
    for closed in (p for eqn in eqns for p in eqn.params.values() if isinstance(p, core.ClosedJaxpr)):
        found += *(np.asarray(each).tobytes() for each in closed.consts), *nested_constants(closed.jaxpr.eqns)
    return found


def _numbers(jaxpr: core.Jaxpr) -> Iterator[tuple[Place, np.ndarray]]:
    """The numbers that are arguments of a kernel, and where they stand."""
    for i, eqn in enumerate(jaxpr.eqns):
        for k, v in enumerate(eqn.invars):
            if isinstance(v, core.Literal) and eqn.primitive.name in _LIFTED:
                aval: Any = v.aval
                yield (i, k), np.asarray(v.val, aval.dtype)


def _form(jaxpr: core.Jaxpr) -> Hashable:
    """Equal for equations that differ in `_numbers` and in the values of their constants alone."""
    order: dict[Any, int] = {}

    def name(v: Any) -> Hashable:
        return order.setdefault(v, len(order)), str(v.aval)

    def operand(v: Any, lifted: bool) -> Hashable:
        if isinstance(v, core.Var):
            return name(v)
        return str(v.aval) if lifted else (str(v.aval), np.asarray(v.val).tobytes())

    found: list[Hashable] = [tuple(map(name, (*jaxpr.constvars, *jaxpr.invars)))]
    for eqn in jaxpr.eqns:
        lifted = eqn.primitive.name in _LIFTED
        operands = tuple(operand(v, lifted) for v in eqn.invars)
        parameters = repr(sorted(eqn.params.items())), nested_constants([eqn])
        found.append((eqn.primitive.name, operands, parameters, tuple(map(name, eqn.outvars))))
    return tuple(found), tuple(operand(v, False) for v in jaxpr.outvars)


def _elements(argument: Any, aval: Any) -> jax.Array:
    """A share's elements from the pieces of a packed one: XLA reads them where it needs them."""
    if not isinstance(argument, tuple):
        return argument
    return joined(argument).reshape(1, *aval.shape)


def _evaluate(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    secret: Sequence[bool],
    one: jax.Array,
    numbers: Mapping[Place, jax.Array],
) -> list[tuple[jax.Array, bool]]:
    """The results on one component, and whether they are secret. A public term is added to one component alone."""
    known: dict[Any, tuple[Any, bool]] = dict(zip(jaxpr.invars, zip(arguments, secret, strict=True), strict=True))
    known.update({v: (value, False) for v, value in zip(jaxpr.constvars, consts, strict=True)})

    def read(v: Any, place: Place | None = None) -> tuple[Any, bool]:
        if isinstance(v, core.Var):
            return known[v]
        return (v.val if place is None else numbers.get(place, v.val)), False

    for i, eqn in enumerate(jaxpr.eqns):
        operands = [read(v, (i, k)) for k, v in enumerate(eqn.invars)]
        found = any(is_secret for _, is_secret in operands)
        if eqn.primitive.name in CALLS:
            inner = eqn.params["jaxpr"]
            values, secrets = zip(*operands, strict=True) if operands else ((), ())
            results = _evaluate(inner.jaxpr, inner.consts, values, secrets, one, {})
        elif eqn.primitive is dropped_p:
            results = [(round_off(operands[0][0], **eqn.params), found)]
        else:
            if found and eqn.primitive.name in SUMS:
                operands = [(value if is_secret else value * one, True) for value, is_secret in operands]
            functions, params = eqn.primitive.get_bind_params(eqn.params)
            result = eqn.primitive.bind(*functions, *(value for value, _ in operands), **params)
            results = [(r, found) for r in (result if eqn.primitive.multiple_results else [result])]
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]
