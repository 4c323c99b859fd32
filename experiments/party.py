"""One computing party of network.py: a process with a link of its own. Not for use by hand.

    python experiments/party.py JOB RANK OUT

Reads its shares and the compiled stages, runs set-up and every request, and writes the seconds of each request's
online part and its shares of the results.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import spu
from spu import libspu


def main(job_path: str, rank: int, out: str) -> None:
    """Run one party to its end."""
    job = pickle.loads(Path(job_path).read_bytes())
    runtime_config = libspu.RuntimeConfig()
    runtime_config.ParseFromJsonString(job["runtime_config"])
    description = libspu.link.Desc()
    description.id = "network-check"
    description.connect_retry_times, description.connect_retry_interval_ms = 120, 500
    description.recv_timeout_ms = description.http_timeout_ms = 600_000
    description.http_max_payload_size = job["payload_bytes"]
    for other, address in enumerate(job["addresses"]):
        description.add_party(f"party-{other}", address)
    link = libspu.link.create_brpc(description, rank)
    runtime = spu.Runtime(link, runtime_config)

    def run(phase: int) -> None:
        for stage_phase, name, code, inputs, outputs, frees in job["stages"]:
            if stage_phase == phase:
                runtime.run(libspu.Executable(name=name, input_names=inputs, output_names=outputs, code=code))
                for variable in frees:
                    runtime.del_var(variable)

    def give(shares: dict[str, libspu.Share]) -> None:
        for variable, share in shares.items():
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
