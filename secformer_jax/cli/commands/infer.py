"""`secformer infer`: answer texts under MPC."""

from __future__ import annotations

from typing import Annotated

import typer

from secformer_jax.cli.commands.asking import Asked, ask
from secformer_jax.cli.options import (
    AskedCluster,
    CalibrationFile,
    Client,
    Config,
    Embedding,
    Gelu,
    Json,
    LayerNorm,
    MaxLength,
    Model,
    NoKeepWeights,
    Preset,
    Softmax,
    TextPairs,
    Texts,
    TlsFolder,
    Truncate,
)
from secformer_jax.cli.report import Reporter
from secformer_jax.models.folders import SHIPPED


def infer(
    model: Model = SHIPPED,
    text: Texts = None,
    text_pair: TextPairs = None,
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
    reporter, asked = Reporter(json), Asked(text or [], text_pair or [], max_length, truncate)
    if cluster is not None:
        entries = ask(reporter, asked, cluster=cluster, client=client, tls=tls, model=model)
    else:
        # What a cluster's client does not need: JAX and spu.
        from secformer_jax.cli.commands.answering import answers
        from secformer_jax.cli.commands.common import Choice, Protocol

        entries = answers(
            reporter,
            asked,
            model=model,
            choice=Choice(preset, gelu, softmax, layer_norm),
            protocol=Protocol(config, embedding, not no_keep_weights),
            calibration=calibration,
            compare=compare,
        )
    reporter.results(entries)
