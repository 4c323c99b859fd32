"""`secformer infer`: answer texts under MPC."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from secformer_jax.cli.commands.common import Choice, Protocol, checked_length, choice_for
from secformer_jax.cli.report import Entry, Reporter, cost_cells, costs, restart_peak_memory
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.models.plaintext import Plaintext, encode_request, load_calibration, request_head
from secformer_jax.models.text import Encoded, Tokenizer

Request = tuple[str, str | None]
DEFAULT_PRESET = "puma"


def run(
    reporter: Reporter,
    *,
    model: str,
    texts: Sequence[str],
    text_pairs: Sequence[str],
    choice: Choice,
    protocol: Protocol,
    calibration: str | None,
    max_length: int | None,
    truncate: bool,
    compare: bool,
) -> list[Entry]:
    """Answer each text, or each pair of texts.

    With `compare` or --json a request is made a second time where it is the engine's first of its length: the figures
    are those of the steady state.
    """
    choice.approximations()
    if not texts:
        raise UserError("no text: pass --text")
    if text_pairs and len(text_pairs) != len(texts):
        raise UserError(f"{len(texts)} --text and {len(text_pairs)} --text-pair: pass one pair for each text")
    requests: list[Request] = list(itertools.zip_longest(texts, text_pairs))
    protocol.check()
    loaded = load(model)
    choice = choice_for(loaded, choice, DEFAULT_PRESET)
    approximations = choice.approximations()
    checked_length(max_length, loaded)
    tokenizer = Tokenizer(loaded.tokenizer_dir, loaded.config.vocab_size)
    batches = [encode_request(loaded, tokenizer, *request, max_length, truncate) for request in requests]
    ranges = load_calibration(loaded, approximations, calibration)
    references = []
    if compare:
        exact = Plaintext(loaded, presets.preset("exact"))
        references = [exact, Plaintext(loaded, approximations, calibration=ranges)]

    restart_peak_memory()
    entries, first = [], {}
    with reporter.progress("sharing the weights") as progress, protocol.start(loaded, choice, ranges) as private:
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
                    "embedding": protocol.embedding,
                    **decoded(loaded, answer.logits),
                    **compared(answer.logits, batch, references),
                    **costs(first[shape], answer),
                }
            )
            _print(reporter, choice, entries[-1], steady=answer is not first[shape])
    return entries


def decoded(model: Checkpoint, logits: np.ndarray) -> Entry:
    """The answer for people: a label, or the score of a regression or of a pair of embeddings."""
    entry: dict[str, Any] = {"logits": logits.reshape(-1).tolist()}
    if request_head(model) == "classification":
        return {**entry, "label": model.config.id2label[int(np.argmax(logits))]}
    return {**entry, "score": entry["logits"][0]}


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
    answer = entry["label"] if "label" in entry else f"{entry['score']:.4f}"
    reporter.say(f"  private answer: {answer}   logits {_numbers(entry['logits'])}")
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
                (f"{part} (one-hot made {_WHERE[entry['embedding']]})" if part == "embedding" else part, *cells)
                for part, cells in ((part, cost_cells(cost)) for part, cost in entry["by_part"].items())
            ),
        ],
    )
    reporter.say(
        f"  compiled in {entry['compile_seconds']:.1f} s; dealer material {entry['offline_bytes'] / 1e6:,.1f} MB for "
        f"each server; input {entry['input_bytes'] / 1e6:,.1f} MB for each server"
    )


_WHERE = {"client": "by the client", "inside": "inside the protocol"}


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
