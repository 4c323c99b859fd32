"""The pass that measures a model's ranges, on the package's own sentences where nobody gives others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.measure import update
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.ranges import keep, kept_for, load_calibration
from secformer_jax.models.text import Encoded, Tokenizer

Progress = Callable[[int, int], None]
"""Called with (done, total) as the work goes on."""
DEFAULT_LENGTH = 128


def ensure_calibration(
    model: Checkpoint,
    approximations: presets.Approximations,
    *,
    length: int,
    path: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Calibration | None:
    """The model's ranges for these functions, measured on the package's sentences where none are kept yet.

    Args:
        model: the checkpoint.
        approximations: the functions.
        length: the greatest padded length that is to be served.
        path: a file of ranges to use and no other.
        say: told in one line what was measured, and where it is kept.
        progress: told how far it is.

    Raises:
        UserError: the file given, or one that is kept, was made for another model or is damaged.
    """
    if path is not None or not presets.needs_calibration(approximations):
        return load_calibration(model, approximations, path)
    found = kept_for(model, presets.family(approximations), length)
    if found is not None:
        return found
    started, family = time.perf_counter(), presets.family(approximations)
    encoded = own_sentences(model, max(length, min(DEFAULT_LENGTH, model.config.positions)))
    measured = calibrate_model(model, encoded, [family], progress=progress)
    kept = keep(model, measured)
    texts, longest = encoded.input_ids.shape
    say(
        f"measured the ranges of {family} functions, once, on {texts} texts up to {longest} tokens "
        f"({time.perf_counter() - started:.0f} s); kept in {kept}"
    )
    return measured[0]


def own_sentences(model: Checkpoint, length: int) -> Encoded:
    """The package's sentences at one padded length; as pairs too for a model that reads pairs."""
    tokenizer, lines = Tokenizer(model.tokenizer_dir, model.config), calibration_sentences()
    batches = [tokenizer.encode(lines, None, length, truncate=True)]
    if model.head != "embedding":
        batches.append(tokenizer.encode(lines[::2], lines[1::2], length, truncate=True))
    return Encoded.joined(batches)


def calibration_sentences() -> list[str]:
    """The sentences that come with the package to measure ranges on."""
    lines = (resources.files("secformer_jax") / "data" / "calibration_sentences.txt").read_text(encoding="utf-8")
    return [line for line in lines.split("\n") if line.strip()]


def calibrate_model(
    model: Checkpoint,
    encoded: Encoded,
    families: Iterable[str] | None = None,
    *,
    batch_size: int = 8,
    progress: Progress = lambda done, total: None,
) -> list[Calibration]:
    """Measure a model's ranges on a batch of sentences, once for each family of functions (None: for every family).

    Pad the sentences to the greatest length that is to be served: padded positions are measured too, and a position's
    values don't depend on how many follow it.
    """
    chosen = presets.families() if families is None else {name: presets.families()[name] for name in families}
    starts = range(0, len(encoded.input_ids), batch_size)
    measured: list[Calibration] = []
    for name, approximations in chosen.items():
        run, ranges = Plaintext(model, approximations, head="embedding"), None
        for start in starts:
            # The last batch is filled up with sentences of the one before: one shape, compiled once.
            rows = slice(max(0, min(start, len(encoded.input_ids) - batch_size)), start + batch_size)
            batch = encoded.rows(rows)
            _, kept = run.intermediates(batch)
            ranges = update(ranges, kept, batch.attention_mask, fingerprint=model.fingerprint, family=name)
            progress(len(measured) * len(starts) + start // batch_size + 1, len(chosen) * len(starts))
        if ranges is None:
            raise UserError("no sentence to calibrate on: give at least one")
        measured.append(dataclasses.replace(ranges, sentences=len(encoded.input_ids)))
    return measured
