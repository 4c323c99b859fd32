"""One party of a measurement of crypten_operators.py: rank 0 and 1 compute, 2 is the trusted third party.

    python crypten_party.py --check             # the versions, as JSON
    python crypten_party.py RANK FOLDER

FOLDER has job.json and inputs.npz; a computing party adds RANK.json, and party 0 value.npy.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crypten_functions as functions
import numpy as np
import torch
from crypten_functions import crypten

PARTIES = 2


def main() -> None:
    """Report versions, or take part."""
    if sys.argv[1:] == ["--check"]:
        print(json.dumps({"crypten": crypten.__version__, "torch": torch.__version__}))
        return
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ |= {
        "WORLD_SIZE": str(PARTIES),
        "RANK": str(rank),
        "DISTRIBUTED_BACKEND": "gloo",
        "RENDEZVOUS": f"file://{folder / 'rendezvous'}",
        "GLOO_SOCKET_IFNAME": loopback,
    }
    crypten.cfg.mpc.provider = "TTP"
    crypten.cfg.communicator.verbose = True
    if rank == PARTIES:
        functions.Assistant()
        return
    crypten.init()
    with crypten.no_grad(), np.load(folder / "inputs.npz") as inputs:
        shared = [crypten.cryptensor(torch.from_numpy(inputs[name]), src=0) for name in inputs.files]
        value, runs = measure(job, shared)
        plain = value.get_plain_text()
    if rank == 0:
        np.save(folder / "value.npy", plain.numpy())
    (folder / f"{rank}.json").write_text(json.dumps(runs))
    crypten.uninit()


def measure(job: dict[str, Any], shared: list[Any]) -> tuple[Any, list[dict[str, float]]]:
    """The function's value, and the costs of each run: "ahead_..." what is dealt, and then the function.

    A first run warms up, and CrypTen notes there which random values it asks for.
    """
    function, constants = functions.FUNCTIONS[job["function"]], job["constants"]
    provider = crypten.mpc.get_default_provider()

    def deal() -> dict[str, Any]:
        provider.fill_cache()
        if function is not functions.gelu_secformer:
            return {}
        return {"dealt": functions.deal_waves(shared[0].size(), constants["period"], len(constants["coefficients"]))}

    dealt = deal()
    provider.trace(True)
    function(*shared, **dealt, **constants)
    provider.trace(False)
    runs = []
    for _ in range(job["runs"]):
        dealt, ahead = timed(deal)
        value, costs = timed(lambda dealt: function(*shared, **dealt, **constants), dealt)
        runs.append(costs | {f"ahead_{name}": cost for name, cost in ahead.items()})
    return value, runs


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, float]]:
    """What a call returns, its seconds, and what CrypTen counted."""
    link = crypten.communicator.get()
    link.barrier()
    link.reset_communication_stats()
    begun = time.perf_counter()
    value = call(*arguments)
    seconds = time.perf_counter() - begun
    stats = link.get_communication_stats()
    return value, {"seconds": seconds, "bytes": stats["bytes"], "rounds": stats["rounds"]}


if __name__ == "__main__":
    main()
