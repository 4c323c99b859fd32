"""Two network namespaces joined by a link of limited rate, with a relay at each end that delays bytes: for network.py.

    python experiments/rate_limited.py LISTEN_PORT HOST PORT SECONDS [BITS_PER_SECOND]     # one relay

Each party speaks to the other through the relay in its own namespace; the relay holds every byte, either way, for the
one-way latency. The rate is limited by the kernel (tc tbf), each direction by itself. Needs root and iproute2. On
the loopback (cluster_clients.py) the relay limits the rate itself, and neither is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PORT, RELAY_PORT = 19_300, 19_400
HOSTS = ("10.213.77.1", "10.213.77.2")
_STOP_SECONDS = 5


def why_not() -> str | None:
    """What is missing for a rate-limited link on this machine, or None."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 (ip, tc) is not installed"
    if os.geteuid() != 0:
        return "root is needed for network namespaces"
    try:
        with namespaces(1e9):
            return None
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {(error.stderr or '').strip()}"


@contextlib.contextmanager
def namespaces(bits_per_second: float) -> Iterator[tuple[str, str]]:
    """Names of two fresh namespaces joined by a link of this rate each way; gone afterwards."""
    names = (f"secformer-{os.getpid()}-0", f"secformer-{os.getpid()}-1")
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        ends = [f"sf{os.getpid() % 10**8}{end}" for end in "ab"]
        _run("ip", "link", "add", ends[0], "netns", names[0], "type", "veth", "peer", ends[1], "netns", names[1])
        for name, end, host in zip(names, ends, HOSTS, strict=True):
            inside = ("ip", "netns", "exec", name)
            _run(*inside, "ip", "addr", "add", f"{host}/24", "dev", end)
            _run(*inside, "ip", "link", "set", end, "up")
            _run(*inside, "ip", "link", "set", "lo", "up")
            rate = f"{bits_per_second / 1e6:g}mbit"
            _run(
                *inside,
                "tc",
                "qdisc",
                "add",
                "dev",
                end,
                "root",
                "tbf",
                "rate",
                rate,
                "burst",
                "256kb",
                "limit",
                "16mb",
            )
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def addresses(rank: int) -> list[str]:
    """What a party takes for the two parties' addresses: its own, and its relay to the other."""
    return [f"{HOSTS[rank]}:{PORT}" if other == rank else f"127.0.0.1:{RELAY_PORT}" for other in range(2)]


@contextlib.contextmanager
def relays(names: tuple[str, str], seconds: float) -> Iterator[None]:
    """A relay in each namespace, to the other one's party."""
    running = []
    try:
        for rank, name in enumerate(names):
            command = [sys.executable, str(Path(__file__).resolve()), str(RELAY_PORT), HOSTS[1 - rank], str(PORT)]
            running.append(subprocess.Popen(["ip", "netns", "exec", name, *command, str(seconds)]))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(_STOP_SECONDS)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


async def _serve(port: int, host: str, to_port: int, seconds: float, rate: float = math.inf) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection(host, to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_delay(reader, other_writer, seconds, rate), _delay(other_reader, writer, seconds, rate))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def _delay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float, rate: float) -> None:
    """Pass bytes on, each piece `seconds` after it came and after the bits before it have gone."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def read() -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 18):
                pieces.put_nowait((time.monotonic() + seconds, piece))
        pieces.put_nowait((time.monotonic() + seconds, b""))

    async def write() -> None:
        free = 0.0
        with contextlib.suppress(OSError):
            while True:
                due, piece = await pieces.get()
                # The link is busy with a piece for as long as its bits take; latency comes on top.
                free = max(free, due - seconds) + 8 * len(piece) / rate
                await asyncio.sleep(max(0.0, free + seconds - time.monotonic()))
                if not piece:
                    break
                writer.write(piece)
                await writer.drain()
        writer.close()

    await asyncio.gather(read(), write())


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:])))
