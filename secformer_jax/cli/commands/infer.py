"""`secformer infer`: answer texts under MPC."""

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
    Embedding,
    Gelu,
    Input,
    Json,
    Keep,
    LayerNorm,
    MaxLength,
    Model,
    NoKeepWeights,
    Output,
    PairColumn,
    Preset,
    Softmax,
    TextColumn,
    TextPairs,
    Texts,
    TlsFolder,
    Truncate,
)
from secformer_jax.cli.report import Reporter
from secformer_jax.files.rows import Columns
from secformer_jax.inference.texts import Limits
from secformer_jax.models.folders import SHIPPED


def infer(
    model: Model = SHIPPED,
    text: Texts = None,
    text_pair: TextPairs = None,
    input: Input = None,
    output: Output = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    keep: Keep = None,
    preset: Preset = "",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    max_length: MaxLength = None,
    truncate: Truncate = False,
    embedding: Embedding = "client",
    no_keep_weights: NoKeepWeights = False,
    compare: Annotated[bool, typer.Option("--compare", help="The plaintext answer beside it.")] = False,
    cluster: AskedCluster = None,
    client: Client = "client",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Answer under MPC what the model answers: labels, entities, a span of --text-pair, the likeness of two texts."""
    columns = Columns(text_column, pair_column, tuple(keep or ()))
    refused = {"--text": text, "--text-pair": text_pair, "--compare": compare, "--json": json}
    answer_texts(
        Reporter(json),
        Asked(text or [], text_pair or [], Limits(max_length, truncate)),
        Files.given(input, output, columns, Limits(max_length, truncate), refused),
        model=model,
        asked_of=None if cluster is None else AskedOf(cluster, client, tls),
        choice=Choice(preset, gelu, softmax, layer_norm),
        protocol=Protocol(config, embedding, not no_keep_weights),
        calibration=calibration,
        compare=compare,
    )
