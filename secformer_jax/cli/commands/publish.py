"""`secformer publish`: a model shared among the servers of a cluster."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from secformer_jax.cli.commands.answering import checked_head
from secformer_jax.cli.commands.cluster import read
from secformer_jax.cli.commands.common import Choice, choice_for
from secformer_jax.cli.options import (
    CalibrationFile,
    ClusterFile,
    Embedding,
    Gelu,
    Json,
    LayerNorm,
    Model,
    NoKeepWeights,
    Preset,
    Softmax,
    System,
    TlsFolder,
)
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.requirements import describe, describe_decoder
from secformer_jax.errors import UserError
from secformer_jax.inference.reveal import Reveal
from secformer_jax.models import decoders
from secformer_jax.models.calibrate import DEFAULT_LENGTH, ensure_calibration
from secformer_jax.models.checkpoint import load
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load as load_decoder
from secformer_jax.models.decoders.ranges import ensure_calibration as ensure_decoder_calibration
from secformer_jax.models.folders import SHIPPED, read_json, resolve


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
    label_only: Annotated[
        bool, typer.Option("--label-only", help="Clients get labels and no logits: the protocol finds the greatest.")
    ] = False,
    logit_bits: Annotated[
        int | None,
        typer.Option("--logit-bits", help="Fraction bits that logits are rounded to before clients get them."),
    ] = None,
    system: System = None,
    room: Annotated[
        int | None,
        typer.Option("--room", help="Of a model that generates: the most tokens of a conversation, padding in; 256."),
    ] = None,
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Share a model among the servers of a cluster, as its owner."""
    reporter = Reporter(json)
    found = read(cluster, tls, insecure=True)
    if decoders.generates(read_json(resolve(model))):
        functions, shown = preset or gelu or softmax or layer_norm, head or label_only or logit_bits is not None
        if functions or shown or no_keep_weights or embedding != "client":
            raise UserError("a model that generates text has functions and a head of its own: leave out other options")
        _publish_decoder(reporter, found, model, calibration, system, room or 256)
        return
    if system is not None or room is not None:
        raise UserError("--system and --room are for models that generate text: leave them out")
    loaded = load(model)
    head, reveal = checked_head(loaded, head), Reveal(label_only, logit_bits)
    reveal.check(head)
    choice = choice_for(loaded, Choice(preset, gelu, softmax, layer_norm))
    approximations = choice.approximations()
    length = min(DEFAULT_LENGTH, loaded.config.positions)
    ranges = ensure_calibration(loaded, approximations, length=length, path=calibration, say=reporter.say)
    deployment = describe(
        loaded, approximations, ranges, embedding=embedding, keep_weights=not no_keep_weights, head=head, reveal=reveal
    )
    done = asyncio.run(owner.publish(found, loaded, deployment))
    _say(reporter, found, done, choice.entry())


def _publish_decoder(
    reporter: Reporter, cluster: Cluster, model: str, calibration: str | None, system: str | None, room: int
) -> None:
    loaded = load_decoder(model)
    tokens = read_tokens(loaded.path, system)
    with reporter.progress("measuring ranges") as progress:
        ranges = ensure_decoder_calibration(loaded, tokens, calibration, say=reporter.say, progress=progress)
    done = asyncio.run(owner.publish(cluster, loaded, describe_decoder(loaded, ranges, tokens, room)))
    _say(reporter, cluster, done, {"room": room})


def _say(reporter: Reporter, found: Cluster, done: owner.Publication, more: Entry) -> None:
    megabytes = [sent / 1e6 for sent in done.sent_bytes]
    reporter.say(
        f"{done.tensors} tensors published as {done.deployment}: "
        + ", ".join(f"{mb:,.1f} MB to {party}" for party, mb in zip(found.parties, megabytes, strict=True))
    )
    sent = dict(zip(found.parties, done.sent_bytes, strict=True))
    entry = {"deployment": done.deployment, "tensors": done.tensors, **more, "sent_bytes": sent}
    reporter.results([entry])
