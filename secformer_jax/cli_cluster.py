"""Options of the commands of a cluster: `secformer certs`, `dealer` and their like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.cli_options import ClusterFile, Json
from secformer_jax.commands import certs as certs_command
from secformer_jax.commands import dealer as dealer_command
from secformer_jax.reports import Reporter

TlsFolder = Annotated[
    Path | None, typer.Option("--tls", help="The folder of certificates, instead of the cluster file's.")
]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]


def certs(
    cluster: ClusterFile,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into; made when missing.")],
    days: Annotated[int, typer.Option("--days", help="How long the certificates are valid.")] = 365,
    force: Annotated[bool, typer.Option("--force", help="Make all anew, what is there already too.")] = False,
    json: Json = False,
) -> None:
    """A private CA and a certificate for each role of a cluster."""
    reporter = Reporter(json)
    reporter.results(certs_command.run(reporter, cluster=cluster, out=out, days=days, force=force))


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
    dealer_command.run(cluster=cluster, tls=tls, state=state, memory_limit=memory_limit, log_level=log_level)
