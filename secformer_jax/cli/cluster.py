"""Options of the commands of a cluster: `secformer certs`, `dealer`, `party`, `publish` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.cli.commands import certs as certs_command
from secformer_jax.cli.commands import cluster as cluster_command
from secformer_jax.cli.commands import dealer as dealer_command
from secformer_jax.cli.commands.common import Choice
from secformer_jax.cli.options import (
    CalibrationFile,
    ClusterFile,
    Embedding,
    Gelu,
    Insecure,
    Json,
    LayerNorm,
    LogLevel,
    Model,
    NoKeepWeights,
    Preset,
    Softmax,
    TlsFolder,
)
from secformer_jax.cli.report import Reporter
from secformer_jax.models.checkpoint import SHIPPED


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
    cluster_command.party(cluster_command.read(cluster, tls, insecure), name=name, state=state, log_level=log_level)


def publish(
    cluster: ClusterFile,
    model: Model = SHIPPED,
    preset: Preset = "",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    calibration: CalibrationFile = None,
    embedding: Embedding = "client",
    no_keep_weights: NoKeepWeights = False,
    head: Annotated[
        str | None, typer.Option("--head", help="For a sentence encoder: similarity of two texts, or embedding.")
    ] = None,
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Share a model among the servers of a cluster, as its owner."""
    reporter = Reporter(json)
    entries = cluster_command.publish(
        reporter,
        cluster_command.read(cluster, tls, insecure=True),
        model=model,
        choice=Choice(preset, gelu, softmax, layer_norm),
        calibration=calibration,
        embedding=embedding,
        keep_weights=not no_keep_weights,
        head=head,
    )
    reporter.results(entries)


def status(
    cluster: ClusterFile,
    role: Annotated[str, typer.Option("--role", help="Who asks: owner, or a client.")] = "owner",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Parties, model, requests, queue and bytes of a cluster."""
    reporter = Reporter(json)
    reporter.results(cluster_command.status(reporter, cluster_command.read(cluster, tls, insecure=True), role=role))
