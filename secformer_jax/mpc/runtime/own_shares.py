"""Where a party runs its local stages, beside SPU's runtime."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import spu

from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.program import LocalStage
from secformer_jax.mpc.runtime.values import from_spu, to_spu


class OwnShares:
    """A party's shares that SPU never reads, and the local stages that do: see `local` and `Program.local_only`."""

    def __init__(self, config: MpcConfig, runtime: spu.Runtime) -> None:
        self._protocol, self._runtime = config.protocol, runtime
        self._kept: dict[str, np.ndarray] = {}

    def keep(self, name: str, share: np.ndarray) -> None:
        """Keep a share of ring elements, int64 (components, *shape)."""
        self._kept[name] = share

    def run(self, stage: LocalStage) -> None:
        """Run a stage; what it reads else, and what it writes, is in the runtime."""
        function = stage.function
        arguments = [self._read(*each) for each in zip(stage.inputs, function.secret_inputs, strict=True)]
        for name, array, secret in zip(stage.outputs, function(*arguments), function.secret_outputs, strict=True):
            self._runtime.set_var(name, to_spu(array, self._protocol, secret=secret))

    def free(self, names: Iterable[str]) -> None:
        """Forget variables, here or in the runtime."""
        for name in names:
            if self._kept.pop(name, None) is None:
                self._runtime.del_var(name)

    def _read(self, name: str, secret: bool) -> np.ndarray:
        if name in self._kept:
            return self._kept[name]
        return from_spu(self._runtime.get_var(name), self._protocol, secret=secret)[1]
