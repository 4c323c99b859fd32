"""What `secformer infer` and `embed` share: texts answered under MPC, here or by a cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secformer_jax.cli.commands.cluster import read
from secformer_jax.cli.commands.common import Choice, Protocol, checked_length, choice_for
from secformer_jax.cli.report import Entry, Reporter, cost_cells, costs, restart_peak_memory
from secformer_jax.cluster.config import Cluster
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.inference.answers import decode
from secformer_jax.models.calibrate import ensure_calibration
from secformer_jax.models.checkpoint import Checkpoint, load, resolve
from secformer_jax.models.heads import HEADS
from secformer_jax.models.plaintext import Plaintext, encode_request, request_head
from secformer_jax.models.text import Encoded, Tokenizer

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


def answers(
    reporter: Reporter,
    asked: Asked,
    *,
    model: str,
    choice: Choice,
    protocol: Protocol,
    calibration: str | None,
    compare: bool,
    cluster: str | None,
    client: str,
    tls: Path | None,
    head: str | None = None,
) -> list[Entry]:
    """Answer each text, or each pair of texts; with the head "embedding" by a vector.

    A cluster is asked where one is named, and answers with the model, functions and protocol published there. Else,
    with `compare` or --json, a request is made a second time where it is the engine's first of its length: the figures
    are those of the steady state.
    """
    if cluster is not None:
        return asyncio.run(_ask(reporter, read(cluster, tls, insecure=True), client, resolve(model), asked, head))
    choice.approximations()
    requests = asked.requests()
    protocol.check()
    loaded = load(model)
    head = checked_head(loaded, head)
    choice = choice_for(loaded, choice)
    approximations = choice.approximations()
    checked_length(asked.max_length, loaded)
    tokenizer = Tokenizer(loaded.tokenizer_dir, loaded.config)
    batches = [
        encode_request(loaded, tokenizer, *request, asked.max_length, asked.truncate, head=head) for request in requests
    ]
    longest = max(batch.input_ids.shape[1] for batch in batches)
    with reporter.progress("measuring ranges") as progress:
        ranges = ensure_calibration(
            loaded, approximations, length=longest, path=calibration, say=reporter.say, progress=progress
        )
    references = []
    if compare:
        exact = Plaintext(loaded, presets.preset("exact"), head=head)
        references = [exact, Plaintext(loaded, approximations, calibration=ranges, head=head)]

    restart_peak_memory()
    entries, first = [], {}
    with reporter.progress("sharing the weights") as progress, protocol.start(loaded, choice, ranges, head) as private:
        for done, (request, batch) in enumerate(zip(requests, batches, strict=True)):
            answer, shape = private(batch), batch.input_ids.shape
            if shape not in first:
                first[shape] = answer
                if compare or reporter.as_json:
                    answer = private(batch)
            progress(done + 1, len(requests))
            entries.append(
                {
                    "text": request[0],
                    "text_pair": request[1],
                    **choice.entry(),
                    "protocol": private.config.protocol,
                    "config": private.config.name,
                    "one_hot": protocol.embedding,
                    "head": head,
                    "reveals": HEADS[head].reveals,
                    **decode(loaded.config, head, answer.logits[0], batch.tokens[0], request),
                    **compared(answer.logits, batch, references),
                    **costs(first[shape], answer),
                }
            )
            _print(reporter, choice, entries[-1], steady=answer is not first[shape])
    return entries


async def _ask(
    reporter: Reporter, cluster: Cluster, client: str, folder: Path, asked: Asked, head: str | None
) -> list[Entry]:
    """Of the model's folder only the tokenizer is read; the published model has to answer by the head asked for."""
    from secformer_jax.cluster.clients.client import ClusterClient
    from secformer_jax.cluster.requirements import without_weights

    entries = []
    async with ClusterClient(cluster, client) as asking:
        deployment = await asking.deployment()
        if head is not None and head != deployment.head:
            raise UserError(
                f"the published model answers with {deployment.head}, and {head} was asked for: it has to be published "
                f"with --head {head}"
            )
        model, head = without_weights(deployment), deployment.head
        tokenizer = Tokenizer(folder, deployment.config)
        for text, pair in asked.requests():
            encoded = encode_request(model, tokenizer, text, pair, asked.max_length, asked.truncate, head=head)
            answer = await asking.infer(encoded)
            alone, texts = deployment.reveal.label, (text, pair)
            found = decode(model.config, head, answer.logits[0], encoded.tokens[0], texts, labels_alone=alone)
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


def checked_head(model: Checkpoint, head: str | None) -> str:
    """The head asked for, or the one that answers requests by default.

    Raises:
        UserError: a vector is asked of a model that has another head.
    """
    if head == "embedding" and model.head != "embedding":
        raise UserError(f"this model's head is {model.head}, and it gives no vectors: use secformer infer")
    return head or request_head(model)


def compared(logits: np.ndarray, batch: Encoded, references: Sequence[Plaintext]) -> Entry:
    """The same in plaintext: with exact functions, and with those of the preset."""
    if not references:
        return {}
    exact, same = (reference(batch) for reference in references)
    return {
        "plaintext_logits": exact.reshape(-1).tolist(),
        "max_abs_error": float(np.abs(logits - exact).max()),
        "same_functions_logits": same.reshape(-1).tolist(),
        "same_functions_max_abs_error": float(np.abs(logits - same).max()),
    }


def _print(reporter: Reporter, choice: Choice, entry: Entry, *, steady: bool) -> None:
    reporter.say(" / ".join(text for text in (entry["text"], entry["text_pair"]) if text))
    for line in described(entry):
        reporter.say(f"  {line}")
    if "plaintext_logits" in entry:
        for name, key in (("exact functions", "plaintext"), (f"the functions of {choice}", "same_functions")):
            error = entry["max_abs_error" if key == "plaintext" else f"{key}_max_abs_error"]
            reporter.say(f"  plaintext, {name}: {_numbers(entry[f'{key}_logits'])}   max difference {error:.4f}")
    which = "in the steady state" if steady else "of the engine's first request: the openings of the weights are in it"
    reporter.table(
        f"Cost {which}, {entry['protocol']}, {entry['seq_length']} tokens, {choice}",
        ("part", "seconds", "MB sent", "sends"),
        [
            ("total", *cost_cells(entry)),
            *(
                (f"{part} (one-hot made {_WHERE[entry['one_hot']]})" if part == "embedding" else part, *cells)
                for part, cells in ((part, cost_cells(cost)) for part, cost in entry["by_part"].items())
            ),
        ],
    )
    reporter.say(
        f"  compiled in {entry['compile_seconds']:.1f} s; dealer material {entry['offline_bytes'] / 1e6:,.1f} MB for "
        f"each server; input {entry['input_bytes'] / 1e6:,.1f} MB for each server"
    )


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
        return [f"private answer: a vector of {len(entry['embedding'])}: {_numbers(entry['embedding'])}"]
    if "score" not in entry:
        return [f"private answer: {entry['label']}"]
    score = f"{entry['score']:.4f}"
    answer = f"{entry['label']} ({score})" if "label" in entry else score
    return [f"private answer: {answer}   logits {_numbers(entry['logits'])}"]


_WHERE = {"client": "by the client", "inside": "inside the protocol"}


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4f}" for value in values[:SHOWN])
    return f"{shown}, ..." if len(values) > SHOWN else shown
