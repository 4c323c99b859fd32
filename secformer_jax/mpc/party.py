"""One computing party: its runtime, and what it does by itself between SPU's stages."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import spu
from spu import libspu

from .config import MpcConfig
from .program import LocalStage, Stage
from .shares import Form, from_spu


class Party:
    """A party's runtime and its shares.

    Args:
        config: the protocol.
        link: the party's end of the link to the others.
        profile: log what each operation costs.
    """

    def __init__(self, config: MpcConfig, link: libspu.link.Context, *, profile: bool = False) -> None:
        self.rank = link.rank
        self.runtime = spu.Runtime(link, config.runtime_config(profile=profile))
        self._io = spu.Io(config.world_size, config.runtime_config())
        self._aside: dict[str, np.ndarray] = {}
        self._forms: dict[tuple[tuple[int, ...], bool], Form] = {}

    def put(self, name: str, share: libspu.Share | np.ndarray) -> None:
        """Keep a share: SPU's in the runtime, an array (see `shares`) aside, for local stages alone."""
        if isinstance(share, np.ndarray):
            self._aside[name] = share
        else:
            self.runtime.set_var(name, share)

    def run(self, stage: Stage | LocalStage) -> float:
        """Run a stage and free what no later one reads; returns the seconds that SPU did not see."""
        started = time.perf_counter()
        if isinstance(stage, Stage):
            self.runtime.run(stage.executable())
            seconds = 0.0
        else:
            self._run_local(stage)
            seconds = time.perf_counter() - started
        self.free(stage.frees)
        return seconds

    def free(self, names: Iterable[str]) -> None:
        """Forget variables."""
        for name in names:
            if self._aside.pop(name, None) is None:
                self.runtime.del_var(name)

    def _run_local(self, stage: LocalStage) -> None:
        found = stage.function(
            *(
                self._aside[name] if name in self._aside else from_spu(self.runtime.get_var(name), shape, secret=secret)
                for name, shape, secret in zip(stage.inputs, stage.shapes, stage.function.secret_inputs, strict=True)
            )
        )
        for name, array, secret in zip(stage.outputs, found, stage.function.secret_outputs, strict=True):
            shape = array.shape[1:] if secret else array.shape
            if (shape, secret) not in self._forms:
                self._forms[shape, secret] = Form.of(self._io, self.rank, shape, secret=secret)
            self.runtime.set_var(name, self._forms[shape, secret].share(array))
