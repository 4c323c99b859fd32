"""From a pure JAX function to a sequence of SPU executables, one for each part of the model that it runs through.

The function is traced once. Its equations carry the name stack of the module that made them; consecutive equations of
the same part become one stage, and stages are chained through variables that stay in SPU's runtime. So the cost of
each part is measured and not estimated, equal layers are compiled once, and intermediate values are freed early.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import enable_x64
from jax.extend import core
from spu import experimental, libspu
from spu.utils import frontend

from secformer_jax.mpc.runtime import cache
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.local import LocalFunction, is_local
from secformer_jax.mpc.runtime.program import ONLINE, SETUP, Input, LocalStage, Program, Stage


def compile_program(
    function: Callable,
    arguments: Sequence,
    inputs: Sequence[Input],
    config: MpcConfig,
    *,
    part_of: Callable[[str], str],
) -> Program:
    """Trace, split and compile a pure function.

    Args:
        function: takes `arguments` (pytrees), returns a pytree of arrays.
        arguments: pytrees of arrays or ShapeDtypeStructs.
        inputs: one for each leaf, in flattening order.
        config: protocol and compiler options.
        part_of: maps an equation's name stack to the part of the model that pays for it.
    """
    leaves, tree = jax.tree.flatten(tuple(arguments))
    with enable_x64():
        closed, shape = jax.make_jaxpr(lambda *flat: function(*jax.tree.unflatten(tree, flat)), return_shape=True)(
            *[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        )
        return _Splitter(closed, inputs, config, part_of).program(jax.tree.structure(shape))


class _Splitter:
    """Cuts a traced function into stages and compiles each distinct one once."""

    def __init__(self, closed, inputs: Sequence[Input], config, part_of) -> None:
        jaxpr = closed.jaxpr
        self._consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        self._names: dict[Any, str] = dict(zip(jaxpr.invars, [i.name for i in inputs], strict=True))
        self._inputs = tuple(i.name for i in inputs)
        self._outvars = list(jaxpr.outvars)
        self._eqns = _live(jaxpr)
        self._phases = _phases(self._eqns, dict(zip(jaxpr.invars, [i.phase for i in inputs], strict=True)))
        self._config, self._part_of = config, part_of
        self._secret = {i.name: i.secret for i in inputs}
        self._cached = {i.name for i in inputs if i.cached}
        self._kept = {i.name for i in inputs if i.phase == SETUP}
        self._compiled: dict[Any, tuple[bytes, list[bool]]] = {}
        self._local: dict[bytes, LocalFunction] = {}

    def program(self, output_tree) -> Program:
        groups = self._groups()
        last_use = {var: index for index, (_, _, eqns) in enumerate(groups) for var in _read(eqns)}
        last_use.update({var: len(groups) for var in self._outvars if isinstance(var, core.Var)})
        stages: list[Stage | LocalStage] = []
        primed: set[str] = set()
        for index, (phase, part, eqns) in enumerate(groups):
            written = {var for eqn in eqns for var in eqn.outvars}
            invars = [v for v in _read(eqns) if v not in written and v not in self._consts]
            outvars = [v for eqn in eqns for v in eqn.outvars if last_use.get(v, -1) > index]
            compiled = self._local_stage(eqns[0], invars) if is_local(eqns[0]) else self._stage(eqns, invars, outvars)
            make, secret = compiled
            for var, is_secret in zip(outvars, secret, strict=True):
                name = self._names.setdefault(var, f"v{len(self._names)}")
                self._secret[name] = is_secret
                if phase == SETUP:
                    self._kept.add(name)
                    if invars and all(self._names[v] in self._cached for v in invars):
                        self._cached.add(name)
            if self._config.has_third_party:
                for var in _factors_of_dots(eqns):
                    if self._names.get(var) in self._cached - primed:
                        primed.add(self._names[var])
                        stages.append(self._primer(part, self._names[var], var.aval))
            frees = [self._names[v] for v in invars if last_use[v] == index and self._names[v] not in self._kept]
            stages.append(make(part, phase, self._name(invars), self._name(outvars), tuple(frees)))
        stages.sort(key=lambda stage: stage.phase)
        program = Program(tuple(stages), self._inputs, self._name(self._outvars), output_tree)
        return program.renamed(self._kept.difference(self._inputs))

    def _name(self, variables) -> tuple[str, ...]:
        return tuple(self._names[variable] for variable in variables)

    def _groups(self) -> list[tuple[int, str, list]]:
        groups: list[tuple[int, str, list]] = []
        for phase, eqn in sorted(zip(self._phases, self._eqns, strict=True), key=lambda pair: pair[0]):
            part = self._part_of(str(eqn.source_info.name_stack))
            alone = is_local(eqn) or (groups and is_local(groups[-1][2][0]))
            if not groups or alone or groups[-1][:2] != (phase, part):
                groups.append((phase, part, []))
            groups[-1][2].append(eqn)
        return groups

    def _local_stage(self, eqn, invars) -> tuple[Callable[..., Stage | LocalStage], Sequence[bool]]:
        closed = eqn.params["jaxpr"]
        if invars != list(eqn.invars) or len(eqn.outvars) != 1 or closed.consts:
            raise ValueError("a local function takes distinct arrays and returns one")
        secret = tuple(self._secret[self._names[v]] for v in invars)
        code = f"{closed.jaxpr} {secret}".encode()
        if code not in self._local:
            self._local[code] = LocalFunction(closed, secret)
        function = self._local[code]
        return functools.partial(LocalStage, code=code, function=function), function.secret_outputs

    def _stage(self, eqns, invars, outvars) -> tuple[Callable[..., Stage | LocalStage], Sequence[bool]]:
        code, secret = self._compile(eqns, invars, outvars)
        return functools.partial(Stage, code=code), secret

    def _primer(self, part: str, name: str, aval) -> Stage:
        """Opens a value that stays by an elementwise product, before a product of matrices does.

        SPU 0.9.5's client of a dealer moves its counter when a product of matrices meets such a value a second time,
        and an elementwise product always; but not at the first time in a product of matrices (BeaverTtp::Dot), where
        the masks that it draws next are then the weight's own once more, and our dealer refuses to serve it.
        """
        key = ("primer", aval.shape, aval.dtype)
        if key not in self._compiled:
            closed = jax.make_jaxpr(lambda value: value * value)(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
            self._compiled[key] = self._spu_code(closed, [True], [True]), [True]
        product = f"{name} primed"
        return Stage(part, SETUP, (name,), (product,), (product,), self._compiled[key][0])

    def _compile(self, eqns, invars, outvars) -> tuple[bytes, list[bool]]:
        constvars = [v for v in _read(eqns) if v in self._consts]
        consts = [np.asarray(self._consts[v]) for v in constvars]
        jaxpr = core.Jaxpr(constvars, invars, outvars, eqns)
        visibility = [self._secret[self._names[v]] for v in invars]
        keep = [self._names[v] in self._cached for v in invars]
        key = (str(jaxpr), tuple(c.tobytes() for c in consts), tuple(visibility), tuple(keep))
        if key not in self._compiled:
            name = cache.key(key, sorted(self._config.compiler.items())) if _printed_whole(jaxpr, key[0]) else None
            code = cache.read(name) if name else None
            if code is None:
                code = self._spu_code(core.ClosedJaxpr(jaxpr, consts), visibility, keep)
                if name:
                    cache.write(name, code)
            self._compiled[key] = code, _output_secrecy(code.decode(), len(outvars))
        return self._compiled[key]

    def _spu_code(self, closed, secret: list[bool], keep: list[bool]) -> bytes:
        flat = core.jaxpr_as_fun(closed)

        def stage(*arguments):
            kept = [experimental.make_cached_var(a) if k else a for a, k in zip(arguments, keep, strict=True)]
            return flat(*kept)

        executable, _ = frontend.compile(
            frontend.Kind.JAX,
            stage,
            [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars],
            {},
            [f"in{i}" for i in range(len(secret))],
            [libspu.Visibility.VIS_SECRET if s else libspu.Visibility.VIS_PUBLIC for s in secret],
            lambda flat_out: [f"out{i}" for i in range(len(flat_out))],
            copts=self._config.compiler_options(),
        )
        return executable.code


def _printed_whole(jaxpr, text: str) -> bool:
    """Whether the printed form says all: no constant inside a nested function, and no function by its address."""
    inner = [p for eqn in jaxpr.eqns for p in eqn.params.values() if isinstance(p, core.ClosedJaxpr)]
    return " at 0x" not in text and all(not p.consts and _printed_whole(p.jaxpr, "") for p in inner)


def _read(eqns) -> list:
    """Variables that the equations read, each once, in order."""
    return list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if isinstance(v, core.Var)))


def _factors_of_dots(eqns) -> list:
    """Variables that are multiplied as matrices, also inside nested functions, each once, in order."""
    found = []
    for eqn in eqns:
        nested = [p.jaxpr for p in eqn.params.values() if isinstance(p, core.ClosedJaxpr)]
        if eqn.primitive.name == "dot_general":
            found += eqn.invars
        for jaxpr in nested:
            inner = set(_factors_of_dots(jaxpr.eqns))
            found += [v for v, same in zip(eqn.invars, jaxpr.invars, strict=False) if same in inner]
    return list(dict.fromkeys(v for v in found if isinstance(v, core.Var)))


def _live(jaxpr) -> list:
    """Equations that the result depends on."""
    needed = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if isinstance(v, core.Var))
            live.append(eqn)
    return live[::-1]


def _phases(eqns, known: dict[Any, int]) -> list[int]:
    """The earliest phase in which each equation can run; one of constants alone runs with what uses it first."""
    constant = -1
    phases = []
    for eqn in eqns:
        phases.append(max((known.get(v, constant) for v in eqn.invars if isinstance(v, core.Var)), default=constant))
        known.update(dict.fromkeys(eqn.outvars, phases[-1]))
    first_use: dict[Any, int] = {}
    for index in reversed(range(len(eqns))):
        if phases[index] == constant:
            phases[index] = min((first_use.get(v, ONLINE) for v in eqns[index].outvars), default=ONLINE)
        for v in eqns[index].invars:
            if isinstance(v, core.Var):
                first_use[v] = min(first_use.get(v, ONLINE), phases[index])
    return phases


def _output_secrecy(code: str, count: int) -> list[bool]:
    """Which results of a compiled stage are secret, read from the signature of its entry function."""
    signature = re.search(r"func\.func @main\(.*?\) -> (.*?) \{\n", code)
    types = re.findall(r"tensor<(?:[^<>]|<[^<>]*>)*>", signature[1]) if signature else []
    if len(types) != count:
        raise RuntimeError(f"SPU's compiler returned {len(types)} results where {count} were expected")
    return ["pphlo.secret" in text for text in types]
