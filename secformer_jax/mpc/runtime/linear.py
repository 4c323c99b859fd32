"""Which equations a party can do to its own shares: what is linear in secrets, or rounds them, needs no message.

Shares are linear, so each party does the same to its own. Anything may be computed from public values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from secformer_jax.mpc.runtime.operations import dropped_p

SUMS = frozenset({"add", "sub", "concatenate"})
"""In which a public term is added to one component alone."""
_LINEAR = {"neg", "reshape", "broadcast_in_dim", "squeeze", "slice", "transpose", "reduce_sum", "rev", "copy"}
_OF_PUBLIC = {"mul", "shift_left"}
CALLS = frozenset({"pjit", "jit"})
"""A nested function, before and since JAX 0.7."""


def secret_outputs(eqn, secrets: Sequence[bool]) -> list[bool]:
    """Which results of an equation are secret, from which operands are; a nested function has some of each."""
    if eqn.primitive.name not in CALLS:
        return [any(secrets)] * len(eqn.outvars)
    return secret_results(eqn.params["jaxpr"].jaxpr, secrets)


def secret_results(jaxpr: core.Jaxpr, secrets: Sequence[bool]) -> list[bool]:
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
    if kind in CALLS:
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
    return kind in SUMS | _LINEAR or eqn.primitive is dropped_p
