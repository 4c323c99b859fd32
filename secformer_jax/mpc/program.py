"""From a pure JAX function to a sequence of SPU executables, one for each part of the model that it runs through.

The function is traced once. Its equations carry the name stack of the module that made them; consecutive equations of
the same part become one stage, and stages are chained through variables that stay in SPU's runtime. So the cost of
each part is measured and not estimated, equal layers are compiled once, and intermediate values are freed early.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import enable_x64
from jax.extend import core
from spu import experimental, libspu
from spu.utils import frontend

from .config import MpcConfig


@dataclass(frozen=True)
class Stage:
    """One SPU executable: its code and the runtime variables that it reads, writes and is the last to use."""

    part: str
    code: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    frees: tuple[str, ...]

    def executable(self) -> libspu.Executable:
        """The executable as SPU takes it."""
        return libspu.Executable(
            name=self.part, input_names=list(self.inputs), output_names=list(self.outputs), code=self.code
        )


@dataclass(frozen=True)
class Program:
    """A compiled function: stages in order, the names of its inputs' leaves, and the shape of its result."""

    stages: tuple[Stage, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    output_tree: Any

    def digest(self) -> str:
        """SHA-256 over the code and the variables of every stage: equal for parties that compiled the same program."""
        sha = hashlib.sha256()
        for stage in self.stages:
            sha.update(repr((stage.part, stage.inputs, stage.outputs, stage.frees)).encode())
            sha.update(stage.code)
        return sha.hexdigest()


def compile_program(
    function: Callable,
    arguments: Sequence,
    names: Sequence[str],
    config: MpcConfig,
    *,
    part_of: Callable[[str], str],
    resident: frozenset[str] = frozenset(),
    cached: frozenset[str] = frozenset(),
) -> Program:
    """Trace, split and compile a pure function.

    Args:
        function: takes `arguments` (pytrees), returns a pytree of arrays.
        arguments: pytrees of arrays or ShapeDtypeStructs; each leaf is a secret input.
        names: one name for each leaf, in flattening order: the runtime's variables.
        config: protocol and compiler options.
        part_of: maps an equation's name stack to the part of the model that pays for it.
        resident: names of inputs that stay in the runtime between runs.
        cached: those of them whose openings SPU keeps between runs (SEMI2K; elsewhere it changes nothing).
    """
    leaves, tree = jax.tree.flatten(tuple(arguments))
    with enable_x64():
        closed, shape = jax.make_jaxpr(lambda *flat: function(*jax.tree.unflatten(tree, flat)), return_shape=True)(
            *[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        )
        return _Splitter(closed, list(names), config, part_of, resident, cached).program(jax.tree.structure(shape))


class _Splitter:
    """Cuts a traced function into stages and compiles each distinct one once."""

    def __init__(self, closed, names, config, part_of, resident, cached) -> None:
        jaxpr = closed.jaxpr
        self._consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        self._names: dict[Any, str] = dict(zip(jaxpr.invars, names, strict=True))
        self._inputs = tuple(names)
        self._outvars = list(jaxpr.outvars)
        self._eqns = _live(jaxpr)
        self._config, self._part_of = config, part_of
        self._resident, self._cached = resident, cached
        self._secret = {name: True for name in names}
        self._compiled: dict[Any, tuple[bytes, list[bool]]] = {}

    def program(self, output_tree) -> Program:
        groups = self._groups()
        last_use = {var: index for index, (_, eqns) in enumerate(groups) for var in _read(eqns)}
        last_use.update({var: len(groups) for var in self._outvars if isinstance(var, core.Var)})
        stages = []
        for index, (part, eqns) in enumerate(groups):
            written = {var for eqn in eqns for var in eqn.outvars}
            invars = [v for v in _read(eqns) if v not in written and v not in self._consts]
            outvars = [v for eqn in eqns for v in eqn.outvars if last_use.get(v, -1) > index]
            code, secret = self._compile(part, eqns, invars, outvars)
            for var, is_secret in zip(outvars, secret, strict=True):
                name = self._names.setdefault(var, f"v{len(self._names)}")
                self._secret[name] = is_secret
            frees = [self._names[v] for v in invars if last_use[v] == index and self._names[v] not in self._resident]
            stages.append(Stage(part, code, self._name(invars), self._name(outvars), tuple(frees)))
        return Program(tuple(stages), self._inputs, self._name(self._outvars), output_tree)

    def _name(self, variables) -> tuple[str, ...]:
        return tuple(self._names[variable] for variable in variables)

    def _groups(self) -> list[tuple[str, list]]:
        groups: list[tuple[str, list]] = []
        for eqn in self._eqns:
            part = self._part_of(str(eqn.source_info.name_stack))
            if not groups or groups[-1][0] != part:
                groups.append((part, []))
            groups[-1][1].append(eqn)
        return groups

    def _compile(self, part, eqns, invars, outvars) -> tuple[bytes, list[bool]]:
        constvars = [v for v in _read(eqns) if v in self._consts]
        consts = [np.asarray(self._consts[v]) for v in constvars]
        jaxpr = core.Jaxpr(constvars, invars, outvars, eqns)
        visibility = [self._secret[self._names[v]] for v in invars]
        keep = [self._names[v] in self._cached for v in invars]
        key = (str(jaxpr), tuple(c.tobytes() for c in consts), tuple(visibility), tuple(keep))
        if key not in self._compiled:
            flat = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, consts))

            def stage(*arguments):
                kept = [experimental.make_cached_var(a) if k else a for a, k in zip(arguments, keep, strict=True)]
                return flat(*kept)

            executable, _ = frontend.compile(
                frontend.Kind.JAX,
                stage,
                [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in invars],
                {},
                [f"in{i}" for i in range(len(invars))],
                [libspu.Visibility.VIS_SECRET if s else libspu.Visibility.VIS_PUBLIC for s in visibility],
                lambda flat_out: [f"out{i}" for i in range(len(flat_out))],
                copts=self._config.compiler_options(),
            )
            self._compiled[key] = executable.code, _output_secrecy(executable.code.decode(), len(outvars))
        return self._compiled[key]


def _read(eqns) -> list:
    """Variables that the equations read, each once, in order."""
    return list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if isinstance(v, core.Var)))


def _live(jaxpr) -> list:
    """Equations that the result depends on."""
    needed = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if isinstance(v, core.Var))
            live.append(eqn)
    return live[::-1]


def _output_secrecy(code: str, count: int) -> list[bool]:
    """Which results of a compiled stage are secret, read from the signature of its entry function."""
    signature = re.search(r"func\.func @main\(.*?\) -> (.*?) \{\n", code)
    types = re.findall(r"tensor<(?:[^<>]|<[^<>]*>)*>", signature[1]) if signature else []
    if len(types) != count:
        raise RuntimeError(f"SPU's compiler returned {len(types)} results where {count} were expected")
    return ["pphlo.secret" in text for text in types]
