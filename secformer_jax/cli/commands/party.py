"""`secformer party`: a computing server of a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.cli.commands.cluster import check_level, read
from secformer_jax.cli.options import ClusterFile, Insecure, LogLevel, TlsFolder
from secformer_jax.cluster import logs
from secformer_jax.cluster.party import server


def party(
    cluster: ClusterFile,
    name: Annotated[str, typer.Option("--name", help="Which of the file's parties this is.")],
    tls: TlsFolder = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where its sealed weights are kept; by its key.")
    ] = None,
    insecure: Insecure = False,
    log_level: LogLevel = "info",
) -> None:
    """Run a computing server of a cluster until SIGTERM."""
    found = read(cluster, tls, insecure)
    found.rank(name)
    check_level(log_level)
    logs.start(name, log_level)
    folder = state or found.tls(name).key.parent / f"{name}-state"
    asyncio.run(server.PartyServer(found, name, folder.resolve()).run())
