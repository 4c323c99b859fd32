"""The engine: compiles a pure function once for each shape, keeps the weights shared, and serves requests.

Here the parties are threads over SPU's in-memory link. What is secret (weights, inputs, masks) exists as shares only
inside the parties' runtimes; what a program returns is the only thing that is reconstructed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import spu
from spu import libspu

from secformer_jax.errors import UserError
from secformer_jax.mpc.material import Dealt
from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.own_shares import OwnShares
from secformer_jax.mpc.runtime.profile import LogReader, Profile, parse
from secformer_jax.mpc.runtime.program import (
    OFFLINE,
    ONLINE,
    SETUP,
    Input,
    LocalStage,
    Program,
    Stage,
    request_inputs,
    weight_input,
)
from secformer_jax.mpc.runtime.shares import Component, deal
from secformer_jax.mpc.runtime.values import to_spu

_session = itertools.count()


@dataclass
class Result:
    """Outputs of one request and what it cost one party.

    Attributes:
        value: the function's result, revealed to the client.
        profile: bytes, messages and seconds inside SPU, in total, by part and by operation.
        seconds: wall time from the shared input to the revealed result, the dealer's own time left out.
        offline_bytes: what the party with most has from the dealer for this request, and what it sent ahead of it.
        dealing_seconds: time for making it, and for handing it to the parties.
        preparing_seconds: time for the parties' work ahead of the input.
        setup: cost of what runs once, before the program's first request; empty afterwards.
        input_bytes: share of the input that the client sent to one party.
    """

    value: Any
    profile: Profile
    seconds: float
    offline_bytes: int
    dealing_seconds: float
    preparing_seconds: float
    input_bytes: int
    setup: Profile

    @property
    def offline_seconds(self) -> float:
        """All that is ahead of the input."""
        return self.dealing_seconds + self.preparing_seconds

    @property
    def whole_seconds(self) -> float:
        """Everything that a request needs, ahead of its input and after it."""
        return self.offline_seconds + self.seconds


@dataclass
class _Phase:
    """What a phase cost one party: in it, and for the material dealt to it (bytes, and the dealer's seconds)."""

    profile: Profile = field(default_factory=Profile)
    dealt_bytes: int = 0
    dealing_seconds: float = 0.0


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
        self._runtimes: list[spu.Runtime] = []

        def start(rank: int) -> spu.Runtime:
            link = libspu.link.create_mem(description, rank)
            return spu.Runtime(link, config.runtime_config(profile=rank == profiled_rank))

        self._runtimes = list(self._pool.map(start, range(config.world_size)))
        self._own = [OwnShares(config, runtime) for runtime in self._runtimes]

    def each(self, action: Callable[[spu.Runtime], Any]) -> list:
        """Run an action on every party at once and return the results by rank."""
        return list(self._pool.map(action, self._runtimes))

    def share(self, name: str, array: np.ndarray, *, secret: bool = True) -> int:
        """Give the parties an array under a variable name, as shares or in clear; returns the bytes for one party."""
        visibility = libspu.Visibility.VIS_SECRET if secret else libspu.Visibility.VIS_PUBLIC
        shares = self._io.make_shares(np.ascontiguousarray(array), visibility)
        for runtime, piece in zip(self._runtimes, shares, strict=True):
            runtime.set_var(name, piece)
        return sum(len(chunk) for chunk in shares[0].share_chunks)

    def give(self, name: str, shape: tuple[int, ...], components: list[Component], *, local_only: bool) -> int:
        """Give the parties their components of ring elements; returns the bytes of the party that gets most.

        With `local_only` SPU never reads them, and local stages alone do.
        """

        def hold(rank: int) -> int:
            ring, protocol = pieces[rank].stacked(), self._config.protocol
            if local_only:
                self._own[rank].keep(name, ring)
            else:
                self._runtimes[rank].set_var(name, to_spu(ring, protocol))
            return sum(len(c) if isinstance(c, bytes) else c.nbytes for c in pieces[rank].components)

        pieces = deal(components, "int64", shape, self._config.protocol)
        return max(self._pool.map(hold, range(len(pieces))))

    def run(self, stage: Stage | LocalStage) -> float:
        """Run one stage on every party at once; returns the seconds that SPU did not see."""
        clock, seconds = _Clock(), 0.0
        if isinstance(stage, Stage):
            executable = stage.executable()
            self.each(lambda runtime: runtime.run(executable))
        else:
            list(self._pool.map(lambda own: own.run(stage), self._own))
            seconds = clock.seconds()
        self.free(stage.frees)
        return seconds

    def free(self, names: Iterable[str]) -> None:
        """Forget variables."""
        for own in self._own:
            own.free(names)

    def reconstruct(self, name: str) -> np.ndarray:
        """Reveal a variable to the client: every party sends it its share."""
        return self._io.reconstruct([runtime.get_var(name) for runtime in self._runtimes])

    def close(self) -> None:
        """End the parties and forget their shares."""
        self._own.clear()
        self._runtimes.clear()
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
        self._log = LogReader()
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
        sent = 0
        for path, leaf in leaves:
            variable = weight_input(path, public=public, keep=self._keep_weights)
            self._weights.append((variable, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)))
            sent += self._parties.share(variable.name, np.asarray(leaf), secret=variable.secret)
        return sent

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

    def run(self, program: Program, material: Dealt, *inputs: Any) -> Result:
        """Serve one request; the material is used up.

        Raises:
            MaterialReusedError: the material has served before.
        """
        self._log.lines()
        setup = Profile()
        if not any(program is done for done in self._set_up):
            self._set_up.append(program)
            setup = self._run_phase(program, SETUP).profile
        clock = _Clock()
        undealt, local_only = {f"material{i}": i for i in range(len(material))}, program.local_only()

        def fill(stage: Stage | LocalStage) -> int:
            dealt_bytes = 0
            for name in sorted(undealt.keys() & set(stage.inputs)):
                dealt = material.components(undealt.pop(name), self.config.world_size)
                dealt_bytes += self._parties.give(name, *dealt, local_only=name in local_only)
            return dealt_bytes

        ahead = self._run_phase(program, OFFLINE, fill)
        ahead_seconds = clock.seconds()

        clock = _Clock()
        read = {name for stage in program.stages for name in stage.inputs} | set(program.output_names)
        input_bytes = sum(
            self._parties.share(f"input{i}", np.asarray(leaf))
            for i, leaf in enumerate(jax.tree.leaves(inputs))
            if f"input{i}" in read
        )
        # Material that serves online directly is dealt just before its stage, to bound memory; its time is offline's.
        online = self._run_phase(program, ONLINE, fill)
        flat = [self._parties.reconstruct(name) for name in program.output_names]
        self._parties.free(set(program.output_names) - {variable.name for variable, _ in self._weights})
        return Result(
            value=jax.tree.unflatten(program.output_tree, flat),
            profile=online.profile,
            seconds=clock.seconds() - online.dealing_seconds,
            offline_bytes=ahead.dealt_bytes + online.dealt_bytes + ahead.profile.total.send_bytes,
            dealing_seconds=ahead.dealing_seconds + online.dealing_seconds,
            preparing_seconds=ahead_seconds - ahead.dealing_seconds,
            input_bytes=input_bytes,
            setup=setup,
        )

    def _run_phase(
        self, program: Program, phase: int, deal: Callable[[Stage | LocalStage], int] = lambda stage: 0
    ) -> _Phase:
        """Run a phase's stages, each after its material was dealt."""
        done, local = _Phase(), []
        for stage in program.stages:
            if stage.phase == phase:
                clock = _Clock()
                done.dealt_bytes += deal(stage)
                done.dealing_seconds += clock.seconds()
                local.append((stage.part, self._parties.run(stage)))
        done.profile = parse(self._log.lines())
        for part, seconds in local:
            done.profile.add_local(part, seconds)
        return done
