"""Mutated messages at every port of a running cluster: nothing breaks, nothing grows, and an honest client is served.

    python experiments/fuzz.py [--count 100000] [--seed 0] [--fresh]
    (a cell has at most 5,000 messages; a later run goes on where this one stopped)

Good requests, questions, descriptions and a good HTTP head are cut, spliced, flipped and filled with extreme numbers,
and sent to each port by who may speak there; to the servers' link as raw bytes. Writes
results/fuzz.json and .md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import re
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from cluster_subject import Subject, ask, memory, processes, tiny
from results import FOLDER, ROOT, Check, Entry, Results, console, run, table

from secformer_jax.cluster.clients.material import DESCRIBE_PATH, MASKS_PATH, MATERIAL_PATH, REVEAL_PATH
from secformer_jax.cluster.config import DEALER, OWNER, Address, Cluster
from secformer_jax.cluster.dealer.beaver.service import PATH as BEAVER_PATH
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.message import Message
from secformer_jax.cluster.wire.paths import ACTIVATE_PATH, INFER_PATH, PUBLISH_PATH, STATEMENT_PATH

sys.path.insert(0, str(ROOT / "tests" / "cluster"))
from mallory import NAME, Mallory

GROWTH_MB = 300
AT_ONCE = 32
TOGETHER = 5000
"""Messages that one cluster gets."""
PORTS = {
    "requests to S0": 0.25,
    "requests to S1": 0.25,
    "questions to S0": 0.1,
    "a client's to the dealer": 0.05,
    "a server's to the dealer": 0.1,
    "the owner's to the dealer": 0.05,
    "the owner's to S0": 0.05,
    "HTTP to S0": 0.1,
    "the link of S0": 0.025,
    "the link of S1": 0.025,
}
"""Where they go, and how many of all."""
PATIENCE_SECONDS = 0.5
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
    found = bytearray(data[:4096] if rng.random() < 0.5 else data)
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
    """The status of an answer, or that none came in time: what is still well formed waits for the other server's."""
    try:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with http.post(url, data=body, server_hostname=name, timeout=timeout) as answer:
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


Send = Callable[[random.Random], Awaitable[str]]


def senders(mallory: Mallory, sessions: Mapping[str, aiohttp.ClientSession]) -> dict[str, Send]:
    """What sends one mutated message of a number of its own, by port.

    A parser that is one role's is reached with this role's certificate.
    """
    cluster, name = mallory.cluster, mallory.deployment
    number = b"0" * 32
    messages = mallory.good(request=number.decode())
    good = {party: b"".join(message.pack()) for party, message in zip(cluster.parties, messages, strict=True)}
    head = b"POST /v1/infer HTTP/1.1\r\nHost: S0\r\nContent-Length: 4000\r\nContent-Type: x\r\n\r\n"
    sized = {"deployment": name, "rows": 1, "length": 16}
    described = {"description": mallory.description.to_json()}
    question = json.dumps({"nonce": number.decode(), **sized}).encode()
    asked = json.dumps({"piece": number.decode(), **sized}).encode()
    published = b"".join(Message("describe", described).pack())
    owners = {DESCRIBE_PATH: json.dumps(described).encode()}

    def post(role: str, server: str, bodies: Mapping[str, bytes]) -> Send:
        address = cluster.dealer if server == DEALER else cluster.control[server]

        def send(rng: random.Random) -> Awaitable[str]:
            path = rng.choice(tuple(bodies))
            body = bodies[path].replace(number, rng.randbytes(16).hex().encode())
            return over_http(sessions[role], f"https://{address}{path}", server, mutated(body, rng))

        return send

    def hello(party: str) -> Send:
        start = bytes([22, 3, 1, 0, 200, 1])
        return lambda rng: raw(cluster.links[party], None, party, mutated(start + rng.randbytes(200), rng))

    materials = dict.fromkeys((MATERIAL_PATH, MASKS_PATH, REVEAL_PATH, f"{BEAVER_PATH}/AdjustDot"), asked)
    request = head + good["S0"][:2000]
    return {
        "requests to S0": post(NAME, "S0", {INFER_PATH: good["S0"]}),
        "requests to S1": post(NAME, "S1", {INFER_PATH: good["S1"]}),
        "questions to S0": post(NAME, "S0", {STATEMENT_PATH: question}),
        "a client's to the dealer": post(NAME, DEALER, materials | owners),
        "a server's to the dealer": post("S0", DEALER, materials),
        "the owner's to the dealer": post(OWNER, DEALER, owners),
        "the owner's to S0": post(OWNER, "S0", {PUBLISH_PATH: published, ACTIVATE_PATH: question}),
        "HTTP to S0": lambda rng: raw(cluster.control["S0"], mallory.context, "S0", mutated(request, rng)),
        "the link of S0": hello("S0"),
        "the link of S1": hello("S1"),
    }


async def attack(cluster: Cluster, subject: Subject, port: str, count: int, seed: str) -> Counter[str]:
    """So many messages at one port; what came back."""
    rng, outcomes = random.Random(f"{seed} {port}"), Counter[str]()
    async with contextlib.AsyncExitStack() as stack:
        mallory = await stack.enter_async_context(Mallory(cluster, subject.requests[0]))
        sessions = {NAME: mallory.http}
        for role in ("S0", OWNER):
            connector = aiohttp.TCPConnector(ssl=tls.client_context(cluster.tls(role)), limit=0)
            sessions[role] = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        send = senders(mallory, sessions)[port]
        messages = (send(rng) for _ in range(count))

        async def one_after_the_other() -> None:
            for message in messages:
                outcomes[await message] += 1

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
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
        before, sessions, started = megabytes(local), entries(local, '"event": "ready"'), time.monotonic()
        outcomes = asyncio.run(attack(local.cluster, subject, port, count, seed))
        seconds, after = time.monotonic() - started, megabytes(local)
        answers = asyncio.run(ask(local, "honest", subject.requests[:2]))
        error = max(subject.error(i, answer) for i, answer in enumerate(answers))
        sessions = entries(local, '"event": "ready"') - sessions
        wrong = errors(local)
        alive = all(process.poll() is None for process in local.processes.values())
    return {
        "count": count,
        "seconds": seconds,
        "outcomes": dict(outcomes),
        "errors": wrong,
        "sessions": sessions,
        "alive": alive,
        "growth_mb": max(after[name] - before[name] for name in before),
        "error_of_the_honest": error,
    }


def errors(local: LocalCluster) -> dict[str, int]:
    """What went wrong within the servers: `logs` writes kind and place, Python itself a traceback."""
    logs = [local.log(name).read_text(encoding="utf-8") for name in local.servers]
    return Counter(found for text in logs for found in re.findall(r'"error": .*|Traceback', text))


def entries(local: LocalCluster, text: str) -> int:
    """How often a text stands in the servers' logs."""
    return sum(local.log(name).read_text(encoding="utf-8").count(text) for name in local.servers)


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
        messages, bad = sum(cell["count"] for cell in own), sum(sum(cell["errors"].values()) for cell in own)
        seconds, grown = sum(cell["seconds"] for cell in own), max(cell["growth_mb"] for cell in own)
        rows.append([port, f"{messages:,}", f"{seconds:.0f}", f"{grown:.0f}", str(bad), outcomes])
    columns = ("port", "messages", "seconds", "MB grown", "errors", "outcomes")
    checks = [
        Check("messages", sum(c["count"] for c in cells.values()), count, at_least=True),
        Check("errors of the program", sum(sum(c["errors"].values()) for c in cells.values()), 0),
        Check("sessions after the first", sum(c["sessions"] for c in cells.values()), 0),
        Check("processes that ended", sum(not c["alive"] for c in cells.values()), 0),
        Check("MB that a process grew by", max(c["growth_mb"] for c in cells.values()), GROWTH_MB),
        Check("error of the honest client", max(c["error_of_the_honest"] for c in cells.values()), 0.02),
    ]
    results.publish(out, [table("Mutated messages", columns, rows)], checks)
    raise typer.Exit(int(not all(check.holds for check in checks)))


if __name__ == "__main__":
    run(main)
