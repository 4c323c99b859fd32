"""`secformer chat`: a conversation under MPC."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from secformer_jax.cli.commands import generating_cluster
from secformer_jax.cli.commands.asking import AskedOf
from secformer_jax.cli.commands.common import Protocol
from secformer_jax.cli.commands.generating import Asked
from secformer_jax.cli.options import (
    AskedCluster,
    CalibrationFile,
    Client,
    Config,
    DecoderModel,
    Json,
    MostTokens,
    RepetitionPenalty,
    SampleSeed,
    Stops,
    System,
    Temperature,
    TlsFolder,
    TopP,
)
from secformer_jax.cli.report import Reporter
from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.answer import Ending
from secformer_jax.inference.decoders.choice import Choice
from secformer_jax.models.folders import resolve


def chat(
    model: DecoderModel,
    room: Annotated[
        int | None,
        typer.Option("--room", help="The most tokens of the conversation, each prompt padded; public; 256 by default."),
    ] = None,
    system: System = None,
    max_tokens: MostTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Stops = None,
    seed: SampleSeed = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    cluster: AskedCluster = None,
    client: Client = "client",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Talk to a language model under MPC: a question a line, until an empty one or the end of the input."""
    asked = Asked(Choice(temperature, top_p, repetition_penalty), Ending(max_tokens, tuple(stop or ())), seed, False)
    reporter = Reporter(json)
    if cluster is not None:
        if calibration is not None or system is not None or room is not None or config != Protocol().config:
            raise UserError("--calibration, --system, --room and --config are for this machine: a cluster has its own")
        asked_of, folder = AskedOf(cluster, client, tls), resolve(model, weights=False)
        asyncio.run(generating_cluster.talk(reporter, asked_of, folder, asked, _questions()))
        return
    # A cluster's client has neither JAX nor spu.
    from secformer_jax.cli.commands.generating_here import Here

    Here(reporter, model, system, config, calibration, asked).talk(256 if room is None else room, _questions())


def _questions() -> Iterator[str]:
    """Lines of standard input, with a prompt where somebody types."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.strip()
