"""What `secformer infer` and `embed` share: a cluster answers, or this machine. A cluster's client needs no JAX."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from secformer_jax.cli.commands.cluster import read
from secformer_jax.cli.commands.common import Choice, Protocol
from secformer_jax.cli.commands.files import Files
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster.clients import client as clients
from secformer_jax.cluster.clients.answering import ClusterAnswering
from secformer_jax.cluster.config import Cluster
from secformer_jax.errors import UserError
from secformer_jax.inference.answers import decode
from secformer_jax.inference.texts import Limits, Request
from secformer_jax.models.folders import resolve
from secformer_jax.models.heads import HEADS
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Tokenizer

SHOWN = 8
"""Numbers of a long list that are shown to people; --json has them all."""


@dataclass(frozen=True)
class Asked:
    """What is asked, and how it is cut."""

    texts: Sequence[str]
    pairs: Sequence[str]
    limits: Limits

    def requests(self) -> list[Request]:
        """Texts, or pairs of texts.

        Raises:
            UserError: none, or another number of second texts than of first ones.
        """
        if not self.texts:
            raise UserError("no text: pass --text, or --input for a file of texts")
        if self.pairs and len(self.pairs) != len(self.texts):
            raise UserError(f"{len(self.texts)} --text and {len(self.pairs)} --text-pair: pass one pair for each text")
        return list(itertools.zip_longest(self.texts, self.pairs))


@dataclass(frozen=True)
class AskedOf:
    """A cluster, and who asks it."""

    cluster: str
    client: str
    tls: Path | None

    def read(self) -> Cluster:
        """The cluster file."""
        return read(self.cluster, self.tls, insecure=True)


def answer_texts(
    reporter: Reporter,
    asked: Asked,
    files: Files | None,
    *,
    model: str,
    asked_of: AskedOf | None,
    choice: Choice,
    protocol: Protocol,
    calibration: str | None,
    compare: bool,
    head: str | None = None,
) -> None:
    """Answer texts, or a file of them, and report.

    A cluster answers with the model, functions and protocol published there; of the model's folder only the tokenizer
    is read then. Else this machine does.

    Raises:
        UserError: nothing is answered.
        typer.Exit: rows of a file could not be; each has its error.
    """
    unanswered = 0
    if asked_of is not None:
        if compare or calibration or choice != Choice() or protocol != Protocol():
            raise UserError(
                "--compare, --calibration, --config and the choices of functions and embedding are for this machine: a "
                "cluster's model is its own"
            )
        folder = resolve(model, weights=False)
        if files is None:
            reporter.results(asyncio.run(_ask(reporter, asked, asked_of, folder, head)))
        else:
            unanswered = asyncio.run(_ask_file(reporter, files, asked_of, folder, head))
    else:
        # A cluster's client has neither JAX nor spu.
        from secformer_jax.cli.commands.answering import Here

        here = Here(reporter, model, choice, protocol, calibration, head)
        if files is None:
            reporter.results(here.answers(asked, compare=compare))
        else:
            unanswered = here.answer_file(files)
    if unanswered:
        raise typer.Exit(1)


async def _ask(reporter: Reporter, asked: Asked, asked_of: AskedOf, folder: Path, head: str | None) -> list[Entry]:
    requests, cluster, entries = asked.requests(), asked_of.read(), []
    async with clients.ClusterClient(cluster, asked_of.client) as asking:
        deployment = await asking.deployment()
        head = ClusterAnswering(asking, deployment, head).head
        tokenizer = Tokenizer(folder, deployment.config)
        for text, pair in requests:
            limits = asked.limits
            encoded = encode_request(deployment, tokenizer, text, pair, limits.max_length, limits.truncate, head=head)
            answer = await asking.infer(encoded)
            alone, texts = deployment.reveal.label, (text, pair)
            found = decode(deployment.config, head, answer.logits[0], encoded.tokens[0], texts, labels_alone=alone)
            reveals = deployment.reveal.words(HEADS[head].reveals)
            entry: dict[str, Any] = {"text": text, "text_pair": pair, "head": head, "reveals": reveals}
            entry |= {**found, "seconds": answer.seconds}
            entry["sent_bytes"] = dict(zip(cluster.parties, answer.sent_bytes, strict=True))
            entries.append(entry | {"party": answer.party, "transcript": list(answer.transcript)})
            reporter.say(" / ".join(part for part in (text, pair) if part))
            for line in described(found):
                reporter.say(f"  {line}")
            reporter.say(f"  {answer.seconds:.1f} s")
    return entries


async def _ask_file(reporter: Reporter, files: Files, asked_of: AskedOf, folder: Path, head: str | None) -> int:
    async with clients.ClusterClient(asked_of.read(), asked_of.client) as asking:
        deployment = await asking.deployment()
        answering, tokenizer = ClusterAnswering(asking, deployment, head), Tokenizer(folder, deployment.config)
        return await files.answered(reporter, answering, tokenizer, {"model": deployment.name})


def described(entry: Entry) -> list[str]:
    """An answer in lines for people."""
    if "entities" in entry:
        found = [
            f"{e['label']}: {e['text']!r} ({e['start']} to {e['end']})"
            + (f", {e['score']:.3f}" if "score" in e else "")
            for e in entry["entities"]
        ]
        return [f"private answer: {len(found)} entities", *(f"  {line}" for line in found)]
    if "answer" in entry:
        answer = entry["answer"]
        where = f"{answer['start']} to {answer['end']} of the context, score {answer['score']:.3f}"
        return [f"private answer: {answer['text']!r} ({where}; no answer {entry['no_answer_score']:.3f})"]
    if "labels" in entry:
        return ["private answer: " + ", ".join(f"{one['label']} {one['score']:.3f}" for one in entry["labels"])]
    if "embedding" in entry:
        return [f"private answer: a vector of {len(entry['embedding'])}: {numbers(entry['embedding'])}"]
    if "score" not in entry:
        return [f"private answer: {entry['label']}"]
    score = f"{entry['score']:.4f}"
    answer = f"{entry['label']} ({score})" if "label" in entry else score
    return [f"private answer: {answer}   logits {numbers(entry['logits'])}"]


def numbers(values: Sequence[float]) -> str:
    """The first of them, for people."""
    shown = ", ".join(f"{value:.4f}" for value in values[:SHOWN])
    return f"{shown}, ..." if len(values) > SHOWN else shown
