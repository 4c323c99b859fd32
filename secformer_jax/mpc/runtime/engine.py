"""The engine: compiles a pure function once for each shape, keeps the weights shared, and serves requests.

Here the parties are threads over SPU's in-memory link. What is secret (weights, inputs, masks) exists as shares only
inside the parties' runtimes; what a program returns is the only thing that is reconstructed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from secformer_jax.mpc.material import Array, Dealt
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.one_hot import shared
from secformer_jax.mpc.runtime.parties import Parties, State
from secformer_jax.mpc.runtime.profile import Profile
from secformer_jax.mpc.runtime.program import (
    OFFLINE,
    ONLINE,
    SETUP,
    Input,
    Program,
    known_inputs,
    request_inputs,
    state_inputs,
    weight_input,
)
from secformer_jax.mpc.runtime.shares import InputSpec, sent_bytes
from secformer_jax.mpc.runtime.supply import Clock, Supply


@dataclass
class Result:
    """Outputs of one request and what it cost one party.

    Attributes:
        value: the function's result, revealed to the client.
        profile: bytes, messages and seconds online, in total, by part and by operation.
        ahead: the same ahead of the input.
        seconds: wall time from the input to the revealed result.
        dealing_seconds: time for making the material, as shares.
        preparing_seconds: time for the parties' work ahead of the input.
        dealt_bytes: by rank, what a party has from the dealer for this request.
        client_bytes: by rank, what the client sent it.
        setup: cost of what runs once, before the program's first request; empty afterwards.
    """

    value: Any
    profile: Profile
    ahead: Profile
    seconds: float
    dealing_seconds: float
    preparing_seconds: float
    dealt_bytes: tuple[int, ...]
    client_bytes: tuple[int, ...]
    setup: Profile

    @property
    def offline_bytes(self) -> int:
        """What the party that has most from the dealer has, and what the profiled one sent ahead of the input."""
        return max(self.dealt_bytes) + self.ahead.total.send_bytes

    @property
    def input_bytes(self) -> int:
        """What the party that has most from the client has."""
        return max(self.client_bytes)

    @property
    def offline_seconds(self) -> float:
        """All that is ahead of the input."""
        return self.dealing_seconds + self.preparing_seconds

    @property
    def whole_seconds(self) -> float:
        """Everything that a request needs, ahead of its input and after it."""
        return self.offline_seconds + self.seconds


class Engine:
    """Private evaluation of pure functions (weights, material, inputs) -> outputs.

    Args:
        config: protocol and parties.
        part_of: names the part of the model that an equation belongs to, from its name stack.
        keep_weights: keep the openings of the weights between requests (SEMI2K; elsewhere it changes nothing).
        cut_once: hold weights that are multiplied as digits, for many rows at a time: see `ProductStage`.
        profiled_rank: the party whose costs are reported.
    """

    def __init__(
        self,
        config: MpcConfig,
        *,
        part_of: Callable[[str], str] = lambda name_stack: "all",
        keep_weights: bool = True,
        cut_once: bool = True,
        profiled_rank: int = 0,
    ) -> None:
        self.config = config
        self._part_of, self._keep_weights, self._cut_once = part_of, keep_weights, cut_once
        self._parties = Parties(config, profiled_rank)
        self._weights: list[tuple[Input, jax.ShapeDtypeStruct]] = []
        self._weights_tree: Any = None
        self._set_up: list[Program] = []

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the parties; the shared weights are gone."""
        self._parties.close()

    def publish(self, weights: Any, *, public: Callable[[str], bool] = lambda path: False) -> int:
        """Share the weights among the parties, once; returns the bytes that one party receives.

        Args:
            weights: a pytree of arrays.
            public: whether the leaf at a path (as `jax.tree_util.keystr` writes it) is given in clear: values that
                are already masked.
        """
        leaves, self._weights_tree = jax.tree_util.tree_flatten_with_path(weights)
        shared, in_clear = self._parties.nothing(), 0
        for path, leaf in leaves:
            variable = weight_input(path, public=public, keep=self._keep_weights)
            self._weights.append((variable, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)))
            if variable.secret:
                shared = self._parties.share(variable.name, np.asarray(leaf), shared)
            else:
                self._parties.publish(variable.name, np.asarray(leaf))
                in_clear += leaf.nbytes
        return max(shared) + in_clear

    def compile(self, function: Callable, material: Any, *inputs: Any, known: Any = (), state: Any = ()) -> Program:
        """Compile function(weights, material, *inputs) for the published weights and the shapes of the rest.

        With a state: function(weights, material, *inputs, known, state), whose results are what the client learns and
        the new state.

        Args:
            function: pure; its result is what the client learns.
            material: pytree of abstract dealer material (an empty one if it needs none).
            inputs: arrays or ShapeDtypeStructs; all secret.
            known: pytree of arrays that every party knows.
            state: pytree of what one request's programs leave to each other, see `state_inputs`.
        """
        weights = jax.tree.unflatten(self._weights_tree, [spec for _, spec in self._weights])
        variables = [variable for variable, _ in self._weights] + request_inputs(material, inputs)
        arguments, stateful = [weights, material, *inputs], bool(jax.tree.leaves(state))
        if stateful:
            arguments += [known, state]
            variables += known_inputs(known) + state_inputs(state)
        return compile_program(
            function,
            arguments,
            variables,
            self.config,
            part_of=self._part_of,
            stateful=stateful,
            cut_once=self._cut_once,
        )

    def state(self, leaves: Sequence[Array | np.ndarray], dtype: str = "int64") -> State:
        """A request's first state: an `Array`'s components are shares of values of this type, others are in clear."""
        return self._parties.state(leaves, dtype)

    def run(
        self,
        program: Program,
        material: Dealt,
        *inputs: Any,
        specs: Sequence[InputSpec] | None = None,
        known: Any = (),
        state: State | None = None,
    ) -> Result:
        """Serve one request; the material is used up.

        Args:
            program: compiled for inputs of these shapes.
            material: dealt for it.
            inputs: the client's.
            specs: how each leaf of them is shared; by default in the ring of 64 bits, and nothing is proved.
            known: what every party knows.
            state: the request's, which is then its new one.

        Raises:
            MaterialReusedError: the material has served before.
            ValueError: an input that should be one-hot is not.
        """
        self._parties.costs()
        setup = Profile()
        if not any(program is done for done in self._set_up):
            self._set_up.append(program)
            self._parties.run([stage for stage in program.stages if stage.phase == SETUP])
            setup = self._parties.costs()
        if state is None:
            # What leaves a state is a small piece of a request's work: nothing of it needs to come late.
            program = program.just_in_time()
        supply, read = Supply(self._parties, self.config, program, material), program.read()

        clock = Clock()
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
        specs = specs or [InputSpec(str(leaf.dtype), leaf.shape) for leaf in leaves]
        client_bytes = self._receive(specs, leaves, read)
        for i, leaf in enumerate(jax.tree.leaves(known)):
            self._parties.publish(f"known{i}", np.asarray(leaf))
        if state is not None:
            self._parties.hold(state)
        profiles = {OFFLINE: Profile(), ONLINE: self._parties.costs()}
        seconds = {OFFLINE: 0.0, ONLINE: clock.seconds()}
        for phase, stages in itertools.groupby(program.stages, key=lambda stage: stage.phase):
            if phase != SETUP:
                for batch in supply.supplied(stages):
                    clock = Clock()
                    self._parties.run(batch)
                    seconds[phase] += clock.seconds()
                profiles[phase].add(self._parties.costs())
        supply.rest()
        if state is not None:
            self._parties.take(program.state, state)

        clock = Clock()
        flat = [self._parties.reconstruct(name) for name in program.output_names]
        self._parties.free(set(program.output_names) - {variable.name for variable, _ in self._weights})
        return Result(
            value=jax.tree.unflatten(program.output_tree, flat),
            profile=profiles[ONLINE],
            ahead=profiles[OFFLINE],
            seconds=seconds[ONLINE] + clock.seconds(),
            dealing_seconds=supply.seconds,
            preparing_seconds=seconds[OFFLINE],
            dealt_bytes=supply.dealt_bytes,
            client_bytes=client_bytes,
            setup=setup,
        )

    def _receive(
        self, specs: Sequence[InputSpec], leaves: Sequence[np.ndarray], read: Container[str]
    ) -> tuple[int, ...]:
        """Give the parties what a client shares, and have them check it; returns its bytes by rank."""
        config = self.config
        shares = shared(specs, leaves, config.protocol, config.world_size, config.fraction_bits)
        if any(spec.one_hot for spec in specs) and not self._parties.one_hot(specs, shares).all():
            raise ValueError("an input that should be one-hot is not")
        counted = self._parties.nothing()
        for name in shares[0]:
            own = [each[name] for each in shares]
            if name in read:
                counted = self._parties.give(name, own, counted)
            elif not name.startswith("input"):
                counted = tuple(before + sent_bytes(each) for before, each in zip(counted, own, strict=True))
        return counted
