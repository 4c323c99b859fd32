"""What a compiled function is: a sequence of stages, chained through variables that stay with every party."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Any

import jax
from spu import libspu

from secformer_jax.mpc.runtime.local import LocalFunction

SETUP, OFFLINE, ONLINE = range(3)
"""When an equation can run: from the weights alone, from dealer material too, or only once a request is there."""


@dataclass(frozen=True)
class Input:
    """A runtime variable that the program reads: its name, the earliest phase that has it, and who may see it.

    With `cached`, SPU keeps the openings of this value, and of what is computed from such values alone (SEMI2K).
    """

    name: str
    phase: int
    secret: bool = True
    cached: bool = False


def weight_input(path: Any, *, public: Callable[[str], bool], keep: bool) -> Input:
    """The variable of a published leaf, by its path in the tree.

    Args:
        path: as `jax.tree_util` gives it.
        public: whether the leaf at a path (as `jax.tree_util.keystr` writes it) is given in clear.
        keep: keep the openings of what is secret (SPU's make_cached_var); the weight itself stays in any case.
    """
    key = jax.tree_util.keystr(path)
    return Input(f"weights{key}", SETUP, not public(key), cached=keep and not public(key))


def request_inputs(material: Any, inputs: Any) -> list[Input]:
    """The variables of one request: dealer material, and what the client shares."""
    variables = [Input(f"material{i}", OFFLINE) for i in range(len(jax.tree.leaves(material)))]
    return variables + [Input(f"input{i}", ONLINE) for i in range(len(jax.tree.leaves(inputs)))]


def known_inputs(known: Any) -> list[Input]:
    """The variables of what every party knows of a request."""
    return [Input(f"known{i}", ONLINE, secret=False) for i in range(len(jax.tree.leaves(known)))]


def state_inputs(state: Any) -> list[Input]:
    """The variables that a request's programs leave to each other; what is called `opened` is in clear."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    return [Input(f"state{i}", ONLINE, not path.endswith(".opened")) for i, path in enumerate(paths)]


@dataclass(frozen=True)
class Step:
    """Part of a program: its code, and the variables that it reads, writes and is the last to use."""

    part: str
    phase: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    frees: tuple[str, ...]
    code: bytes


class Stage(Step):
    """One SPU executable."""

    def executable(self, tag: str) -> libspu.Executable:
        """The executable as SPU takes it, under the part's name and a tag."""
        return libspu.Executable(
            name=self.part + tag, input_names=list(self.inputs), output_names=list(self.outputs), code=self.code
        )


@dataclass(frozen=True)
class LocalStage(Step):
    """What every party does to its own shares, outside SPU: see `local`. The code is its printed form.

    Attributes:
        function: what.
        secret: of its inputs.
    """

    function: LocalFunction
    secret: tuple[bool, ...]


@dataclass(frozen=True)
class ProductStage(Step):
    """A product of two matrices, one of them public or both: see `operations.product`.

    Attributes:
        bits: of the ring.
        secret: of the two factors.
        kept: whether a factor is held as digits, for it stays between requests: 12 bytes an element, and not 8.
    """

    bits: int
    secret: tuple[bool, bool]
    kept: tuple[bool, bool]


@dataclass(frozen=True)
class OpeningStage(Step):
    """One message to open values modulo 2^bits: see `operations.opened`."""

    bits: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A compiled function: stages in order of their phases, the names of its inputs' leaves, and its result's shape.

    The set-up stages run once; what they leave in the runtime serves every request.

    Attributes:
        state: the variables that are a request's "state0", "state1", .. for its next program.
    """

    stages: tuple[Step, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    output_tree: Any
    state: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 over the code and the variables of every stage: equal for parties that compiled the same program."""
        sha = hashlib.sha256()
        for stage in self.stages:
            sha.update(repr((stage.part, stage.phase, stage.inputs, stage.outputs, stage.frees)).encode())
            sha.update(stage.code)
        if self.state:
            sha.update(repr(self.state).encode())
        return sha.hexdigest()

    def read(self) -> dict[str, None]:
        """Every variable that is read, in the order of the first reading, and the results."""
        names = [name for stage in self.stages for name in stage.inputs]
        return dict.fromkeys([*names, *self.output_names])

    def variables(self) -> set[str]:
        """Every variable that a stage reads or writes."""
        return {name for stage in self.stages for name in (*stage.inputs, *stage.outputs)}

    def prepared(self) -> set[str]:
        """The variables that the work ahead leaves for the request: its results, and material that is read later."""
        stages = [stage for stage in self.stages if stage.phase == OFFLINE]
        read, freed = self.read(), {name for stage in stages for name in stage.frees}
        material = {name for name in self.input_names if name.startswith("material") and name in read}
        return (material | {name for stage in stages for name in stage.outputs}) - freed

    def kept(self) -> set[str]:
        """The variables that the set-up leaves for every request."""
        stages = [stage for stage in self.stages if stage.phase == SETUP]
        return {name for stage in stages for name in stage.outputs} - {name for stage in stages for name in stage.frees}

    def just_in_time(self) -> Program:
        """The same program, its work ahead done late: such a stage comes shortly before the first that needs it.

        A party then holds what belongs to one layer at a time, and not to all of them.
        """
        makers = {name: i for i, stage in enumerate(self.stages) if stage.phase == OFFLINE for name in stage.outputs}
        order: dict[int, None] = {}

        def add(i: int) -> None:
            for name in self.stages[i].inputs:
                if name in makers and makers[name] not in order:
                    add(makers[name])
            order[i] = None

        for i, stage in enumerate(self.stages):
            if stage.phase != OFFLINE:
                add(i)
        for i in makers.values():
            order.setdefault(i)
        stages = [self.stages[i] for i in order]
        last_use = {name: i for i, stage in enumerate(stages) for name in (*stage.inputs, *stage.outputs)}
        freed = {name for stage in stages for name in stage.frees}
        frees: list[list[str]] = [[] for _ in stages]
        for name in freed:
            frees[last_use[name]].append(name)
        return replace(
            self,
            stages=tuple(replace(stage, frees=tuple(names)) for stage, names in zip(stages, frees, strict=True)),
        )

    def renamed(self, names: Set[str]) -> Program:
        """The same program with these variables under names of its own: what it keeps in a runtime stays its own."""
        own = {name: f"{name}@{self.digest()[:16]}" for name in names}

        def rename(variables: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(own.get(name, name) for name in variables)

        stages = tuple(
            replace(stage, inputs=rename(stage.inputs), outputs=rename(stage.outputs), frees=rename(stage.frees))
            for stage in self.stages
        )
        return replace(
            self,
            stages=stages,
            input_names=rename(self.input_names),
            output_names=rename(self.output_names),
            state=rename(self.state),
        )
