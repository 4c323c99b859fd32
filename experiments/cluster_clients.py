"""Requests a minute of one client alone and of eight at once, on one cluster: for cluster.py's part clients.

One run computes what several clients ask; a request of one client alone waits for nobody but the operator's waiting
time. With batch_wait_ms 0 each request is a run of its own. On the WAN the servers' link goes through two relays, one
each way, that delay every byte and limit the rate (rate_limited.py); all else is the loopback.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import rate_limited
from cluster_subject import Subject, ask_again, minilm
from network import NETWORKS, Network
from results import Check, Entry, table
from rich.table import Table

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.loopback import LocalCluster, free_ports

CLIENTS = tuple(f"c{i}" for i in range(1, 9))
PROTOCOL, TOLERANCE = "2pc_semi2k_dealer", 0.02
WAITS = {"together": 50, "one by one": 0}
TIMES = {"loopback": 2.0, "WAN 200 Mbit/s": 4.0}
"""Requests a minute of eight clients at once over one's alone, at the least, by the servers' link."""


class FarApart(LocalCluster):
    """A cluster of two parties whose link to each other is a network's."""

    def __init__(self, folder: Path, network: Network, options: dict) -> None:
        super().__init__(folder, PROTOCOL, clients=CLIENTS, options=options)
        self._network, self._running = network, list[subprocess.Popen]()
        self._relays = dict(zip(self.cluster.parties, free_ports(2), strict=True))

    def file_of(self, name: str) -> Path:
        """Each party finds the other at the relay to it."""
        if name not in self._relays:
            return self.path
        document = json.loads(self.path.read_text())
        addresses = document["devices"]["SPU"]["config"]["spu_internal_addrs"]
        for rank, party in enumerate(self.cluster.parties):
            if party != name:
                addresses[rank] = f"127.0.0.1:{self._relays[party]}"
        path = self.path.with_name(f"cluster-{name}.json")
        path.write_text(json.dumps(document))
        return path

    def __enter__(self) -> FarApart:
        script = Path(rate_limited.__file__).resolve()
        limits = str(self._network.latency_seconds), str(self._network.bits_per_second)
        for party, port in self._relays.items():
            to = self.cluster.links[party]
            command = [sys.executable, str(script), str(port), to.host, str(to.port), *limits]
            self._running.append(subprocess.Popen(command))
        super().__enter__()
        return self

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        for process in self._running:
            process.terminate()
            process.wait()


def clients(link: str, each: int) -> Entry:
    """MiniLM with drop-in, pairs of 16 tokens: rates of one client and of eight; on the loopback one by one, too."""
    subject, found = minilm("drop-in"), {}
    network = NETWORKS.get(link)
    for way in WAITS if network is None else ("together",):
        options = {"batch_wait_ms": WAITS[way]}
        with tempfile.TemporaryDirectory(prefix="secformer-cluster-") as folder:
            path = Path(folder)
            if network is None:
                cluster = LocalCluster(path, PROTOCOL, clients=CLIENTS, options=options)
            else:
                cluster = FarApart(path, network, options)
            found[way] = _rates(cluster, subject, each)
    return {"link": link, "clients": len(CLIENTS), "each": each, "ways": found}


def _rates(cluster: LocalCluster, subject: Subject, each: int) -> Entry:
    with cluster as local:
        subject.publish(local)
        # The sizes of runs are compiled before anything is timed: until nothing is compiled any more.
        compiled = [-2, -1]
        while compiled[-1] != compiled[-2]:
            for count in (1, 2, 4, len(CLIENTS)):
                asyncio.run(_ask(local, subject, CLIENTS[:count], 1))
            compiled.append(local.log("S0").read_text(encoding="utf-8").count('"compiled"'))
        alone, error = _rate(local, subject, CLIENTS[:1], each)
        at_once, other = _rate(local, subject, CLIENTS, each)
    return {"alone": alone, "at_once": at_once, "worst_error": max(error, other)}


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
    title = f"Requests a minute, MiniLM, drop-in, two texts of 16 tokens, {cell['link']}: clients in one run, or not"
    rows = [
        (way, f"{c['alone']:.1f}", f"{c['at_once']:.1f}", f"{c['at_once'] / c['alone']:.2f}", f"{c['worst_error']:.4f}")
        for way, c in cell["ways"].items()
    ]
    return table(title, ("", "alone", "eight at once", "times", "worst error"), rows)


def checks(cell: Entry) -> list[Check]:
    """What has to hold."""
    together, link = cell["ways"]["together"], cell["link"]
    ratio = together["at_once"] / together["alone"]
    return [
        Check(f"clients, {link}: requests a minute of eight over one's alone", ratio, TIMES[link], at_least=True),
        Check(f"clients, {link}: greatest difference from plaintext", together["worst_error"], TOLERANCE),
    ]
