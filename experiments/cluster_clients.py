"""Requests a minute of one client alone and of eight at once, on one cluster: for cluster.py's part clients.

One run computes what several clients ask; a request of one client alone waits for nobody but the operator's waiting
time. The ways in between: batch_wait_ms 0, each request a run of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cluster_subject import Subject, ask_again, minilm
from results import Check, Entry, table
from rich.table import Table

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.loopback import LocalCluster

CLIENTS = tuple(f"c{i}" for i in range(1, 9))
PROTOCOL, TOLERANCE, TIMES = "2pc_semi2k_dealer", 0.02, 2.0
WAITS = {"together": 50, "one by one": 0}


def clients(each: int) -> Entry:
    """MiniLM with drop-in, pairs of 16 tokens: rates of one client and of eight, batched and not."""
    subject, found = minilm("drop-in"), {}
    for way, wait in WAITS.items():
        options = {"batch_wait_ms": wait}
        with (
            tempfile.TemporaryDirectory(prefix="secformer-cluster-") as folder,
            LocalCluster(Path(folder), PROTOCOL, clients=CLIENTS, options=options) as local,
        ):
            subject.publish(local)
            # The sizes of runs are compiled, and the openings of the weights made, before anything is timed.
            for names in (CLIENTS[:1], CLIENTS, CLIENTS):
                asyncio.run(_ask(local, subject, names, 1))
            alone, error = _rate(local, subject, CLIENTS[:1], each)
            at_once, other = _rate(local, subject, CLIENTS, each)
        found[way] = {"alone": alone, "at_once": at_once, "worst_error": max(error, other)}
    return {"clients": len(CLIENTS), "each": each, "ways": found}


def _rate(local: LocalCluster, subject: Subject, names: Sequence[str], each: int) -> tuple[float, float]:
    """Requests a minute of these clients at once, and the greatest difference from plaintext."""
    started = time.perf_counter()
    worst = asyncio.run(_ask(local, subject, names, each))
    return 60 * each * len(names) / (time.perf_counter() - started), worst


async def _ask(local: LocalCluster, subject: Subject, names: Sequence[str], each: int) -> float:
    async def client(number: int, name: str) -> float:
        worst = 0.0
        async with ClusterClient(local.cluster, name) as asking:
            for turn in range(each):
                index = number + turn * len(names)
                answer, _ = await ask_again(asking, subject.requests[index % len(subject.requests)])
                worst = max(worst, subject.error(index, answer))
        return worst

    return max(await asyncio.gather(*(client(number, name) for number, name in enumerate(names))))


def shown(cell: Entry) -> Table:
    """For people."""
    title = "Requests a minute, MiniLM, drop-in, two texts of 16 tokens: several clients' requests in a run, or not"
    rows = [
        (way, f"{c['alone']:.1f}", f"{c['at_once']:.1f}", f"{c['at_once'] / c['alone']:.2f}", f"{c['worst_error']:.4f}")
        for way, c in cell["ways"].items()
    ]
    return table(title, ("", "alone", "eight at once", "times", "worst error"), rows)


def checks(cell: Entry) -> list[Check]:
    """What has to hold."""
    together = cell["ways"]["together"]
    ratio = together["at_once"] / together["alone"]
    return [
        Check("clients: requests a minute of eight over one's alone", ratio, TIMES, at_least=True),
        Check("clients: greatest difference from plaintext", together["worst_error"], TOLERANCE),
    ]
