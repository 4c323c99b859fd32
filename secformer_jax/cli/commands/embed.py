"""`secformer embed`: the vector of a text under MPC."""

from __future__ import annotations

from typing import Annotated

import typer

from secformer_jax.cli.commands.asking import Asked, ask
from secformer_jax.cli.options import (
    AskedCluster,
    CalibrationFile,
    Client,
    Config,
    Json,
    MaxLength,
    Preset,
    Texts,
    TlsFolder,
    Truncate,
)
from secformer_jax.cli.report import Reporter


def embed(
    model: Annotated[
        str, typer.Option("--model", help="A sentence encoder: a folder, a hub id, or minilm.")
    ] = "minilm",
    text: Texts = None,
    preset: Preset = "",
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    max_length: MaxLength = None,
    truncate: Truncate = False,
    compare: Annotated[bool, typer.Option("--compare", help="The plaintext vector beside it.")] = False,
    cluster: AskedCluster = None,
    client: Client = "client",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """The vector of a text under MPC, revealed to the client alone: pooled as the model's folder says."""
    reporter, asked = Reporter(json), Asked(text or [], [], max_length, truncate)
    if cluster is not None:
        entries = ask(reporter, asked, cluster=cluster, client=client, tls=tls, model=model, head="embedding")
    else:
        # What a cluster's client does not need: JAX and spu.
        from secformer_jax.cli.commands.answering import answers
        from secformer_jax.cli.commands.common import Choice, Protocol

        entries = answers(
            reporter,
            asked,
            model=model,
            choice=Choice(preset),
            protocol=Protocol(config),
            calibration=calibration,
            compare=compare,
            head="embedding",
        )
    reporter.results(entries)
