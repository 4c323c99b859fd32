"""`secformer infer --cluster` and `embed --cluster`: a cluster answers. Nothing here needs JAX or spu."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secformer_jax.cli.commands.cluster import read
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster.clients import client as clients
from secformer_jax.cluster.config import Cluster
from secformer_jax.errors import UserError
from secformer_jax.inference.answers import decode
from secformer_jax.models.folders import resolve
from secformer_jax.models.heads import HEADS
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Tokenizer

Request = tuple[str, str | None]
SHOWN = 8
"""Numbers of a long list that are shown to people; --json has them all."""


@dataclass(frozen=True)
class Asked:
    """What is asked, and how it is cut."""

    texts: Sequence[str]
    pairs: Sequence[str]
    max_length: int | None
    truncate: bool

    def requests(self) -> list[Request]:
        """Texts, or pairs of texts.

        Raises:
            UserError: none, or another number of second texts than of first ones.
        """
        if not self.texts:
            raise UserError("no text: pass --text")
        if self.pairs and len(self.pairs) != len(self.texts):
            raise UserError(f"{len(self.texts)} --text and {len(self.pairs)} --text-pair: pass one pair for each text")
        return list(itertools.zip_longest(self.texts, self.pairs))


def ask(
    reporter: Reporter,
    asked: Asked,
    *,
    cluster: str,
    client: str,
    tls: Path | None,
    model: str,
    head: str | None = None,
) -> list[Entry]:
    """Have a cluster answer each text, or each pair, with the model, functions and protocol published there.

    Of the model's folder only the tokenizer is read.

    Raises:
        UserError: the published model answers by another head than the one asked for; and as `ClusterClient`.
    """
    return asyncio.run(
        _ask(reporter, asked, read(cluster, tls, insecure=True), client, resolve(model, weights=False), head)
    )


async def _ask(
    reporter: Reporter, asked: Asked, cluster: Cluster, client: str, folder: Path, head: str | None
) -> list[Entry]:
    entries = []
    async with clients.ClusterClient(cluster, client) as asking:
        deployment = await asking.deployment()
        if head is not None and head != deployment.head:
            raise UserError(
                f"the published model answers with {deployment.head}, and {head} was asked for: it has to be published "
                f"with --head {head}"
            )
        head = deployment.head
        tokenizer = Tokenizer(folder, deployment.config)
        for text, pair in asked.requests():
            encoded = encode_request(deployment, tokenizer, text, pair, asked.max_length, asked.truncate, head=head)
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
