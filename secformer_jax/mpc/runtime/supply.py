"""One request's material on its way to the parties of a simulation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from secformer_jax.mpc.material import Array, Dealt
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.parties import Parties
from secformer_jax.mpc.runtime.program import Program, Step
from secformer_jax.mpc.runtime.shares import deal


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._started


class Supply:
    """Gives the parties their material shortly before they use it, so that not all of it is there at once."""

    def __init__(self, parties: Parties, config: MpcConfig, program: Program, material: Dealt) -> None:
        names = [name for name in program.input_names if name.startswith("material")]
        place = {name: i for i, name in enumerate(names)}
        self._parties, self._config, self._names = parties, config, names
        self._missing = {name for name in program.read() if name in place}
        self._batches = material.batches(config.world_size, [place[name] for name in program.read() if name in place])
        self.seconds, self.dealt_bytes = 0.0, parties.nothing()

    def supplied(self, stages: Iterable[Step]) -> Iterator[list[Step]]:
        """The stages in runs, each when the parties have all the material that it reads."""
        run: list[Step] = []
        for stage in stages:
            if run and not self._missing.isdisjoint(stage.inputs):
                yield run
                run = []
            self._have(stage.inputs)
            run.append(stage)
        if run:
            yield run

    def _have(self, names: Iterable[str]) -> None:
        clock = Clock()
        while not self._missing.isdisjoint(names):
            self._give(next(self._batches))
        self.seconds += clock.seconds()

    def rest(self) -> None:
        """Have all made that the dealer makes."""
        clock = Clock()
        for batch in self._batches:
            self._give(batch)
        self.seconds += clock.seconds()

    def _give(self, batch: dict[int, Array]) -> None:
        for place, array in batch.items():
            name = self._names[place]
            if name in self._missing:
                shares = deal(array.components, "int64", array.shape, self._config.protocol, array.bits)
                self.dealt_bytes = self._parties.give(name, shares, self.dealt_bytes)
                self._missing.remove(name)
