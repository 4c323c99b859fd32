"""`secformer compare`: several presets on the same model, inputs and protocol, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

from secformer_jax.cli.commands.answering import compared
from secformer_jax.cli.commands.common import Choice, Protocol, checked_length
from secformer_jax.cli.costs import NOTHING, WHOLE, cost_cells, costs, restart_peak_memory, whole_cells
from secformer_jax.cli.options import (
    CalibrationFile,
    Config,
    Embedding,
    Gelu,
    Json,
    LayerNorm,
    NoKeepWeights,
    Softmax,
    TextPairs,
    Texts,
    Truncate,
)
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.presets import family, needs_calibration, preset
from secformer_jax.models import transformer as bert
from secformer_jax.models.calibrate import calibrate_model, ensure_calibration
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.request import encode_request, request_head
from secformer_jax.models.text import Encoded, Tokenizer

DEFAULT_LENGTH = 128
DEFAULT_PAIR = ("The train to the coast leaves at nine.", "At nine o'clock a train departs for the seaside.")
_RANDOM_SENTENCES = 4


def compare(
    model: Annotated[str | None, typer.Option("--model", help="As for infer.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Random weights: tiny, minilm, bert-base or bert-large.")
    ] = None,
    presets: Annotated[str, typer.Option("--presets", help="Comma-separated.")] = "spu,puma,mpcformer,secformer",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    text: Texts = None,
    text_pair: TextPairs = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Public padded length; 128.")] = None,
    truncate: Truncate = False,
    embedding: Embedding = "client",
    no_keep_weights: NoKeepWeights = False,
    json: Json = False,
) -> None:
    """Costs and errors of several presets on the same model, input and protocol."""
    reporter = Reporter(json)
    choices = _choices(presets, Choice("", gelu, softmax, layer_norm))
    if (model is None) == (shape is None):
        raise UserError("pass either --model or --shape")
    protocol = Protocol(config, embedding, not no_keep_weights)
    chosen = [choice.approximations() for choice in choices]
    protocol.check()
    with reporter.progress("reading the model"):
        if shape is not None:
            loaded = random_model(shape)
            checked_length(max_length, loaded)
            length = max_length or min(DEFAULT_LENGTH, loaded.config.positions)
            sentences = random_sentences(loaded, length)
            batch = sentences.rows(slice(1))
            families = {family(each) for each in chosen if needs_calibration(each)}
            measured = {each.family: each for each in calibrate_model(loaded, sentences, sorted(families))}
            ranges = [measured.get(family(each)) for each in chosen]
            subject = f"{shape} with random weights and tokens, ranges measured on {_RANDOM_SENTENCES} random sentences"
        else:
            assert model is not None
            loaded = load(model)
            checked_length(max_length, loaded)
            batch = _request(loaded, [*(text or [])[:1], *(text_pair or [])[:1]], max_length, truncate)
            length = batch.input_ids.shape[1]
            ranges = [
                ensure_calibration(loaded, each, length=length, path=calibration, say=reporter.say) for each in chosen
            ]
            subject = model
    exact = Plaintext(loaded, preset("exact"))
    entries = []
    for choice, approximations, each in zip(choices, chosen, ranges, strict=True):
        references = [exact, Plaintext(loaded, approximations, calibration=each)]
        entries.append(_serve(reporter, loaded, choice, protocol, each, batch, references))
    _print(reporter, subject, choices, entries)
    reporter.results(entries)


def random_model(shape: str) -> Checkpoint:
    """A classifier of that size with random weights; it has no tokenizer."""
    if shape not in bert.SHAPES:
        raise UserError(f"unknown shape {shape!r}: choose one of {', '.join(bert.SHAPES)}")
    config = bert.SHAPES[shape]
    params = jax.tree.map(np.asarray, bert.init_params(config, "classification", jax.random.key(0)))
    return Checkpoint(config, params, "classification", tokenizer_dir=Path(shape), path=Path(shape))


def random_sentences(model: Checkpoint, length: int) -> Encoded:
    """Random tokens, padded to one length; the first fills it."""
    rng = np.random.default_rng(0)
    shape = (_RANDOM_SENTENCES, length)
    counts = np.linspace(length, 3, _RANDOM_SENTENCES).astype(int)
    mask = (np.arange(length) < counts[:, None]).astype(np.float32)
    ids = rng.integers(0, model.config.vocab_size, shape, np.int32)
    types = rng.integers(0, model.config.type_vocab_size, shape, np.int32)
    return Encoded(np.where(mask > 0, ids, model.config.pad_token_id).astype(np.int32), types, mask)


def _request(model: Checkpoint, texts: Sequence[str], max_length: int | None, truncate: bool) -> Encoded:
    if not texts:
        texts = DEFAULT_PAIR if request_head(model) == "similarity" else DEFAULT_PAIR[:1]
    length = max_length or min(DEFAULT_LENGTH, model.config.positions)
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    pair = texts[1] if len(texts) > 1 else None
    return encode_request(model, tokenizer, texts[0], pair, length, truncate)


def _serve(
    reporter: Reporter,
    model: Checkpoint,
    choice: Choice,
    protocol: Protocol,
    calibration: Calibration | None,
    batch: Encoded,
    references: Sequence[Plaintext],
) -> Entry:
    restart_peak_memory()
    with reporter.progress(str(choice)) as progress, protocol.start(model, choice, calibration) as private:
        first = private(batch)
        progress(1, 2)
        steady = private(batch)
        return {
            **choice.entry(),
            "protocol": private.config.protocol,
            "config": private.config.name,
            "one_hot": protocol.embedding,
            "logits": steady.logits.reshape(-1).tolist(),
            **compared(steady.logits, batch, references),
            **costs(first, steady),
        }


def _print(reporter: Reporter, subject: str, choices: Sequence[Choice], entries: Sequence[Entry]) -> None:
    one = entries[0]
    reporter.say(f"{subject}; {one['protocol']} ({one['config']}), {one['seq_length']} tokens")
    reporter.table(
        "Steady state: the second request of each engine. In the first the weights are opened under their masks.",
        (
            "preset",
            "seconds",
            "MB sent",
            "sends",
            "error",
            "first s",
            "first MB",
            "compile s",
            "peak GB",
        ),
        [
            (
                str(choice),
                *cost_cells(entry),
                f"{entry['same_functions_max_abs_error']:.4f}",
                *cost_cells(entry, "first_")[:2],
                f"{entry['compile_seconds']:.1f}",
                f"{entry['peak_memory_bytes'] / 1e9:.1f}",
            )
            for choice, entry in zip(choices, entries, strict=True)
        ],
    )
    reporter.table(
        "Everything that a request needs, ahead of it included: seconds by role, MB by link",
        ("preset", *WHOLE),
        [(str(choice), *whole_cells(entry)) for choice, entry in zip(choices, entries, strict=True)],
    )
    parts = dict.fromkeys(part for entry in entries for part in entry["by_part"])
    reporter.table(
        "The same by part: seconds, MB sent, sends",
        ("part", *(str(choice) for choice in choices)),
        [(part, *(", ".join(cost_cells(entry["by_part"].get(part, NOTHING))) for entry in entries)) for part in parts],
    )
    where = "by the client" if one["one_hot"] == "client" else "inside the protocol"
    reporter.say(
        f"Bytes and sends are those of rank 0; the embedding's one-hot is made {where}; error is the greatest "
        "difference of a logit from plaintext with the same functions."
    )


def _choices(names: str, override: Choice) -> list[Choice]:
    """Choices from a comma-separated list of presets, all with the same overrides."""
    found = [replace(override, preset=name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise UserError("no preset: pass --presets a,b,c")
    return found
