"""`secformer generate` and `chat` of a cluster, whose client needs no JAX."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from secformer_jax.cli.commands.asking import AskedOf
from secformer_jax.cli.commands.generating import Asked, next_ids, prompt_ids
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster.clients.client import Answer as Cost
from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.conversation import ClusterConversation, tokens_of
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.inference.decoders.answer import Answer
from secformer_jax.inference.decoders.prompts import prompt_passes


async def answer(reporter: Reporter, asked_of: AskedOf, folder: Path, asked: Asked, prompts: Sequence[str]) -> None:
    """Answer each prompt by itself, and report."""
    entries = []
    async with ClusterClient(asked_of.read(), asked_of.client) as client:
        served = await client.decoder()
        tokens = tokens_of(folder, served)
        for prompt in prompts:
            ids = prompt_ids(tokens, prompt)
            reporter.say(prompt)
            async with ClusterConversation(client, served) as conversation:
                said, costs = await _written(reporter, conversation, asked.answer(tokens, _last(served), ids), ids)
            entries.append(_entry(reporter, served, prompt, said, costs, len(ids)))
    reporter.results(entries)


async def talk(reporter: Reporter, asked_of: AskedOf, folder: Path, asked: Asked, questions: Iterator[str]) -> None:
    """A conversation: each question with all that was said before."""
    entries: list[Entry] = []
    said: Answer | None = None
    async with ClusterClient(asked_of.read(), asked_of.client) as client:
        served = await client.decoder()
        tokens = tokens_of(folder, served)
        async with ClusterConversation(client, served) as conversation:
            try:
                while (question := await asyncio.to_thread(next, questions, None)) is not None:
                    ids = next_ids(tokens, said, question)
                    said, costs = await _written(reporter, conversation, asked.answer(tokens, _last(served), ids), ids)
                    entries.append(_entry(reporter, served, question, said, costs, len(ids)))
            finally:
                # What was said stays, whatever ended it.
                reporter.results(entries)


def _last(served: DecoderDeployment) -> tuple[int, ...]:
    return served.config.eos_token_ids


async def _written(
    reporter: Reporter, conversation: ClusterConversation, said: Answer, ids: Sequence[int]
) -> tuple[Answer, list[Cost]]:
    costs = []
    reporter.part("  ")
    async for piece, cost in conversation.write(ids, said):
        reporter.part(piece)
        costs.append(cost)
    reporter.say("")
    return said, costs


def _entry(
    reporter: Reporter, served: DecoderDeployment, prompt: str, said: Answer, costs: Sequence[Cost], tokens: int
) -> Entry:
    seconds, reading = [cost.seconds for cost in costs], len(costs) - said.passes + 1
    first, steps = sum(seconds[:reading]), seconds[reading:]
    entry: Entry = {"prompt": prompt, "answer": said.text, "tokens": said.ids, "finish": said.finish}
    padded = sum(prompt_passes(tokens, served.capacity))
    entry |= {"prompt_tokens": tokens, "padded": padded, "prompt_seconds": first}
    entry |= {"token_seconds": statistics.median(steps)} if steps else {}
    rest = f", {statistics.median(steps):.1f} s a token" if steps else ""
    reporter.say(f"  {first:.1f} s for the prompt{rest}")
    return entry
