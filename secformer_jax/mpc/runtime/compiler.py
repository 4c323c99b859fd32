"""From a pure JAX function to a sequence of stages, each of one part of the model that it runs through.

The function is traced once. Its equations carry the name stack of the module that made them; consecutive equations of
the same part and kind become one stage, and stages are chained through variables that stay with every party. So the
cost of each part is measured and not estimated, equal layers are compiled once, and intermediate values are freed
early. What kind an equation is says who computes it: an opening or a product of matrices is a step by itself, what is
linear in secret ring elements every party does to its own shares, and SPU compiles all the rest.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import spu
from jax.extend import core
from spu import experimental, libspu
from spu.utils import frontend

from secformer_jax.functions import cache_folder
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.equations import Kind, factors_of_dots, kinds_of, live, phases_of, read
from secformer_jax.mpc.runtime.kernel import Kernels, nested_constants
from secformer_jax.mpc.runtime.local import LocalFunction
from secformer_jax.mpc.runtime.program import (
    SETUP,
    Input,
    LocalStage,
    OpeningStage,
    ProductStage,
    Program,
    Stage,
    Step,
)


def compile_program(
    function: Callable,
    arguments: Sequence,
    inputs: Sequence[Input],
    config: MpcConfig,
    *,
    part_of: Callable[[str], str],
    stateful: bool = False,
    cut_once: bool = True,
) -> Program:
    """Trace, split and compile a pure function.

    Args:
        function: takes `arguments` (pytrees), returns a pytree of arrays; or with `stateful` that and the state.
        arguments: pytrees of arrays or ShapeDtypeStructs.
        inputs: one for each leaf, in flattening order.
        config: protocol and compiler options.
        part_of: maps an equation's name stack to the part of the model that pays for it.
        stateful: whether there is a state.
        cut_once: hold what stays and is multiplied as digits: see `ProductStage`.
    """
    leaves, tree = jax.tree.flatten(tuple(arguments))
    with enable_x64():
        closed, shape = jax.make_jaxpr(lambda *flat: function(*jax.tree.unflatten(tree, flat)), return_shape=True)(
            *[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        )
        results, state = shape if stateful else (shape, ())
        splitter = _Splitter(closed, inputs, config, part_of, cut_once)
        return splitter.program(jax.tree.structure(results), len(jax.tree.leaves(state)))


class _Group(NamedTuple):
    """Equations that become one stage."""

    phase: int
    part: str
    kind: Kind
    eqns: list


Make = Callable[..., Step]


class _Splitter:
    """Cuts a traced function into stages and compiles each distinct one once."""

    def __init__(self, closed, inputs: Sequence[Input], config, part_of, cut_once: bool) -> None:
        jaxpr = closed.jaxpr
        self._consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        self._names: dict[Any, str] = dict(zip(jaxpr.invars, [i.name for i in inputs], strict=True))
        self._inputs = tuple(i.name for i in inputs)
        self._outvars = list(jaxpr.outvars)
        self._eqns = live(jaxpr)
        self._phases = phases_of(self._eqns, dict(zip(jaxpr.invars, [i.phase for i in inputs], strict=True)))
        self._secret: dict[Any, bool] = dict(zip(jaxpr.invars, [i.secret for i in inputs], strict=True))
        self._kinds = kinds_of(self._eqns, self._secret)
        self._config, self._part_of, self._cut_once = config, part_of, cut_once
        self._cached = {i.name for i in inputs if i.cached}
        self._kept = {i.name for i in inputs if i.phase == SETUP}
        self._compiled: dict[Any, bytes] = {}
        self._local: dict[Any, LocalFunction] = {}
        self._kernels = Kernels()

    def program(self, output_tree, states: int) -> Program:
        """All of it; the last results of the function, so many, are the request's state."""
        groups = self._groups()
        last_use = {var: index for index, group in enumerate(groups) for var in read(group.eqns)}
        last_use.update({var: len(groups) for var in self._outvars if isinstance(var, core.Var)})
        stages: list[Step] = []
        primed: set[str] = set()
        for index, (phase, part, kind, eqns) in enumerate(groups):
            written = {var for eqn in eqns for var in eqn.outvars}
            invars = [v for v in read(eqns) if v not in written and v not in self._consts]
            outvars = [v for eqn in eqns for v in eqn.outvars if last_use.get(v, -1) > index]
            for var in outvars:
                name = self._names.setdefault(var, f"v{len(self._names)}")
                if phase == SETUP:
                    self._kept.add(name)
                    if invars and all(self._names[v] in self._cached for v in invars):
                        self._cached.add(name)
            if self._config.has_third_party and kind is Kind.SPU:
                for var in factors_of_dots(eqns):
                    if self._names.get(var) in self._cached - primed:
                        primed.add(self._names[var])
                        stages.append(self._primer(part, self._names[var], var.aval))
            frees = [self._names[v] for v in invars if last_use[v] == index and self._names[v] not in self._kept]
            if kind is Kind.OPENING:
                # What is opened is written whole, whoever reads it, for the message has all of it.
                outvars = list(eqns[0].outvars)
                for var in outvars:
                    self._names.setdefault(var, f"v{len(self._names)}")
                frees += [self._names[v] for v in outvars if v not in last_use]
            if kind in (Kind.OPENING, Kind.PRODUCT):
                invars = list(eqns[0].invars)
            make = self._make(kind, eqns, invars, outvars)
            stages.append(make(part, phase, self._name(invars), self._name(outvars), tuple(frees)))
        stages.sort(key=lambda stage: stage.phase)
        results = self._name(self._outvars)
        count = len(results) - states
        program = Program(tuple(stages), self._inputs, results[:count], output_tree, results[count:])
        return program.renamed(self._kept.difference(self._inputs))

    def _make(self, kind: Kind, eqns, invars, outvars) -> Make:
        """What makes the stage of these equations, from its part, phase, variables and frees."""
        match kind:
            case Kind.SPU:
                return functools.partial(Stage, code=self._compile(eqns, invars, outvars))
            case Kind.LOCAL:
                return self._local_stage(eqns, invars, outvars)
            case Kind.OPENING:
                bits = eqns[0].params["bits"]
                return functools.partial(OpeningStage, code=f"open {bits}".encode(), bits=bits)
            case Kind.PRODUCT:
                bits, (x, y) = eqns[0].params["bits"], invars
                secret = self._secret[x], self._secret[y]
                first, second = (self._cut_once and self._names[v] in self._kept for v in (x, y))
                kept = first, second
                code = f"product {bits} {secret} {kept}".encode()
                return functools.partial(ProductStage, code=code, bits=bits, secret=secret, kept=kept)

    def _name(self, variables) -> tuple[str, ...]:
        return tuple(self._names[variable] for variable in variables)

    def _groups(self) -> list[_Group]:
        groups: list[_Group] = []
        for phase, kind, eqn in sorted(zip(self._phases, self._kinds, self._eqns, strict=True), key=lambda e: e[0]):
            part = self._part_of(str(eqn.source_info.name_stack))
            alone = kind in (Kind.OPENING, Kind.PRODUCT)
            if not groups or alone or groups[-1][:3] != (phase, part, kind):
                groups.append(_Group(phase, part, kind, []))
            groups[-1].eqns.append(eqn)
        return groups

    def _closed(self, eqns, invars, outvars) -> tuple[core.ClosedJaxpr, Any]:
        """The equations as a function, and a key that is equal for equal functions."""
        constvars = [v for v in read(eqns) if v in self._consts]
        consts = [np.asarray(self._consts[v]) for v in constvars]
        jaxpr = core.Jaxpr(constvars, invars, outvars, eqns)
        values = *(c.tobytes() for c in consts), *nested_constants(eqns)
        return core.ClosedJaxpr(jaxpr, consts), (str(jaxpr), values)

    def _local_stage(self, eqns, invars, outvars) -> Make:
        closed, key = self._closed(eqns, invars, outvars)
        secret = tuple(self._secret[v] for v in invars)
        if (key, secret) not in self._local:
            self._local[key, secret] = LocalFunction(closed, secret, self._kernels)
        function = self._local[key, secret]
        code = repr((key, secret)).encode()
        return functools.partial(LocalStage, code=code, function=function, secret=secret)

    def _primer(self, part: str, name: str, aval) -> Stage:
        """Opens a value that stays by an elementwise product, before a product of matrices does.

        SPU 0.9.5's client of a dealer moves its counter when a product of matrices meets such a value a second time,
        and an elementwise product always; but not at the first time in a product of matrices (BeaverTtp::Dot), where
        the masks that it draws next are then the weight's own once more, and our dealer refuses to serve it.
        """
        key = ("primer", aval.shape, aval.dtype)
        if key not in self._compiled:
            closed = jax.make_jaxpr(lambda value: value * value)(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
            self._compiled[key] = self._spu_code(closed, [True], [True])
        product = f"{name} primed"
        return Stage(part, SETUP, (name,), (product,), (product,), self._compiled[key])

    def _compile(self, eqns, invars, outvars) -> bytes:
        closed, (text, consts) = self._closed(eqns, invars, outvars)
        visibility = [self._secret[v] for v in invars]
        keep = [self._names[v] in self._cached for v in invars]
        key = (text, consts, tuple(visibility), tuple(keep))
        if key not in self._compiled:
            # A function that is printed as its address may be another one there the next time.
            name = None if " at 0x" in text else _code_name(key, sorted(self._config.compiler.items()))
            code = cache_folder.read(name) if name else None
            if code is None:
                code = self._spu_code(closed, visibility, keep)
                if name:
                    cache_folder.write(name, code)
            self._compiled[key] = code
        code = self._compiled[key]
        if _output_secrecy(code.decode(), len(outvars)) != [self._secret[v] for v in outvars]:
            raise RuntimeError("SPU's compiler disagrees about what is secret")
        return code

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


def _code_name(*parts: object) -> str:
    """What SPU's code for these parts is kept under: it takes a third of a second to make, and holds no secret."""
    return cache_folder.key(spu.__version__, jax.__version__, *parts)


def _output_secrecy(code: str, count: int) -> list[bool]:
    """Which results of a compiled stage are secret, read from the signature of its entry function."""
    signature = re.search(r"func\.func @main\(.*?\) -> (.*?) \{\n", code)
    types = re.findall(r"tensor<(?:[^<>]|<[^<>]*>)*>", signature[1]) if signature else []
    if len(types) != count:
        raise RuntimeError(f"SPU's compiler returned {len(types)} results where {count} were expected")
    return ["pphlo.secret" in text for text in types]
