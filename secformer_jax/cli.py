"""`secformer`: private BERT inference from the command line. Options only; `commands` does the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from secformer_jax.commands import calibrate as calibrate_command
from secformer_jax.commands import certs as certs_command
from secformer_jax.commands import cluster as cluster_command
from secformer_jax.commands import compare as compare_command
from secformer_jax.commands import dealer as dealer_command
from secformer_jax.commands import evaluate as evaluate_command
from secformer_jax.commands import infer as infer_command
from secformer_jax.commands.common import Choice, Protocol
from secformer_jax.errors import UserError
from secformer_jax.presets import PRESETS
from secformer_jax.reports import Reporter

INTERRUPTED = 130

app = typer.Typer(
    help="Private BERT inference under secure multi-party computation.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option("--model", help="A Hugging Face BERT folder, a hub id, or minilm.")]
Preset = Annotated[str, typer.Option("--preset", help=", ".join(PRESETS))]
Gelu = Annotated[str | None, typer.Option("--gelu", help="Another GeLU than the preset's.")]
Softmax = Annotated[str | None, typer.Option("--softmax", help="Another softmax than the preset's.")]
LayerNorm = Annotated[str | None, typer.Option("--layer-norm", help="Another LayerNorm than the preset's.")]
Config = Annotated[str, typer.Option("--config", help="A file in SPU's layout, or the name of one in spu_configs/.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Public padded length; the least that fits.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut texts that are longer than the padded length.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]
CalibrationFile = Annotated[
    str | None, typer.Option("--calibration", help="The calibration file; calibration.json in the model's folder.")
]
Embedding = Annotated[
    str, typer.Option("--embedding", help="client: the client makes the one-hot; inside: the protocol makes it.")
]
NoKeepWeights = Annotated[bool, typer.Option("--no-keep-weights", help="Open the masked weights anew in each request.")]
ClusterFile = Annotated[str, typer.Option("--cluster", help="The cluster file: SPU's layout and the key secformer.")]
TlsFolder = Annotated[
    Path | None, typer.Option("--tls", help="The folder of certificates, instead of the cluster file's.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure-trusted-first-party", help="SEMI2K whose first party knows all masks: to measure.")
]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text; give it again for more.")]
TextPairs = Annotated[list[str] | None, typer.Option("--text-pair", help="The second text of a pair.")]


@app.command()
def infer(
    model: Model,
    text: Texts = None,
    text_pair: TextPairs = None,
    preset: Preset = "puma",
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
    """Classify a text, or compare two, under MPC: in simulation, or by a cluster."""
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
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="GLUE's TSV files, a folder for each task.")
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="plaintext; emulated (fixed point, one party); simulated (--config).")
    ] = "plaintext",
    preset: Preset = "exact",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples in a request.")] = 16,
    max_length: MaxLength = None,
    truncate: Truncate = False,
    embedding: Embedding = "client",
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
        check_ranges=check_ranges,
    )
    reporter.results(entries)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def publish(
    model: Model,
    cluster: ClusterFile,
    preset: Preset = "puma",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    calibration: CalibrationFile = None,
    embedding: Embedding = "client",
    no_keep_weights: NoKeepWeights = False,
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
    )
    reporter.results(entries)


@app.command()
def status(
    cluster: ClusterFile,
    role: Annotated[str, typer.Option("--role", help="Who asks: owner, or a client.")] = "owner",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Parties, model, requests, queue and bytes of a cluster."""
    reporter = Reporter(json)
    reporter.results(cluster_command.status(reporter, cluster_command.read(cluster, tls, insecure=True), role=role))


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
