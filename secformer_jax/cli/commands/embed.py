"""`secformer embed`: the vector of a text under MPC."""

from __future__ import annotations

from typing import Annotated

import typer

from secformer_jax.cli.commands.asking import Asked, AskedOf, answer_texts
from secformer_jax.cli.commands.common import Choice, Protocol
from secformer_jax.cli.commands.files import Files
from secformer_jax.cli.options import (
    AskedCluster,
    CalibrationFile,
    Client,
    Config,
    Input,
    Json,
    Keep,
    MaxLength,
    Output,
    Preset,
    TextColumn,
    Texts,
    TlsFolder,
    Truncate,
)
from secformer_jax.cli.report import Reporter
from secformer_jax.files.rows import Columns
from secformer_jax.inference.texts import Limits


def embed(
    model: Annotated[
        str, typer.Option("--model", help="A sentence encoder: a folder, a hub id, or minilm.")
    ] = "minilm",
    text: Texts = None,
    input: Input = None,
    output: Output = None,
    text_column: TextColumn = None,
    keep: Keep = None,
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
    columns = Columns(text_column, kept=tuple(keep or ()))
    refused = {"--text": text, "--compare": compare, "--json": json}
    answer_texts(
        Reporter(json),
        Asked(text or [], [], Limits(max_length, truncate)),
        Files.given(input, output, columns, Limits(max_length, truncate), refused),
        model=model,
        asked_of=None if cluster is None else AskedOf(cluster, client, tls),
        choice=Choice(preset),
        protocol=Protocol(config),
        calibration=calibration,
        compare=compare,
        head="embedding",
    )
