"""One computing party in a process of its own: SPU's runtime, and this party's shares and no others'."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import spu
from jax.experimental import enable_x64
from spu import experimental, libspu

from secformer_jax.mpc.runtime.compiler import compile_program
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.own_shares import OwnShares
from secformer_jax.mpc.runtime.profile import LogReader, Profile, parse
from secformer_jax.mpc.runtime.program import SETUP, Input, Program, Stage
from secformer_jax.mpc.runtime.shares import HELD, Share
from secformer_jax.mpc.runtime.values import from_spu, to_spu


class Party:
    """SPU's runtime at one end of the link.

    Args:
        config: protocol and ring.
        link: to the other parties; its rank is this party's.
    """

    def __init__(self, config: MpcConfig, link: libspu.link.Context) -> None:
        self._config, self._link = config, link
        self._log = LogReader()
        self._runtime = spu.Runtime(link, config.runtime_config(profile=True))
        self._own = OwnShares(config, self._runtime)
        self._openings: dict[tuple[int, ...], Program] = {}

    def put(self, name: str, share: Share, *, local_only: bool = False) -> None:
        """Keep a share: in the runtime, or beside it for local stages alone (see `Program.local_only`).

        Raises:
            ValueError: a share with another number of components than this protocol's.
        """
        held = HELD[self._config.protocol](self._link.rank)
        if len(share.components) != len(held):
            raise ValueError(f"{name}: {len(share.components)} components, and {len(held)} were expected")
        ring = share.stacked()
        if local_only:
            self._own.keep(name, ring)
        else:
            self._runtime.set_var(name, to_spu(ring, self._config.protocol, dtype=share.dtype))

    def get(self, name: str) -> tuple[str, np.ndarray]:
        """The dtype of a secret variable, and the ring elements of this party's own component."""
        dtype, ring = from_spu(self._runtime.get_var(name), self._config.protocol)
        return dtype, ring[0]

    def free(self, names: Iterable[str]) -> None:
        """Forget variables."""
        self._own.free(names)

    def run(self, program: Program, phase: int) -> Profile:
        """Run a phase of a program together with the other parties; returns what it cost this one."""
        self._log.lines()
        for stage in program.stages:
            if stage.phase == phase:
                if isinstance(stage, Stage):
                    self._runtime.run(stage.executable())
                else:
                    self._own.run(stage)
                self.free(stage.frees)
        return parse(self._log.lines())

    def open_difference(self, secret: str, mask: str, result: str, shape: tuple[int, ...]) -> None:
        """Open secret - mask, two shared int64 variables of this shape, as the public variable `result`."""
        if shape not in self._openings:
            specs = [np.broadcast_to(np.int64(0), shape)] * 2
            inputs = [Input("secret", SETUP), Input("mask", SETUP)]
            self._openings[shape] = compile_program(
                _opened_difference, specs, inputs, self._config, part_of=lambda stack: "publish"
            )
        program = self._openings[shape]
        [stage] = program.stages
        names = {"secret": secret, "mask": mask}
        self._runtime.run(
            libspu.Executable(
                name=stage.part,
                input_names=[names[name] for name in stage.inputs],
                output_names=[result],
                code=stage.code,
            )
        )

    def agree(self, digest: str) -> None:
        """Compare a digest with the other parties'.

        Raises:
            RuntimeError: a party has another one.
        """
        digests = self._link.all_gather(digest)
        others = [str(rank) for rank, other in enumerate(digests) if other != digest]
        if others:
            raise RuntimeError(
                f"rank {', '.join(others)} compiled another program: install the same versions everywhere"
            )

    def close(self) -> None:
        """Leave the link."""
        self._link.stop_link()


def _opened_difference(secret, mask):
    with enable_x64():
        return experimental.reveal(secret - mask)
