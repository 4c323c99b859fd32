"""Work on a party's own shares, outside SPU: what is linear in secrets and needs no message.

SPU takes 3 to 8 nanoseconds an element for each elementary operation on a large array. A series takes a hundred such
operations on opened values and dealt masks and sends nothing meanwhile; XLA makes one loop of them. Shares are linear,
so each party does the same to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import enable_x64
from jax.extend import core

_NAME = "on_own_shares"
_LINEAR = {"add", "sub", "neg", "reshape", "broadcast_in_dim", "squeeze", "slice", "transpose", "reduce_sum", "pjit"}
_OF_PUBLIC = {"mul", "shift_left", "shift_right_arithmetic", "shift_right_logical"}


def local(function: Callable) -> Callable:
    """The same function of integer arrays, to be run by every party on its own shares.

    It must be linear in its secret arguments, without a constant term: `compile_program` checks it and raises a
    ValueError where it is not. Public arguments are opened values, and anything may be computed from them.
    """

    def on_own_shares(*arguments: jax.Array) -> jax.Array:
        return function(*arguments)

    assert on_own_shares.__name__ == _NAME
    return jax.jit(on_own_shares)


def is_local(eqn) -> bool:
    """Whether an equation is a call of a `local` function."""
    return eqn.primitive.name == "pjit" and eqn.params["name"] == _NAME


def check_linear(jaxpr: core.Jaxpr, secret: Sequence[bool]) -> list[bool]:
    """Which results are secret, for these arguments.

    Raises:
        ValueError: something is done to a secret that shares do not allow.
    """
    known = dict(zip(jaxpr.invars, secret, strict=True))
    for eqn in jaxpr.eqns:
        secrets = [isinstance(v, core.Var) and known.get(v, False) for v in eqn.invars]
        name = eqn.primitive.name
        if name == "pjit":
            found = check_linear(eqn.params["jaxpr"].jaxpr, secrets)
        else:
            sums = name in ("add", "sub") and any(secrets) != all(secrets)
            products = name in _OF_PUBLIC and (all(secrets) or (name != "mul" and secrets[1]) or "right" in name)
            if any(secrets) and (name not in _LINEAR | _OF_PUBLIC or sums or products):
                raise ValueError(f"{name} of a secret is not linear: it can't run on shares, outside the protocol")
            found = [any(secrets)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, found, strict=True))
    return [isinstance(v, core.Var) and known.get(v, False) for v in jaxpr.outvars]


class LocalFunction:
    """A compiled `local` function: from shares and public arrays to shares.

    A share is int64 (components, *shape): see `values`. Public arrays are int64 of their own shape.
    """

    def __init__(self, closed: core.ClosedJaxpr, secret: Sequence[bool]) -> None:
        self.secret_inputs, self.shapes = tuple(secret), tuple(aval.shape for aval in closed.in_avals)
        self.secret_outputs = tuple(check_linear(closed.jaxpr, secret))
        in_axes, out_axes = (tuple(0 if s else None for s in kinds) for kinds in (secret, self.secret_outputs))
        function = core.jaxpr_as_fun(closed)
        self.jitted = jax.jit(jax.vmap(function, in_axes, list(out_axes)) if any(secret) else function)

    def __call__(self, *arguments: np.ndarray) -> list[np.ndarray]:
        """Run it on one party's shares."""
        with enable_x64():
            return [np.asarray(result) for result in self.jitted(*arguments)]
