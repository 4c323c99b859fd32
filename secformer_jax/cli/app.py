"""`secformer`: private BERT inference from the command line. Options only; `commands` does the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

import secformer_jax
from secformer_jax.cli import cluster as cli_cluster
from secformer_jax.cli import training as cli_training
from secformer_jax.cli.commands import calibrate as calibrate_command
from secformer_jax.cli.commands import cluster as cluster_command
from secformer_jax.cli.commands import compare as compare_command
from secformer_jax.cli.commands import evaluate as evaluate_command
from secformer_jax.cli.commands import infer as infer_command
from secformer_jax.cli.commands.common import Choice, Protocol
from secformer_jax.cli.options import (
    CalibrationFile,
    Config,
    DataDir,
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
from secformer_jax.errors import UserError
from secformer_jax.models.checkpoint import SHIPPED

INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        print(f"secformer_jax {secformer_jax.__version__}")
        raise typer.Exit


app = typer.Typer(
    help="Private BERT inference under secure multi-party computation.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="The version, and nothing else.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Private inference of text encoders under secure multi-party computation."""


@app.command()
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
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Ask this cluster; of --model only the tokenizer is read then.")
    ] = None,
    client: Annotated[str, typer.Option("--client", help="Who asks, as the cluster file names it.")] = "client",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Answer under MPC what the model answers: labels, entities, a span of --text-pair, the likeness of two texts."""
    reporter = Reporter(json)
    if cluster is not None:
        asked = cluster_command.Texts(text or [], text_pair or [], max_length, truncate)
        found = cluster_command.read(cluster, tls, insecure=True)
        reporter.results(cluster_command.infer(reporter, found, client=client, model=model, texts=asked))
        return
    entries = infer_command.run(
        reporter,
        model=model,
        texts=text or [],
        text_pairs=text_pair or [],
        choice=Choice(preset, gelu, softmax, layer_norm),
        protocol=Protocol(config, embedding, not no_keep_weights),
        calibration=calibration,
        max_length=max_length,
        truncate=truncate,
        compare=compare,
    )
    reporter.results(entries)


@app.command()
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
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Ask this cluster; of --model only the tokenizer is read then.")
    ] = None,
    client: Annotated[str, typer.Option("--client", help="Who asks, as the cluster file names it.")] = "client",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """The vector of a text under MPC, revealed to the client alone: pooled as the model's folder says."""
    reporter = Reporter(json)
    if cluster is not None:
        asked = cluster_command.Texts(text or [], [], max_length, truncate)
        found = cluster_command.read(cluster, tls, insecure=True)
        entries = cluster_command.infer(reporter, found, client=client, model=model, texts=asked, head="embedding")
        reporter.results(entries)
        return
    entries = infer_command.run(
        reporter,
        model=model,
        texts=text or [],
        text_pairs=[],
        choice=Choice(preset),
        protocol=Protocol(config),
        calibration=calibration,
        max_length=max_length,
        truncate=truncate,
        compare=compare,
        head="embedding",
    )
    reporter.results(entries)


@app.command()
def compare(
    model: Annotated[str | None, typer.Option("--model", help="As for infer.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Random weights: tiny, minilm, bert-base or bert-large.")
    ] = None,
    presets: Annotated[str, typer.Option("--presets", help="Comma-separated.")] = "spu,puma,mpcformer,secformer",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    text: Texts = None,
    text_pair: TextPairs = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Public padded length; 128.")] = None,
    truncate: Truncate = False,
    embedding: Embedding = "client",
    no_keep_weights: NoKeepWeights = False,
    json: Json = False,
) -> None:
    """Costs and errors of several presets on the same model, input and protocol."""
    reporter = Reporter(json)
    entries = compare_command.run(
        reporter,
        model=model,
        shape=shape,
        choices=compare_command.choices_of(presets, Choice("", gelu, softmax, layer_norm)),
        protocol=Protocol(config, embedding, not no_keep_weights),
        calibration=calibration,
        texts=[*(text or [])[:1], *(text_pair or [])[:1]],
        max_length=max_length,
        truncate=truncate,
    )
    reporter.results(entries)


@app.command()
def calibrate(
    model: Model,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Only the ranges that this preset needs; all by default.")
    ] = None,
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A text file, one sentence a line, or a pair with a tab.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Where to write; calibration.json in the model's folder.")
    ] = None,
    max_length: Annotated[int, typer.Option("--max-length", help="The greatest padded length to serve.")] = 128,
    json: Json = False,
) -> None:
    """Measure the ranges of a model's values, from which approximations get their constants."""
    if preset is None and (gelu or softmax or layer_norm):
        raise UserError("--gelu, --softmax and --layer-norm change a preset: pass --preset as well")
    reporter = Reporter(json)
    entries = calibrate_command.run(
        reporter,
        model=model,
        choice=None if preset is None else Choice(preset, gelu, softmax, layer_norm),
        data=data,
        calibration=calibration,
        max_length=max_length,
    )
    reporter.results(entries)


@app.command()
def evaluate(
    model: Model,
    task: Annotated[list[str], typer.Option("--task", help="STS-B, SST-2, ...; give it again for more.")],
    data_dir: DataDir = None,
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="plaintext, emulated (one party), simulated (--config), or several."),
    ] = "plaintext",
    preset: Preset = "",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples in a request.")] = 16,
    max_length: Annotated[int | None, typer.Option("--max-length", help="The greatest padded length.")] = None,
    truncate: Truncate = False,
    embedding: Embedding = "client",
    sample: Annotated[
        int | None, typer.Option("--sample", help="Only the first examples of each task under simulated.")
    ] = None,
    layer_errors: Annotated[
        int | None, typer.Option("--layer-errors", help="Errors after each layer, on so many examples.")
    ] = None,
    check_ranges: Annotated[
        bool, typer.Option("--check-ranges", help="Say where values left their series' domains (emulated).")
    ] = False,
    json: Json = False,
) -> None:
    """A model's metric on the dev splits of GLUE tasks."""
    reporter = Reporter(json)
    entries = evaluate_command.run(
        reporter,
        model=model,
        names=task,
        data_dir=data_dir,
        runtime=runtime,
        choice=Choice(preset, gelu, softmax, layer_norm),
        protocol=Protocol(config, embedding),
        calibration=calibration,
        limit=limit,
        batch_size=batch_size,
        max_length=max_length,
        truncate=truncate,
        sample=sample,
        layer_errors=layer_errors,
        check_ranges=check_ranges,
    )
    reporter.results(entries)


app.command()(cli_training.finetune)
app.command()(cli_training.distill)
app.command()(cli_cluster.certs)
app.command()(cli_cluster.dealer)
app.command()(cli_cluster.party)
app.command()(cli_cluster.publish)
app.command()(cli_cluster.status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a mistake of the user's is one line on standard error and 2."""
    try:
        command = typer.main.get_command(app)
        code = command.main(list(arguments) or ["--help"], prog_name="secformer", standalone_mode=False) or 0
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print("secformer:", " ".join(message.split()), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("secformer: stopped", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the command `secformer`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))
