"""`secformer dealer`: the assistant server of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from secformer_jax.cli.commands.cluster import check_level
from secformer_jax.cli.options import ClusterFile, LogLevel, TlsFolder
from secformer_jax.cluster import config, logs
from secformer_jax.cluster.dealer import server
from secformer_jax.errors import UserError


def dealer(
    cluster: ClusterFile,
    tls: TlsFolder = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where it keeps which masks have served; beside its key.")
    ] = None,
    memory_limit: Annotated[float, typer.Option("--memory-limit", help="Gigabytes for requests under way.")] = 2.0,
    log_level: LogLevel = "info",
) -> None:
    """Run the assistant server of a cluster until SIGTERM."""
    check_level(log_level)
    if not 0.1 <= memory_limit <= 1024:
        raise UserError(f"--memory-limit {memory_limit:g}: 0.1 to 1024 gigabytes are expected")
    found = config.load(cluster, tls=tls)
    found.dealer_address()
    logs.start(config.DEALER, log_level)
    # Thousands of small requests wait for each other: this loop takes half the time for one that asyncio's does.
    uvloop.run(server.run(found, server.state_folder(found, state), memory_limit=int(memory_limit * 1e9)))
