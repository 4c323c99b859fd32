"""All computing parties in one process, for simulation: a thread each, over SPU's in-memory link."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import spu
from spu import libspu
from threadpoolctl import ThreadpoolController

from secformer_jax.errors import UserError
from secformer_jax.mpc.material import Array
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.party import Held, Party
from secformer_jax.mpc.runtime.profile import Profile
from secformer_jax.mpc.runtime.program import Step
from secformer_jax.mpc.runtime.shares import RING_BITS, InputSpec, Share, deal, decode, encode, join, sent_bytes, share

_session = itertools.count()


@dataclass
class State:
    """What one request's programs leave to each other: by rank, each variable's value."""

    values: list[list[Held]]


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

    def one_hot(self, inputs: Sequence[InputSpec], shares: Sequence[Mapping[str, Share]]) -> np.ndarray:
        """Which texts of an input are one-hot, as every party finds: bool (texts,)."""
        with self._own_cores():
            found = list(self._pool.map(lambda party, own: party.one_hot(inputs, own), self._parties, shares))
        return np.logical_and.reduce(found)

    def publish(self, name: str, array: np.ndarray) -> None:
        """Give the parties an array in clear; ring elements as they are."""
        public = Held(encode(array, self._config.fraction_bits), False, str(array.dtype))
        for party in self._parties:
            party.put_public(name, public)

    def run(self, stages: Sequence[Step]) -> None:
        """Run some stages on every party at once, each with its part of this machine.

        Raises:
            RuntimeError: the parties have ended.
        """
        if not self._parties:
            raise RuntimeError("the engine is closed")
        with self._own_cores():
            list(self._pool.map(lambda party: [party.step(stage) for stage in stages], self._parties))

    def _own_cores(self) -> AbstractContextManager[Any]:
        """Each party's libraries use its part of the cores."""
        return self._libraries.limit(limits=max(1, self._cores // self._config.world_size))

    def state(self, leaves: Sequence[Array | np.ndarray], dtype: str) -> State:
        """A request's first state: what the dealer made is shared, other arrays are in clear."""

        def held(leaf: Array | np.ndarray) -> list[Held]:
            if isinstance(leaf, np.ndarray):
                return [Held(leaf, False)] * self._config.world_size
            shares = deal(leaf.components, dtype, leaf.shape, self._config.protocol, leaf.bits)
            return [Held(own, True, dtype) for own in shares]

        return State([list(values) for values in zip(*map(held, leaves), strict=True)])

    def hold(self, state: State) -> None:
        """Have a request's state there, for one program."""
        for party, values in zip(self._parties, state.values, strict=True):
            party.hold({f"state{i}": value for i, value in enumerate(values)})

    def take(self, names: Sequence[str], state: State) -> None:
        """Take variables away as the request's new state."""
        state.values = [party.take(names) for party in self._parties]

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
