"""Work on a party's own shares, outside SPU: what is linear in secrets, or rounds them, and needs no message.

SPU takes 3 to 8 nanoseconds an element for each elementary operation on a large array. Shares are linear, so each
party does the same to its own, and XLA makes one loop of it. Anything may be computed from public values.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.runtime.operations import dropped_p, round_off
from secformer_jax.mpc.runtime.pieces import joined
from secformer_jax.mpc.runtime.small import SmallFunction

_SUMS = frozenset({"add", "sub", "concatenate"})
_LINEAR = {"neg", "reshape", "broadcast_in_dim", "squeeze", "slice", "transpose", "reduce_sum", "rev", "copy"}
_OF_PUBLIC = {"mul", "shift_left"}
_CALLS = frozenset({"pjit", "jit"})
"""A nested function, before and since JAX 0.7."""


def secret_outputs(eqn, secrets: Sequence[bool]) -> list[bool]:
    """Which results of an equation are secret, from which operands are; a nested function has some of each."""
    if eqn.primitive.name not in _CALLS:
        return [any(secrets)] * len(eqn.outvars)
    return _secret_results(eqn.params["jaxpr"].jaxpr, secrets)


def _secret_results(jaxpr: core.Jaxpr, secrets: Sequence[bool]) -> list[bool]:
    """The same of a function's."""
    known: dict[Any, bool] = dict(zip(jaxpr.invars, secrets, strict=True))
    for eqn in jaxpr.eqns:
        found = secret_outputs(eqn, [isinstance(v, core.Var) and known.get(v, False) for v in eqn.invars])
        known.update(zip(eqn.outvars, found, strict=True))
    return [isinstance(v, core.Var) and known.get(v, False) for v in jaxpr.outvars]


def is_linear(eqn, secret: Mapping[Any, bool]) -> bool:
    """Whether each party can do this to its shares: int64 arrays, and linear in those that are secret.

    Args:
        eqn: an equation with at least one secret operand.
        secret: of the variables it reads.
    """
    secrets = [isinstance(v, core.Var) and secret.get(v, False) for v in eqn.invars]
    kind = eqn.primitive.name
    if any(v.aval.dtype != np.int64 for v in (*eqn.invars, *eqn.outvars)):
        return False
    if kind in _CALLS:
        inner = eqn.params["jaxpr"].jaxpr
        known = dict(zip(inner.invars, secrets, strict=True))
        for each in inner.eqns:
            operands = [isinstance(v, core.Var) and known.get(v, False) for v in each.invars]
            if any(operands) and not is_linear(each, known):
                return False
            known.update(zip(each.outvars, secret_outputs(each, operands), strict=True))
        return True
    if kind in _OF_PUBLIC:
        return secrets == [True, False] or (kind == "mul" and secrets == [False, True])
    return kind in _SUMS | _LINEAR or eqn.primitive is dropped_p


class LocalFunction:
    """Compiled linear equations: from shares and public arrays to shares and public arrays.

    A share is int64 (components, *shape): see `values`. A public array has its own shape.

    Args:
        jaxpr: closed; its constants are public.
        secret: of its inputs.
    """

    def __init__(self, jaxpr: core.ClosedJaxpr, secret: Sequence[bool]) -> None:
        fits = SmallFunction.fits(jaxpr.jaxpr, _CALLS)
        self.small = SmallFunction(jaxpr, secret, sums=_SUMS, calls=_CALLS) if fits else None
        self.secret_outputs = tuple(_secret_results(jaxpr.jaxpr, secret))

        def on_components(one: jax.Array, *arguments: jax.Array) -> list[jax.Array]:
            return [value for value, _ in _evaluate(jaxpr.jaxpr, jaxpr.consts, arguments, secret, one)]

        def on_all(first: jax.Array, *arguments: jax.Array) -> list[jax.Array]:
            arguments = tuple(map(_elements, arguments, jaxpr.in_avals))
            if first.shape == (1,):  # an axis of length one would cost XLA some of its fusions
                found = on_components(first[0], *(x[0] if s else x for x, s in zip(arguments, secret, strict=True)))
                return [x[None] if s else x for x, s in zip(found, self.secret_outputs, strict=True)]
            axes = (0, *(0 if s else None for s in secret))
            return jax.vmap(on_components, axes, [0 if s else None for s in self.secret_outputs])(first, *arguments)

        with enable_x64():
            self._jitted = jax.jit(on_all)
        self._compiled: dict[Any, Any] = {}
        self._compiling = threading.Lock()

    def __call__(self, first: np.ndarray, arguments: Sequence[Any]) -> Sequence[np.ndarray | jax.Array]:
        """Run it on one party's shares.

        Args:
            first: int64 (components,), 1 for the component that takes what is public and 0 for every other.
            arguments: shares and public arrays; a share of one component may come packed, as `shares.pieces`, unless
                the function is small.
        """
        if isinstance(first, jax.core.Tracer):
            # Inside another function that XLA compiles.
            return self._jitted(first, *arguments)
        return self.by_xla(first, arguments) if self.small is None else self.small(first, arguments)

    def by_xla(self, first: np.ndarray, arguments: Sequence[Any]) -> list[jax.Array]:
        """The same, compiled whatever its size."""
        leaves, tree = jax.tree.flatten((first, *arguments))
        kinds = tree, *((leaf.shape, leaf.dtype) for leaf in leaves)
        if kinds not in self._compiled:
            # Parties and lanes of one process ask at the same time, and jit would compile for each of them.
            with self._compiling, enable_x64():
                if kinds not in self._compiled:
                    self._compiled[kinds] = self._jitted.lower(first, *arguments).compile()
        with enable_x64():
            return jax.block_until_ready(self._compiled[kinds](first, *arguments))


def _elements(argument: Any, aval: Any) -> jax.Array:
    """A share's elements from the pieces of a packed one: XLA reads them where it needs them."""
    if not isinstance(argument, tuple):
        return argument
    return joined(argument).reshape(1, *aval.shape)


def _evaluate(jaxpr, consts, arguments, secret: Sequence[bool], one: jax.Array) -> list[tuple[jax.Array, bool]]:
    """The results on one component, and whether they are secret. A public term is added to one component alone."""
    known: dict[Any, tuple[Any, bool]] = dict(zip(jaxpr.invars, zip(arguments, secret, strict=True), strict=True))
    known.update({v: (value, False) for v, value in zip(jaxpr.constvars, consts, strict=True)})

    def read(v: Any) -> tuple[Any, bool]:
        return known[v] if isinstance(v, core.Var) else (v.val, False)

    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        found = any(is_secret for _, is_secret in operands)
        if eqn.primitive.name in _CALLS:
            inner = eqn.params["jaxpr"]
            values, secrets = zip(*operands, strict=True) if operands else ((), ())
            results = _evaluate(inner.jaxpr, inner.consts, values, secrets, one)
        elif eqn.primitive is dropped_p:
            results = [(round_off(operands[0][0], **eqn.params), found)]
        else:
            if found and eqn.primitive.name in _SUMS:
                operands = [(value if is_secret else value * one, True) for value, is_secret in operands]
            functions, params = eqn.primitive.get_bind_params(eqn.params)
            result = eqn.primitive.bind(*functions, *(value for value, _ in operands), **params)
            results = [(r, found) for r in (result if eqn.primitive.multiple_results else [result])]
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]
