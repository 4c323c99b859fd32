"""`secformer calibrate`: measure a model's ranges and write them beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.cli.commands.common import Choice, checked_length, read_lines
from secformer_jax.cli.options import Gelu, Json, LayerNorm, Model, Softmax, System
from secformer_jax.cli.report import Reporter
from secformer_jax.errors import UserError
from secformer_jax.functions import calibration as calibrations
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration, Range
from secformer_jax.models import decoders
from secformer_jax.models.calibrate import calibrate_model, calibration_sentences
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.models.decoders.calibrate import calibration_chats
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load as load_decoder
from secformer_jax.models.decoders.ranges import ensure_calibration
from secformer_jax.models.folders import read_json, resolve
from secformer_jax.models.request import request_head
from secformer_jax.models.text import PADDED_LENGTHS, Encoded, Tokenizer


def calibrate(
    model: Model,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Only the ranges that this preset needs; all by default.")
    ] = None,
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A text file: a line has a sentence, or a pair or a talk's questions with tabs."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Where to write; calibration.json in the model's folder.")
    ] = None,
    max_length: Annotated[int, typer.Option("--max-length", help="The greatest padded length to serve.")] = 128,
    system: System = None,
    json: Json = False,
) -> None:
    """Measure the ranges of a model's values, from which approximations get their constants."""
    if decoders.generates(read_json(resolve(model))):
        if preset or gelu or softmax or layer_norm or calibration:
            raise UserError(
                "a model that generates text has functions of its own: pass --model, --data, --system alone"
            )
        _calibrate_decoder(Reporter(json), model, system, None if data is None else read_lines(data))
        return
    if system is not None:
        raise UserError("--system is for models that generate text: leave it out")
    if preset is None and (gelu or softmax or layer_norm):
        raise UserError("--gelu, --softmax and --layer-norm change a preset: pass --preset as well")
    reporter = Reporter(json)
    families = None
    if preset is not None:
        families = [presets.family(Choice(preset, gelu, softmax, layer_norm).approximations())]
    lines = calibration_sentences() if data is None else read_lines(data)
    loaded = load(model)
    checked_length(max_length, loaded)
    if max_length < PADDED_LENGTHS[0]:
        raise UserError(f"--max-length {max_length}: the shortest padded length is {PADDED_LENGTHS[0]}, pass that")
    encoded = encode_lines(loaded, lines, max_length)
    with reporter.progress("measuring ranges") as progress:
        measured = calibrate_model(loaded, encoded, families, progress=progress)
    path = calibrations.save(measured, calibration or loaded.path)
    reporter.say(f"{len(encoded.input_ids)} sentences, up to {max_length} tokens; written to {path}")
    quantities = tuple(_widest(measured[0]))
    reporter.table(
        "Ranges over all layers, by family of functions (GeLU/softmax)",
        ("family", *quantities),
        [(each.family, *(f"{low.low:.3g} to {low.high:.3g}" for low in _widest(each).values())) for each in measured],
    )
    entries = [
        {
            "family": each.family,
            "sentences": each.sentences,
            "max_length": each.max_length,
            "ranges": {name: [widest.low, widest.high] for name, widest in _widest(each).items()},
            "path": str(path),
        }
        for each in measured
    ]
    reporter.results(entries)


def _calibrate_decoder(reporter: Reporter, model: str, system: str | None, lines: Sequence[str] | None) -> None:
    loaded = load_decoder(model)
    tokens = read_tokens(loaded.path, system)
    chats = calibration_chats() if lines is None else [line.split("\t") for line in lines]
    with reporter.progress("measuring ranges") as progress:
        found = ensure_calibration(loaded, tokens, chats=chats, say=reporter.say, progress=progress)
    widest = {name: [ends.low, ends.high] for name, ends in _widest(found).items()}
    rows = [(name, f"{low:.3g}", f"{high:.3g}") for name, (low, high) in widest.items()]
    reporter.table(f"Ranges over all layers, behind a prefix of {len(tokens.prefix)} tokens", ("", "from", "to"), rows)
    reporter.results([{"family": found.family, "sentences": found.sentences, "ranges": widest}])


def encode_lines(model: Checkpoint, lines: Sequence[str], max_length: int) -> Encoded:
    """Texts one a line, cut and padded to one length; the two halves of a line with a tab are a pair."""
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    fields = [line.split("\t") for line in lines]
    singles, pairs = [line[0] for line in fields if len(line) == 1], [line for line in fields if len(line) > 1]
    if request_head(model) == "similarity":  # It reads the two texts of a pair as two rows.
        singles, pairs = [text for line in fields for text in line], []
    batches = []
    if singles:
        batches.append(tokenizer.encode(singles, None, max_length, truncate=True))
    if pairs:
        first, second = [line[0] for line in pairs], [line[1] for line in pairs]
        batches.append(tokenizer.encode(first, second, max_length, truncate=True))
    return Encoded.joined(batches)


def _widest(calibration: Calibration) -> Mapping[str, Range]:
    widest: dict[str, Range] = {}
    for ranges in calibration.places.values():
        for quantity, found in ranges.items():
            widest[quantity] = widest[quantity].union(found) if quantity in widest else found
    return widest
