"""Mutated messages at every port of a running cluster: nothing breaks, nothing grows, and an honest client is served.

    python experiments/fuzz.py [--count 100000] [--seed 0] [--fresh]
    (about an hour: a cell has at most 5,000 messages, and a later run goes on where this one stopped)

A good request, a good question to the dealer and a good HTTP head are cut, spliced, flipped and filled with extreme
numbers, and sent to each port by a client that holds a certificate; to the servers' link as raw bytes. Writes
results/fuzz.json and .md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import ssl
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from cluster_subject import Subject, ask, memory, processes, tiny
from results import FOLDER, ROOT, Check, Entry, Results, console, run, table

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.material import MATERIAL_PATH
from secformer_jax.cluster.config import DEALER, Address, Cluster
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.paths import ACTIVATE_PATH, INFER_PATH, PUBLISH_PATH

sys.path.insert(0, str(ROOT / "tests" / "cluster"))
from mallory import NAME, Mallory

GROWTH_MB = 300
AT_ONCE = 32
TOGETHER = 5000
"""Messages that one cluster gets."""
PORTS = {"infer S0": 0.3, "infer S1": 0.3, "dealer": 0.2, "http S0": 0.1, "link S0": 0.05, "link S1": 0.05}
"""Where they go, and how many of all."""
EXTREME = (
    b"-1",
    b"0",
    b"18446744073709551616",
    b"1e308",
    b"null",
    b"[]",
    b"{}",
    b"true",
    b'""',
    b"[" * 2000,
    b"\\ud800",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them changed, cut out, doubled, or extreme."""
    found = bytearray(data[:4096] if rng.random() < 0.9 else data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(7):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1:
                del found[at : at + rng.choice((1, 4, 64, 4096))]
            case 2:
                found[at:at] = rng.randbytes(rng.choice((1, 8, 100)))
            case 3:
                found[at:at] = found[rng.randrange(len(found) + 1) :][: rng.choice((8, 64))]
            case 4:
                found[at : at + rng.choice((1, 3))] = rng.choice(EXTREME)
            case 5:
                del found[at:]
            case _ if len(found) > 18:
                found[rng.randrange(4, 18)] = rng.randrange(256)
    return bytes(found)


async def over_http(http: aiohttp.ClientSession, url: str, name: str, body: bytes) -> str:
    """The status of an answer."""
    try:
        async with http.post(url, data=body, server_hostname=name) as answer:
            await answer.read()
            return str(answer.status)
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        return type(error).__name__


async def raw(address: Address, context: ssl.SSLContext | None, name: str, data: bytes) -> str:
    """Bytes on a connection of their own, and whether anything comes back."""
    try:
        hostname = name if context is not None else None
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname=hostname
        )
        writer.write(data)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.05)
        writer.close()
        return "sent"
    except (OSError, ssl.SSLError) as error:
        return type(error).__name__


async def attack(cluster: Cluster, subject: Subject, port: str, count: int, seed: str) -> Counter[str]:
    """So many messages at one port; what came back."""
    rng, outcomes = random.Random(f"{seed} {port}"), Counter[str]()
    async with ClusterClient(cluster, NAME) as client:
        deployment = (await client.deployment()).name
    async with Mallory(cluster, subject.requests[0]) as mallory:
        good = {party: b"".join(m.pack()) for party, m in zip(cluster.parties, mallory.good(), strict=True)}
        asked = json.dumps({"deployment": deployment, "piece": "0" * 32, "rows": 1, "length": 16}).encode()
        head = b"POST /v1/infer HTTP/1.1\r\nHost: S0\r\nContent-Length: 4000\r\nContent-Type: x\r\n\r\n"
        context, kind, _, name = tls.client_context(cluster.tls(NAME)), *port.partition(" ")
        for start in range(0, count, AT_ONCE):
            sending = []
            for _ in range(min(AT_ONCE, count - start)):
                if kind == "infer":
                    path = rng.choice((INFER_PATH,) * 8 + (PUBLISH_PATH, ACTIVATE_PATH))
                    url = f"https://{cluster.control[name]}{path}"
                    sending.append(over_http(mallory.http, url, name, mutated(good[name], rng)))
                elif kind == "dealer":
                    path = rng.choice((MATERIAL_PATH, "/org.interconnection.BeaverService/AdjustDot"))
                    url = f"https://{cluster.dealer}{path}"
                    sending.append(over_http(mallory.http, url, DEALER, mutated(asked, rng)))
                elif kind == "http":
                    sending.append(raw(cluster.control[name], context, name, mutated(head + good[name][:2000], rng)))
                else:
                    hello = bytes([22, 3, 1, 0, 200, 1]) + rng.randbytes(200)
                    sending.append(raw(cluster.links[name], None, name, mutated(hello, rng)))
            outcomes.update(await asyncio.gather(*sending))
    return outcomes


def measure(port: str, count: int, seed: str) -> Entry:
    """One port of a cluster with a tiny model, an honest client beside it."""
    subject = tiny("drop-in")
    with (
        tempfile.TemporaryDirectory(prefix="secformer-fuzz-") as folder,
        LocalCluster(Path(folder), "2pc_semi2k_dealer", clients=("honest", NAME)) as local,
    ):
        subject.publish(local)
        asyncio.run(ask(local, "honest", subject.requests[:2]))
        before, started = megabytes(local), time.monotonic()
        outcomes = asyncio.run(attack(local.cluster, subject, port, count, seed))
        seconds, after = time.monotonic() - started, megabytes(local)
        answers = asyncio.run(ask(local, "honest", subject.requests[:2]))
        error = max(subject.error(i, answer) for i, answer in enumerate(answers))
        logs = {name: local.log(name).read_text(encoding="utf-8") for name in local.servers}
        sessions = sum('"event": "ready", "count"' in line for line in logs["S0"].splitlines())
        alive = all(process.poll() is None for process in local.processes.values())
    return {
        "count": count,
        "seconds": seconds,
        "outcomes": dict(outcomes),
        "tracebacks": sum(text.count("Traceback") + text.count("an error of this program") for text in logs.values()),
        "sessions": sessions,
        "alive": alive,
        "growth_mb": max(after[name] - before[name] for name in before),
        "error_of_the_honest": error,
    }


def megabytes(local: LocalCluster) -> dict[str, float]:
    """In memory now, by process."""
    return {name: memory(pid)["now"] for name, pid in processes(local).items()}


def main(
    count: Annotated[int, typer.Option(help="messages in all")] = 100_000,
    seed: Annotated[int, typer.Option(help="of the mutations")] = 0,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Send, look, print and write."""
    results, out = Results("fuzz", folder, fresh=fresh), console()
    for port, part in PORTS.items():
        whole = round(count * part)
        for first in range(0, whole, TOGETHER):
            number = min(TOGETHER, whole - first)
            results.cell(f"{port}, from {first}", functools.partial(measure, port, number, f"{seed} {first}"))
            out.print(f"{port}: {first + number:,} of {whole:,}")
    cells, rows = results.cells, []
    for port in PORTS:
        own = [cell for name, cell in cells.items() if name.startswith(f"{port},")]
        counted = sum((Counter[str](cell["outcomes"]) for cell in own), Counter[str]())
        outcomes = ", ".join(f"{name} {number:,}" for name, number in sorted(counted.items()))
        messages, tracebacks = (sum(cell[key] for cell in own) for key in ("count", "tracebacks"))
        seconds, grown = sum(cell["seconds"] for cell in own), max(cell["growth_mb"] for cell in own)
        rows.append([port, f"{messages:,}", f"{seconds:.0f}", f"{grown:.0f}", str(tracebacks), outcomes])
    columns = ("port", "messages", "seconds", "MB grown", "tracebacks", "outcomes")
    checks = [
        Check("messages", sum(c["count"] for c in cells.values()), count, at_least=True),
        Check("tracebacks", sum(c["tracebacks"] for c in cells.values()), 0),
        Check("sessions after the first", sum(c["sessions"] - 1 for c in cells.values()), 0),
        Check("processes that ended", sum(not c["alive"] for c in cells.values()), 0),
        Check("MB that a process grew by", max(c["growth_mb"] for c in cells.values()), GROWTH_MB),
        Check("error of the honest client", max(c["error_of_the_honest"] for c in cells.values()), 0.02),
    ]
    results.publish(out, [table("Mutated messages", columns, rows)], checks)
    raise typer.Exit(int(not all(check.holds for check in checks)))


if __name__ == "__main__":
    run(main)
