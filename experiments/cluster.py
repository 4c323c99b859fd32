"""A cluster of real processes on the loopback, over mutual TLS: answers, seconds, bytes by link, memory by process.

    python experiments/cluster.py [--part requests] [--part clients] ... [--fresh]

requests: 50 requests from 4 clients at once, of MiniLM on SEMI2K with the dealer and of the shipped student on ABY3
with three servers; then one request by turns with the simulation on this machine, both under the same load.
thousand: 1,000 requests of a tiny model one after the other; memory of each process after the first 100 and in the end.
capture: every byte on the loopback while a tiny model is published and asked; no token row and no weight may be in it.
clients: requests a minute of one client alone and of eight at once, on the loopback and on a WAN (cluster_clients.py).
faults: each role killed at random moments (cluster_faults.py). Writes results/cluster.json and .md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import cluster_clients
import cluster_faults
import numpy as np
import typer
from cluster_subject import Subject, ask, ask_again, memory, minilm, processes, student, tiny
from loopback import Capture
from results import FOLDER, Check, Entry, Results, console, run, table

from secformer_jax.cluster.clients.client import ClusterClient, statuses
from secformer_jax.cluster.config import OWNER
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.functions import presets
from secformer_jax.inference.private import PrivateModel

CLIENTS = ("c1", "c2", "c3", "c4")
CASES = {
    "2pc_semi2k_dealer, drop-in": ("2pc_semi2k_dealer", functools.partial(minilm, "drop-in")),
    "3pc_aby3, fast": ("3pc_aby3", functools.partial(student, "fast")),
}
SIMULATED = {"2pc_semi2k_dealer": "2pc_semi2k"}
PARTS = ("requests", "clients", "thousand", "capture", "faults")
TOLERANCE, SLOWDOWN, GROWTH = 0.02, 1.5, 1.05


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all by default")] = None,
    case: Annotated[list[str] | None, typer.Option(help="of the part requests")] = None,
    count: Annotated[int, typer.Option(help="requests in all")] = 50,
    many: Annotated[int, typer.Option(help="requests of the part thousand")] = 1000,
    kills: Annotated[int, typer.Option(help="of each role")] = 10,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure, print and write."""
    out, results = console(), Results("cluster", folder, fresh=fresh)
    for each in part or PARTS:
        if each == "requests":
            for name in case or CASES:
                results.cell(f"requests: {name}", functools.partial(requests, *CASES[name], count))
        elif each == "clients":
            for link in cluster_clients.TIMES:
                results.cell(f"clients: {link}", functools.partial(cluster_clients.clients, link, 3))
        elif each == "thousand":
            results.cell("thousand", functools.partial(thousand, many))
        elif each == "capture":
            results.cell("capture", capture)
        else:
            for role in cluster_faults.ROLES:
                results.cell(f"faults: {role}", functools.partial(cluster_faults.kill, role, kills))
    results.publish(out, tables(results.cells), checks(results.cells))


@dataclasses.dataclass
class Asked:
    """What came of many requests: differences from plaintext, and the first party's figures."""

    errors: list[float] = dataclasses.field(default_factory=list)
    costs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    sent_again: int = 0


def requests(protocol: str, make: Callable[[], Subject], count: int) -> Entry:
    """Many requests from four clients at once, then some by turns with the simulation."""
    subject = make()
    with (
        tempfile.TemporaryDirectory(prefix="secformer-cluster-") as folder,
        LocalCluster(Path(folder), protocol, clients=CLIENTS) as local,
    ):
        started = time.perf_counter()
        published = subject.publish(local)
        publish_seconds = time.perf_counter() - started
        first = asyncio.run(ask(local, CLIENTS[0], subject.requests[:2]))
        before = counts(local)
        started = time.perf_counter()
        asked = asyncio.run(_at_once(local, subject, count))
        seconds = time.perf_counter() - started
        sent = {link: (counts(local)[link] - before[link]) / count for link in before}
        used = {name: memory(pid) for name, pid in processes(local).items()}
        ratio = _against_simulation(local, subject, SIMULATED.get(protocol, protocol))
    return {
        "tensors": published.tensors,
        "publish_bytes": published.sent_bytes,
        "publish_seconds": publish_seconds,
        "first_seconds": first[0].seconds,
        "answered": len(asked.errors),
        "sent_again": asked.sent_again,
        "worst_error": max(asked.errors),
        "seconds": seconds / count,
        "party_seconds": statistics.median(cost["party_seconds"] for cost in asked.costs),
        "bytes": sent,
        "most_link_bytes": max(cost["send_bytes"] for cost in asked.costs),
        "least_link_bytes": min(cost["send_bytes"] for cost in asked.costs),
        "memory": used,
        **ratio,
    }


async def _at_once(local: LocalCluster, subject: Subject, count: int, clients: Sequence[str] = CLIENTS) -> Asked:
    """`count` requests, each client's one after the other, the clients at once."""
    asked = Asked()

    async def client(number: int) -> None:
        async with ClusterClient(local.cluster, clients[number]) as asking:
            for index in range(number, count, len(clients)):
                answer, again = await ask_again(asking, subject.requests[index % len(subject.requests)])
                asked.sent_again += again
                asked.errors.append(subject.error(index, answer))
                asked.costs.append(answer.party)

    await asyncio.gather(*(client(number) for number in range(len(clients))))
    return asked


def _against_simulation(local: LocalCluster, subject: Subject, protocol: str, rounds: int = 7) -> Entry:
    """Seconds of the online part by turns: a client's of the cluster, and the engine's in simulation."""
    cluster, simulated = [], []
    request = subject.requests[0]
    chosen = presets.preset(subject.preset)
    with PrivateModel(subject.model, chosen, protocol, calibration=subject.calibration) as private:
        for _ in range(2):
            private(request)
        for _ in range(rounds):
            simulated.append(private(request).result.seconds)
            time.sleep(1)  # the cluster lays in its material meanwhile
            cluster += [answer.seconds for answer in asyncio.run(ask(local, CLIENTS[0], [request]))]
            # What it deals for the next request is no part of this one's time, nor of the simulation's.
            time.sleep(5)
    medians = statistics.median(cluster), statistics.median(simulated)
    return {"cluster_seconds": medians[0], "simulated_seconds": medians[1], "ratio": medians[0] / medians[1]}


def counts(local: LocalCluster) -> dict[str, float]:
    """Bytes by link, added up over the servers."""
    found: dict[str, float] = {}
    for state in asyncio.run(statuses(local.cluster, OWNER)).values():
        for key, value in state["counts"].items():
            name, _, link = key.partition(" ")
            if name.endswith("bytes_total"):
                way = "sent" if "sent" in name else "received"
                found[f"{link}, {way}"] = found.get(f"{link}, {way}", 0) + value
    return found


def thousand(count: int) -> Entry:
    """Memory of every process after a tenth of the requests and after all."""
    subject = tiny("fast")
    with (
        tempfile.TemporaryDirectory(prefix="secformer-cluster-") as folder,
        LocalCluster(Path(folder), "2pc_semi2k_dealer") as local,
    ):
        subject.publish(local)
        started = time.perf_counter()
        early_on = asyncio.run(_at_once(local, subject, count // 10, ["client"]))
        early = {name: memory(pid)["now"] for name, pid in processes(local).items()}
        rest = asyncio.run(_at_once(local, subject, count - count // 10, ["client"]))
        late = {name: memory(pid)["now"] for name, pid in processes(local).items()}
        seconds = (time.perf_counter() - started) / count
    return {
        "requests": count,
        "seconds": seconds,
        "sent_again": early_on.sent_again + rest.sent_again,
        "early": early,
        "late": late,
        "growth": {name: late[name] / early[name] for name in early},
        "worst_error": max(early_on.errors + rest.errors),
    }


def capture() -> Entry:
    """Everything that travels over the loopback, searched for what must not be in it."""
    subject = tiny("puma")
    embedding = subject.model.params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    kernel = subject.model.params["bert"]["encoder"]["layer"]["0"]["intermediate"]["dense"]["kernel"]
    request = subject.requests[0]
    rows = (request.input_ids[..., None] == np.arange(subject.model.config.vocab_size)).astype(np.float32)
    first = int(request.input_ids[0, 1])
    near = slice(max(0, first - 6), first + 6)
    ids = np.ascontiguousarray(request.input_ids[0])
    secrets = {
        "token ids, 32 bits": ids.astype(np.int32),
        "token ids, 64 bits": ids.astype(np.int64),
        "one-hot row, float": rows[0, 1, near],
        "one-hot row, ring": (rows[0, 1, near] * 2**18).astype(np.int64),
        **{
            f"{name}, {kind}": array
            for name, weight in (("embedding", embedding), ("kernel", kernel))
            for kind, array in (
                ("float", np.asarray(weight, np.float32)[3]),
                ("ring", np.rint(np.asarray(weight, np.float64)[3] * 2**18).astype(np.int64)),
            )
        },
    }
    with tempfile.TemporaryDirectory(prefix="secformer-cluster-") as folder:
        local = LocalCluster(Path(folder), "2pc_semi2k_dealer")
        with Capture(local.ports) as stream:
            with local:
                subject.publish(local)
                asyncio.run(ask(local, "client", [request]))
            # That the capture sees plaintext where there is some.
            seen = stream.sees_plaintext()
        found = {name: stream.holds(array.tobytes()[:96]) for name, array in secrets.items()}
    return {"bytes": stream.size, "sees_plaintext": seen, "found": found}


def tables(cells: dict[str, Entry]) -> list:
    """For people."""
    shown = []
    asked = {name.removeprefix("requests: "): c for name, c in cells.items() if name.startswith("requests")}
    if asked:
        columns = (
            "",
            "answered",
            "worst error",
            "s each",
            "cluster s",
            "simulated s",
            "link MB",
            "dealer MB",
            "input MB",
        )
        rows = [
            (
                name,
                str(c["answered"]),
                f"{c['worst_error']:.4f}",
                f"{c['seconds']:.2f}",
                f"{c['cluster_seconds']:.2f}",
                f"{c['simulated_seconds']:.2f}",
                *(
                    f"{c['bytes'].get(link, 0) / 1e6:,.1f}"
                    for link in ("link, sent", "dealer, received", "clients, received")
                ),
            )
            for name, c in asked.items()
        ]
        shown.append(
            table(
                "Requests from 4 clients at once (drop-in: MiniLM, fast: the student); bytes of all servers for one",
                columns,
                rows,
            )
        )
        rows = [
            (name, role, f"{used['now']:,.0f}", f"{used['peak']:,.0f}")
            for name, c in asked.items()
            for role, used in c["memory"].items()
        ]
        shown.append(table("Megabytes in memory", ("", "process", "now", "peak"), rows, text_columns=2))
    shown += [cluster_clients.shown(cell) for name, cell in cells.items() if name.startswith("clients: ")]
    if "thousand" in cells:
        c = cells["thousand"]
        rows = [(name, f"{c['early'][name]:,.0f}", f"{c['late'][name]:,.0f}") for name in c["early"]]
        shown.append(table(f"Megabytes after a tenth and after {c['requests']} requests", ("", "early", "late"), rows))
    faults = {name.removeprefix("faults: "): c for name, c in cells.items() if name.startswith("faults")}
    if faults:
        rows = [
            (name, str(len(c["trials"])), f"{c['most_report_seconds']:.1f}", f"{c['most_recovery_seconds']:.1f}")
            for name, c in faults.items()
        ]
        shown.append(table("Killed at random moments", ("", "times", "reported after s", "served again after s"), rows))
    return shown


def checks(cells: dict[str, Entry]) -> list[Check]:
    """The lines that have to hold, of those measured."""
    found = []
    for name, c in cells.items():
        if name.startswith("requests"):
            found.append(Check(f"{name}: greatest difference from plaintext", c["worst_error"], TOLERANCE))
            found.append(Check(f"{name}: seconds over the simulation's", c["ratio"], SLOWDOWN))
            # SPU's count of ABY3's bytes differs by some percent from run to run, in simulation as well.
            varying = (c["most_link_bytes"] - c["least_link_bytes"]) / max(c["publish_bytes"])
            found.append(Check(f"{name}: bytes that vary between requests, of the weights'", varying, 0.05))
        elif name.startswith("clients: "):
            found += cluster_clients.checks(c)
        elif name == "thousand":
            found.append(Check("thousand: greatest growth of a process", max(c["growth"].values()), GROWTH))
            found.append(Check("thousand: greatest difference from plaintext", c["worst_error"], TOLERANCE))
        elif name == "capture":
            found.append(Check("capture: secrets found in the stream", sum(c["found"].values()), 0))
            found.append(Check("capture: plaintext is seen where there is some", c["sees_plaintext"], 1, at_least=True))
        elif name.startswith("faults"):
            found.append(Check(f"{name}: most seconds until it is reported", c["most_report_seconds"], 30))
            found.append(Check(f"{name}: wrong, hung or silent", c["failures"], 0))
    return found


if __name__ == "__main__":
    run(main)
