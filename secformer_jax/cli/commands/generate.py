"""`secformer generate`: let a language model go on with a text under MPC, token by token."""

from __future__ import annotations

import asyncio
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


def generate(
    model: DecoderModel,
    prompt: Annotated[list[str], typer.Option("--prompt", help="A question, or a text to go on with; again for more.")],
    system: System = None,
    max_tokens: MostTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Stops = None,
    block: Annotated[
        int, typer.Option("--block", help="Passes go on to a multiple of this: no more of an answer's length is seen.")
    ] = 1,
    seed: SampleSeed = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    compare: Annotated[bool, typer.Option("--compare", help="Plaintext's answer beside it.")] = False,
    cluster: AskedCluster = None,
    client: Client = "client",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Answer prompts under MPC, each by itself: the server sees neither the prompt nor the answer."""
    asked = Asked(
        Choice(temperature, top_p, repetition_penalty), Ending(max_tokens, tuple(stop or ()), block), seed, compare
    )
    reporter = Reporter(json)
    if cluster is not None:
        if compare or calibration is not None or system is not None or config != Protocol().config:
            raise UserError(
                "--compare, --calibration, --system and --config are for this machine: a cluster has its own"
            )
        asked_of, folder = AskedOf(cluster, client, tls), resolve(model, weights=False)
        asyncio.run(generating_cluster.answer(reporter, asked_of, folder, asked, prompt))
        return
    # A cluster's client has neither JAX nor spu.
    from secformer_jax.cli.commands.generating_here import Here

    Here(reporter, model, system, config, calibration, asked).answer(prompt)
