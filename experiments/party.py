"""One computing party of network.py: a process with a link of its own. Not for use by hand.

    python experiments/party.py JOB RANK OUT

Reads its shares and the compiled stages, runs set-up and every request, and writes the seconds of each request's
online part and its shares of the results.
"""

from __future__ import annotations

import functools
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import spu
from jax import export
from jax.experimental import enable_x64
from spu import libspu

from secformer_jax.mpc.runtime.own_shares import OwnShares
from secformer_jax.mpc.runtime.program import LocalStage, Stage


@dataclass
class Exported:
    """A local stage's function in a form that another process can load, for one component a share."""

    secret_inputs: tuple[bool, ...]
    secret_outputs: tuple[bool, ...]
    module: bytearray

    @classmethod
    def of(cls, stage: LocalStage) -> Any:
        """Export a stage's function."""
        kinds = zip(stage.function.shapes, stage.function.secret_inputs, strict=True)
        with enable_x64():
            specs = [jax.ShapeDtypeStruct((1, *shape) if secret else shape, np.int64) for shape, secret in kinds]
            module = export.export(stage.function.jitted)(*specs).serialize()
        return cls(stage.function.secret_inputs, stage.function.secret_outputs, module)

    def __call__(self, *arguments: np.ndarray) -> list[np.ndarray]:
        """Run it on one party's shares."""
        with enable_x64():
            return [np.asarray(result) for result in self._function(*arguments)]

    @functools.cached_property
    def _function(self) -> Any:
        return jax.jit(export.deserialize(self.module).call)


def main(job_path: str, rank: int, out: str) -> None:
    """Run one party to its end."""
    job = pickle.loads(Path(job_path).read_bytes())
    description = libspu.link.Desc()
    description.id = "network-check"
    description.connect_retry_times, description.connect_retry_interval_ms = 120, 500
    description.recv_timeout_ms = description.http_timeout_ms = 600_000
    description.http_max_payload_size = job["payload_bytes"]
    for other, address in enumerate(job["addresses"]):
        description.add_party(f"party-{other}", address)
    link = libspu.link.create_brpc(description, rank)
    runtime = spu.Runtime(link, job["config"].runtime_config())
    own = OwnShares(job["config"], runtime)

    def run(phase: int) -> None:
        for stage in job["stages"]:
            if stage.phase == phase:
                if isinstance(stage, Stage):
                    runtime.run(stage.executable())
                else:
                    own.run(stage)
                own.free(stage.frees)

    def give(shares: dict[str, libspu.Share | np.ndarray]) -> None:
        for variable, share in shares.items():
            if isinstance(share, np.ndarray):
                own.keep(variable, share)
            else:
                runtime.set_var(variable, share)

    give(job["weights"])
    setup, offline, online = range(3)
    run(setup)
    seconds, results = [], []
    for request in job["requests"]:
        give(request)
        run(offline)
        link.barrier()
        started = time.perf_counter()
        run(online)
        seconds.append(time.perf_counter() - started)
        results.append([runtime.get_var(variable) for variable in job["outputs"]])
    link.barrier()
    Path(out).write_bytes(pickle.dumps({"seconds": seconds, "results": results}))
    link.stop_link()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
