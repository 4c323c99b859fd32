"""`secformer gateway`: a cluster's answers by HTTP, on the client's own machine."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from secformer_jax.cli.commands.cluster import check_level, read
from secformer_jax.cli.options import Client, ClusterFile, LogLevel, MaxLength, Model, TlsFolder, Truncate
from secformer_jax.cluster import logs
from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.memory import keep_memory_private
from secformer_jax.errors import UserError
from secformer_jax.gateway.asking import Asking
from secformer_jax.gateway.chatting import Chatting
from secformer_jax.gateway.server import Gateway
from secformer_jax.inference.texts import Limits
from secformer_jax.models.folders import SHIPPED, resolve

HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
LEAST_KEY = 16
GOODBYE_SECONDS = 10


def gateway(
    cluster: ClusterFile,
    model: Model = SHIPPED,
    client: Client = "client",
    host: Annotated[str, typer.Option("--host", help="An address of this machine's own loopback.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: a free one.")] = 8000,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="Its line is the key that every question has to carry.")
    ] = None,
    max_length: MaxLength = None,
    truncate: Truncate = False,
    tls: TlsFolder = None,
    log_level: LogLevel = "info",
) -> None:
    """Answer questions by HTTP on this machine, and a page at /: texts leave it as shares alone."""
    check_level(log_level)
    found, folder = read(cluster, tls, insecure=True), resolve(model, weights=False)
    loopback, key = _loopback(host), "" if key_file is None else _key(key_file)
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: 0 to 65535 is expected")
    logs.start("gateway", log_level)
    keep_memory_private()
    # As it was asked for; a folder by its own name.
    name = folder.resolve().name if Path(model).expanduser().exists() else model
    asyncio.run(_serve(found, client, folder, name, (loopback, port), key, Limits(max_length, truncate)))


async def _serve(
    cluster: Cluster, client: str, folder: Path, name: str, address: tuple[str, int], key: str, limits: Limits
) -> None:
    """Until SIGTERM or SIGINT."""
    host, port = address
    async with ClusterClient(cluster, client) as asking:
        chatting = Chatting(asking, folder)
        served = Gateway(Asking(asking, folder, limits), chatting, name, HOSTS, key)
        runner = web.AppRunner(served.application(), access_log=None, shutdown_timeout=10)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise UserError(f"{host}:{port} can't be listened on ({error.strerror}): pass another --port") from None
            bound = runner.addresses[0][1]
            print(
                f"http://{f'[{host}]' if ':' in host else host}:{bound}/ asks as {client}; /docs has the questions",
                flush=True,
            )
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):  # Windows
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await stop.wait()
        finally:
            try:
                await runner.cleanup()
            finally:
                # Servers that don't answer forget what waits by themselves.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(chatting.close(), GOODBYE_SECONDS)


def _loopback(host: str) -> str:
    try:
        if ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
            return "127.0.0.1" if host == "localhost" else host
    except ValueError:
        pass
    raise UserError(
        f"--host {host}: the gateway is for this machine, or texts would leave it in clear: 127.0.0.1 or ::1"
    )


def _key(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise UserError(f"others can read {path}: run chmod 600 {path}")
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}): a line with the key was expected") from None
    if len(key) < LEAST_KEY or not key.isprintable() or " " in key:
        raise UserError(f"the key in {path} is one word of at least {LEAST_KEY} characters")
    return key
