"""What the equations of a traced function say by themselves: which ones count, who computes each, and when."""

from __future__ import annotations

import enum
from typing import Any

from jax.extend import core

from secformer_jax.mpc.runtime.linear import is_linear, secret_outputs
from secformer_jax.mpc.runtime.operations import opening_p, product_p
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE


class Kind(enum.Enum):
    """Who computes an equation: SPU, every party by itself, or all by a message."""

    SPU, LOCAL, OPENING, PRODUCT = range(4)


def read(eqns) -> list:
    """Variables that the equations read, each once, in order."""
    return list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if isinstance(v, core.Var)))


def live(jaxpr) -> list:
    """Equations that the result depends on."""
    needed = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if isinstance(v, core.Var))
            found.append(eqn)
    return found[::-1]


def kinds_of(eqns, secret: dict[Any, bool]) -> list[Kind]:
    """Who computes each equation; `secret`, of the inputs, is completed for all variables that equations write."""
    kinds: list[Kind | None] = []
    varying = set(secret)
    of_spu: set[Any] = set()
    for eqn in eqns:
        operands = [v for v in eqn.invars if isinstance(v, core.Var)]
        secrets = [isinstance(v, core.Var) and secret.get(v, False) for v in eqn.invars]
        found = secret_outputs(eqn, secrets)
        if eqn.primitive is opening_p:
            kinds.append(Kind.OPENING)
            found = [False] * len(eqn.outvars)
        elif eqn.primitive is product_p:
            if all(secret[v] for v in operands):
                raise ValueError("a product of two secrets is not linear: open one of them under a mask")
            kinds.append(Kind.PRODUCT)
        elif not varying.intersection(operands):
            kinds.append(None)
        else:
            # SPU may hold what it computed in a form of its own; a number read as its ring element is none.
            local = not any(secrets) or (is_linear(eqn, secret) and not of_spu.intersection(operands))
            kinds.append(Kind.LOCAL if local else Kind.SPU)
            if not local and eqn.primitive.name != "bitcast_convert_type":
                of_spu.update(eqn.outvars)
        if kinds[-1] is not None:
            varying.update(eqn.outvars)
        secret.update(zip(eqn.outvars, found, strict=True))
    # Constants are computed where they are used, by SPU wherever it is among the users.
    used: dict[Any, Kind] = {}
    for index in reversed(range(len(eqns))):
        users = [used[v] for v in eqns[index].outvars if v in used]
        kind = kinds[index] or (Kind.SPU if Kind.SPU in users or not users else Kind.LOCAL)
        kinds[index] = kind
        for v in eqns[index].invars:
            if isinstance(v, core.Var) and used.get(v) is not Kind.SPU:
                used[v] = kind
    return [kind for kind in kinds if kind is not None]


_ARRANGING = {"slice", "squeeze", "reshape", "broadcast_in_dim", "transpose"}


def phases_of(eqns, known: dict[Any, int]) -> list[int]:
    """The earliest phase in which each equation can run.

    One of constants alone runs with what uses it first, and so does what only arranges a request's material anew: done
    ahead, that would be a copy.
    """
    constant = -1
    phases = []
    for eqn in eqns:
        phases.append(max((known.get(v, constant) for v in eqn.invars if isinstance(v, core.Var)), default=constant))
        known.update(dict.fromkeys(eqn.outvars, phases[-1]))
    first_use: dict[Any, int] = {}
    for index in reversed(range(len(eqns))):
        arranges = phases[index] == OFFLINE and eqns[index].primitive.name in _ARRANGING
        if phases[index] == constant or arranges:
            phases[index] = min((first_use.get(v, ONLINE) for v in eqns[index].outvars), default=ONLINE)
        for v in eqns[index].invars:
            if isinstance(v, core.Var):
                first_use[v] = min(first_use.get(v, ONLINE), phases[index])
    return phases


def factors_of_dots(eqns) -> list:
    """Variables that are multiplied as matrices, also inside nested functions, each once, in order."""
    found = []
    for eqn in eqns:
        nested = [p.jaxpr for p in eqn.params.values() if isinstance(p, core.ClosedJaxpr)]
        if eqn.primitive.name == "dot_general":
            found += eqn.invars
        for jaxpr in nested:
            inner = set(factors_of_dots(jaxpr.eqns))
            found += [v for v, same in zip(eqn.invars, jaxpr.invars, strict=False) if same in inner]
    return list(dict.fromkeys(v for v in found if isinstance(v, core.Var)))
