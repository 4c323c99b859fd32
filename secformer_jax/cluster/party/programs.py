"""A deployment's programs: each is compiled once, for all lanes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import jax

from secformer_jax.cluster.memory import give_back
from secformer_jax.cluster.party.conversations import Conversations
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import part_of, requirements, serving
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.inference.revealing import revealing
from secformer_jax.mpc.material import Material, material_nodes
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.program import Program, known_inputs, request_inputs, state_inputs, weight_input
from secformer_jax.mpc.runtime.shares import InputSpec


@dataclass(frozen=True)
class Compiled:
    """A shape's program under variable names of its own, and what has to be put in or dealt for a request."""

    program: Program
    digest: str
    specs: dict[str, jax.ShapeDtypeStruct]
    names: dict[str, str]
    inputs: tuple[InputSpec, ...]
    nodes: list[Material]

    def bits(self, name: str) -> int | None:
        """Of the ring that an input is shared in."""
        return self.inputs[int(name.removeprefix("input"))].bits if name.startswith("input") else None

    def read(self) -> set[str]:
        """The variables that the program reads, by their names on the wire."""
        used = self.program.read()
        return {name for name, own in self.names.items() if own in used}


class Programs:
    """The programs of a deployment: each is compiled once, for all lanes.

    Args:
        config: protocol and parties.
        deployment: what is published.
    """

    def __init__(self, config: MpcConfig, deployment: Published) -> None:
        self._config, self._deployment = config, deployment
        self._serving = serving(deployment, config.fraction_bits)
        self.conversations = Conversations(self._serving) if isinstance(self._serving, DecoderServing) else None
        self._compiled: dict[RequestShape, Compiled] = {}
        self._compiling = threading.Lock()

    @property
    def result_bits(self) -> int:
        """Of the ring that results are in."""
        return self._deployment.result_bits

    def get(self, shape: RequestShape) -> Compiled:
        """The program for a shape, which the deployment serves."""
        with self._compiling:
            if shape not in self._compiled:
                self._compiled[shape] = self._compile(shape)
                # What JAX keeps of tracing is of no use again: each program is traced once.
                jax.clear_caches()
            return self._compiled[shape]

    def forget(self, shape: RequestShape) -> None:
        """Give back what a program takes, when the last lane has forgotten it; XLA's code is most of it."""
        with self._compiling:
            self._compiled.pop(shape, None)
            jax.clear_caches()
            give_back()

    def _compile(self, shape: RequestShape) -> Compiled:
        needed = requirements(self._serving, shape)
        leaves, _ = jax.tree_util.tree_flatten_with_path(needed.weights)
        keep = self._deployment.keep_weights
        variables = [weight_input(path, public=self._serving.is_public, keep=keep) for path, _ in leaves]
        variables += request_inputs(needed.material, needed.shared())
        if needed.stateful:
            variables += known_inputs(needed.known) + state_inputs(needed.state)
        program = compile_program(
            revealing(self._deployment.reveal, needed.compute),
            needed.arguments(),
            variables,
            self._config,
            part_of=part_of,
            stateful=needed.stateful,
            cut_once=self._deployment.cut_once,
        )
        own = program.renamed({name for name in program.variables() if not name.startswith("weights")})
        request = jax.tree.leaves(needed.arguments()[1:])
        specs = {v.name: spec for v, spec in zip(variables[len(leaves) :], request, strict=True)}
        names = dict(zip(program.input_names, own.input_names, strict=True))
        return Compiled(own, program.digest(), specs, names, needed.inputs, material_nodes(needed.material))
