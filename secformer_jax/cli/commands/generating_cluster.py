"""`secformer generate` and `chat` of a cluster, whose client needs no JAX."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from secformer_jax.cli.commands.asking import AskedOf
from secformer_jax.cli.commands.generating import Asked, next_ids, prompt_ids
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.conversation import ClusterConversation, tokens_of
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.inference.decoders.answer import Answer


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
                entry = await _answered(reporter, conversation, asked.answer(tokens, _last(served), ids), ids)
            entries.append({"prompt": prompt, **entry})
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
                    said = asked.answer(tokens, _last(served), ids)
                    entry = await _answered(reporter, conversation, said, ids)
                    entries.append({"prompt": question, **entry})
            finally:
                # What was said stays, whatever ended it.
                reporter.results(entries)


def _last(served: DecoderDeployment) -> tuple[int, ...]:
    return served.config.eos_token_ids


async def _answered(reporter: Reporter, conversation: ClusterConversation, said: Answer, ids: Sequence[int]) -> Entry:
    seconds, used = list[float](), conversation.used
    reporter.part("  ")
    async for piece, cost in conversation.write(ids, said):
        reporter.part(piece)
        seconds.append(cost.seconds)
    reporter.say("")
    steps = said.passes - 1
    reading = sum(seconds[: len(seconds) - steps])
    entry: Entry = {"answer": said.text, "tokens": said.ids, "finish": said.finish, "prompt_tokens": len(ids)}
    entry |= {"padded": conversation.used - used - steps, "prompt_seconds": reading}
    rest = ""
    if steps:
        entry["token_seconds"] = statistics.median(seconds[-steps:])
        rest = f", {entry['token_seconds']:.1f} s a token"
    reporter.say(f"  {reading:.1f} s for the prompt{rest}")
    return entry
