"""`secformer infer` and `embed` without a cluster: texts answered under MPC on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secformer_jax.cli.commands.asking import Asked, described, numbers
from secformer_jax.cli.commands.common import Choice, Protocol, checked_length, choice_for
from secformer_jax.cli.commands.files import Files
from secformer_jax.cli.costs import cost_cells, costs, restart_peak_memory
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.answers import decode
from secformer_jax.inference.simulated import Simulated
from secformer_jax.inference.texts import Limits, Request
from secformer_jax.models.calibrate import ensure_calibration
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.models.heads import HEADS
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.request import encode_request, request_head
from secformer_jax.models.text import Encoded, Tokenizer, padded_length


@dataclass
class Here:
    """This machine, as it answers with a model.

    Attributes:
        reporter: prints.
        model: its name.
        choice: its functions, and how it runs.
        protocol: see `Protocol`.
        calibration: the file of its ranges.
        head: what it answers with; None for its own.
    """

    reporter: Reporter
    model: str
    choice: Choice
    protocol: Protocol
    calibration: str | None
    head: str | None

    def answers(self, asked: Asked, *, compare: bool) -> list[Entry]:
        """Answer each text, or each pair of texts; with the head "embedding" by a vector.

        With `compare` or --json, a request is made a second time where it is the engine's first of its length: the
        figures are those of the steady state.
        """
        requests, reporter = asked.requests(), self.reporter
        loaded, head, choice, tokenizer = self._opened(asked.limits)
        batches = [_encoded(loaded, tokenizer, request, asked.limits, head) for request in requests]
        ranges = self._ranges(loaded, choice, max(batch.input_ids.shape[1] for batch in batches))
        references = []
        if compare:
            exact = Plaintext(loaded, presets.preset("exact"), head=head)
            references = [exact, Plaintext(loaded, choice.approximations(), calibration=ranges, head=head)]

        restart_peak_memory()
        entries, first = [], {}
        start = self.protocol.start
        with reporter.progress("sharing the weights") as progress, start(loaded, choice, ranges, head) as private:
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
                        "one_hot": self.protocol.embedding,
                        "head": head,
                        "reveals": HEADS[head].reveals,
                        **decode(loaded.config, head, answer.logits[0], batch.tokens[0], request),
                        **compared(answer.logits, batch, references),
                        **costs(first[shape], answer),
                    }
                )
                _print(reporter, choice, entries[-1], steady=answer is not first[shape])
        return entries

    def answer_file(self, files: Files) -> int:
        """Answer a file of texts, see `Files.answered`."""
        loaded, head, choice, tokenizer = self._opened(files.limits)
        longest = padded_length(1)
        for row in files.table.rows():
            # A row that can't be asked is told when its turn comes.
            with contextlib.suppress(UserError):
                encoded = _encoded(loaded, tokenizer, (row.text, row.pair), files.limits, head)
                longest = max(longest, encoded.input_ids.shape[1])
        ranges = self._ranges(loaded, choice, longest)
        about = {"model": loaded.fingerprint, "head": head, **choice.entry(), **dataclasses.asdict(self.protocol)}
        with self.protocol.start(loaded, choice, ranges, head) as private:
            simulated = Simulated(private, loaded.config, head)
            return asyncio.run(files.answered(self.reporter, simulated, tokenizer, about))

    def _opened(self, limits: Limits) -> tuple[Checkpoint, str, Choice, Tokenizer]:
        """The model, its head, functions and tokenizer; what can't be is refused before the model is read."""
        self.choice.approximations()
        self.protocol.check()
        loaded = load(self.model)
        checked_length(limits.max_length, loaded)
        head, choice = checked_head(loaded, self.head), choice_for(loaded, self.choice)
        return loaded, head, choice, Tokenizer(loaded.tokenizer_dir, loaded.config)

    def _ranges(self, model: Checkpoint, choice: Choice, length: int) -> Calibration | None:
        say, path = self.reporter.say, self.calibration
        with self.reporter.progress("measuring ranges") as progress:
            return ensure_calibration(
                model, choice.approximations(), length=length, path=path, say=say, progress=progress
            )


def _encoded(model: Checkpoint, tokenizer: Tokenizer, request: Request, limits: Limits, head: str) -> Encoded:
    return encode_request(model, tokenizer, *request, limits.max_length, limits.truncate, head=head)


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
            reporter.say(f"  plaintext, {name}: {numbers(entry[f'{key}_logits'])}   max difference {error:.4f}")
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
        f"  compiled in {entry['compile_seconds']:.1f} s; to the server that gets most: "
        f"dealer material {max(entry['dealt_bytes']) / 1e6:,.1f} MB, input {entry['input_bytes'] / 1e6:,.1f} MB"
    )


_WHERE = {"client": "by the client", "inside": "inside the protocol"}
