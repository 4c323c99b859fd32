"""The engine: compiles a pure function once for each shape, keeps the weights shared, and serves requests.

Here the parties are threads over SPU's in-memory link. What is secret (weights, inputs, masks) exists as shares only
inside the parties' runtimes; what a program returns is the only thing that is reconstructed.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import spu
from spu import libspu
from threadpoolctl import ThreadpoolController

from secformer_jax.errors import UserError
from secformer_jax.mpc.material import Dealt
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.party import Held, Party
from secformer_jax.mpc.runtime.profile import Profile
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE, SETUP, Input, Program, Step, request_inputs, weight_input
from secformer_jax.mpc.runtime.shares import RING_BITS, Share, deal, decode, encode, join, sent_bytes, share

_session = itertools.count()


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


class _Clock:
    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._started


class Parties:
    """Computing parties in one process: a thread and an SPU runtime each, over the in-memory link."""

    def __init__(self, config: MpcConfig, profiled_rank: int = 0) -> None:
        if config.has_third_party and "ttp_beaver_config" not in config.runtime:
            raise UserError(f"config {config.name} needs a dealer that runs: start a cluster, or simulate 2pc_semi2k")
        description = libspu.link.Desc()
        description.id = f"secformer-{next(_session)}"
        description.recv_timeout_ms = 3_600_000
        for rank in range(config.world_size):
            description.add_party(f"party-{rank}", f"memory-{rank}")
        self._pool = ThreadPoolExecutor(config.world_size)
        self._config, self._profiled_rank = config, profiled_rank
        self._io = spu.Io(config.world_size, config.runtime_config())
        self._libraries, self._cores = ThreadpoolController(), len(os.sched_getaffinity(0))

        def start(rank: int) -> Party:
            return Party(config, libspu.link.create_mem(description, rank), profiled=rank == profiled_rank)

        self._parties = list(self._pool.map(start, range(config.world_size)))

    def nothing(self) -> tuple[int, ...]:
        """No byte for any party."""
        return (0,) * self._config.world_size

    def share(self, name: str, array: np.ndarray, counted: tuple[int, ...], bits: int = RING_BITS) -> tuple[int, ...]:
        """Give the parties shares of an array; returns the counted bytes of each, and these."""
        ring = encode(array, self._config.fraction_bits)
        shares = share(ring, str(array.dtype), self._config.protocol, self._config.world_size, bits)
        return self.give(name, shares, counted)

    def give(self, name: str, shares: list[Share], counted: tuple[int, ...]) -> tuple[int, ...]:
        """Give the parties their shares; returns the counted bytes of each, and these."""
        for party, own in zip(self._parties, shares, strict=True):
            party.put(name, own)
        return tuple(before + sent_bytes(own) for before, own in zip(counted, shares, strict=True))

    def publish(self, name: str, array: np.ndarray) -> None:
        """Give the parties ring elements in clear."""
        public = Held(array, False)
        for party in self._parties:
            party.put_public(name, public)

    def run(self, stage: Step) -> None:
        """Run one stage on every party at once, each with its part of this machine.

        Raises:
            RuntimeError: the parties have ended.
        """
        if not self._parties:
            raise RuntimeError("the engine is closed")
        with self._libraries.limit(limits=max(1, self._cores // self._config.world_size)):
            list(self._pool.map(lambda party: party.step(stage), self._parties))

    def costs(self) -> Profile:
        """What the stages since the last call cost the profiled party."""
        return [party.costs() for party in self._parties][self._profiled_rank]

    def free(self, names: Iterable[str]) -> None:
        """Forget variables."""
        for party in self._parties:
            party.free(names)

    def reconstruct(self, name: str) -> np.ndarray:
        """Reveal a variable to the client: every party sends it its share."""
        if all(party.in_runtime(name) for party in self._parties):
            return self._io.reconstruct([party.runtime_share(name) for party in self._parties])
        dtypes, components = zip(*(party.get(name) for party in self._parties), strict=True)
        return decode(join(components), dtypes[0], self._config.fraction_bits)

    def close(self) -> None:
        """End the parties and forget their shares."""
        self._parties.clear()
        self._pool.shutdown()


class Engine:
    """Private evaluation of pure functions (weights, material, inputs) -> outputs.

    Args:
        config: protocol and parties.
        part_of: names the part of the model that an equation belongs to, from its name stack.
        keep_weights: keep the openings of the weights between requests (SEMI2K; elsewhere it changes nothing).
        profiled_rank: the party whose costs are reported.
    """

    def __init__(
        self,
        config: MpcConfig,
        *,
        part_of: Callable[[str], str] = lambda name_stack: "all",
        keep_weights: bool = True,
        profiled_rank: int = 0,
    ) -> None:
        self.config = config
        self._part_of, self._keep_weights = part_of, keep_weights
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

    def compile(self, function: Callable, material: Any, *inputs: Any) -> Program:
        """Compile function(weights, material, *inputs) for the published weights and the shapes of the rest.

        Args:
            function: pure; its result is what the client learns.
            material: pytree of abstract dealer material (an empty one if it needs none).
            inputs: arrays or ShapeDtypeStructs; all secret.
        """
        weights = jax.tree.unflatten(self._weights_tree, [spec for _, spec in self._weights])
        variables = [variable for variable, _ in self._weights] + request_inputs(material, inputs)
        return compile_program(function, (weights, material, *inputs), variables, self.config, part_of=self._part_of)

    def run(self, program: Program, material: Dealt, *inputs: Any, bits: Sequence[int] | None = None) -> Result:
        """Serve one request; the material is used up.

        Args:
            program: compiled for inputs of these shapes.
            material: dealt for it.
            inputs: the client's.
            bits: of the ring that each leaf of them is shared in; by default all 64.

        Raises:
            MaterialReusedError: the material has served before.
        """
        self._parties.costs()
        setup = Profile()
        if not any(program is done for done in self._set_up):
            self._set_up.append(program)
            setup = self._run_phase(program, SETUP)
        clock = _Clock()
        read = {name for stage in program.stages for name in stage.inputs} | set(program.output_names)
        dealt_bytes = self._parties.nothing()
        for i, array in enumerate(material.take(self.config.world_size)):
            if f"material{i}" in read:
                shares = deal(array.components, "int64", array.shape, self.config.protocol, array.bits)
                dealt_bytes = self._parties.give(f"material{i}", shares, dealt_bytes)
        dealing_seconds = clock.seconds()

        clock = _Clock()
        ahead = self._run_phase(program, OFFLINE)
        preparing_seconds = clock.seconds()

        clock = _Clock()
        client_bytes = self._parties.nothing()
        leaves = jax.tree.leaves(inputs)
        for i, (leaf, width) in enumerate(zip(leaves, bits or [RING_BITS] * len(leaves), strict=True)):
            if f"input{i}" in read:
                client_bytes = self._parties.share(f"input{i}", np.asarray(leaf), client_bytes, width)
        online = self._run_phase(program, ONLINE)
        flat = [self._parties.reconstruct(name) for name in program.output_names]
        self._parties.free(set(program.output_names) - {variable.name for variable, _ in self._weights})
        return Result(
            value=jax.tree.unflatten(program.output_tree, flat),
            profile=online,
            ahead=ahead,
            seconds=clock.seconds(),
            dealing_seconds=dealing_seconds,
            preparing_seconds=preparing_seconds,
            dealt_bytes=dealt_bytes,
            client_bytes=client_bytes,
            setup=setup,
        )

    def _run_phase(self, program: Program, phase: int) -> Profile:
        """Run a phase's stages; returns what they cost the profiled party."""
        for stage in program.stages:
            if stage.phase == phase:
                self._parties.run(stage)
        return self._parties.costs()
