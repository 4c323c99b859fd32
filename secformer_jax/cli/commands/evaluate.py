"""`secformer evaluate`: a model's metric on GLUE tasks, in plaintext, emulated, or under MPC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from secformer_jax.cli.commands.common import Choice, Protocol, checked_length, choice_for
from secformer_jax.cli.commands.score_tables import print_scores
from secformer_jax.cli.options import (
    CalibrationFile,
    Config,
    DataDir,
    Embedding,
    Gelu,
    Json,
    LayerNorm,
    Model,
    Preset,
    Softmax,
    Truncate,
)
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.errors import UserError
from secformer_jax.evaluation import tasks
from secformer_jax.evaluation.predict import Forward, check_head, encode_examples, in_task_order, predict
from secformer_jax.evaluation.tasks import Task
from secformer_jax.functions.calibration import Calibration
from secformer_jax.models.calibrate import DEFAULT_LENGTH, ensure_calibration
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Encoded, Tokenizer
from secformer_jax.models.vocabulary import UsedPieces
from secformer_jax.mpc.runtime.layout import EMULATION

RUNTIMES = ("plaintext", "emulated", "simulated")


@dataclass
class Spent:
    """What the requests of one task sent."""

    send_bytes: int = 0
    send_actions: int = 0


def evaluate(
    model: Model,
    task: Annotated[list[str], typer.Option("--task", help="STS-B, SST-2, ...; give it again for more.")],
    data_dir: DataDir = None,
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="plaintext, emulated (one party), simulated (--config), or several."),
    ] = "plaintext",
    preset: Preset = "",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    config: Config = "2pc_semi2k",
    calibration: CalibrationFile = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples in a request.")] = 16,
    max_length: Annotated[int | None, typer.Option("--max-length", help="The greatest padded length.")] = None,
    truncate: Truncate = False,
    embedding: Embedding = "client",
    sample: Annotated[
        int | None, typer.Option("--sample", help="Only the first examples of each task under simulated.")
    ] = None,
    layer_errors: Annotated[
        int | None, typer.Option("--layer-errors", help="Errors after each layer, on so many examples.")
    ] = None,
    check_ranges: Annotated[
        bool, typer.Option("--check-ranges", help="Say where values left their series' domains (emulated).")
    ] = False,
    json: Json = False,
) -> None:
    """A model's metric on the dev splits of GLUE tasks."""
    reporter = Reporter(json)
    entries = run(
        reporter,
        model=model,
        names=task,
        data_dir=data_dir,
        runtime=runtime,
        choice=Choice(preset, gelu, softmax, layer_norm),
        protocol=Protocol(config, embedding),
        calibration=calibration,
        limit=limit,
        batch_size=batch_size,
        max_length=max_length,
        truncate=truncate,
        sample=sample,
        layer_errors=layer_errors,
        check_ranges=check_ranges,
    )
    reporter.results(entries)


def run(
    reporter: Reporter,
    *,
    model: str,
    names: Sequence[str],
    data_dir: Path | None,
    runtime: str,
    choice: Choice,
    protocol: Protocol,
    calibration: str | None,
    limit: int | None,
    batch_size: int,
    max_length: int | None,
    truncate: bool,
    sample: int | None = None,
    layer_errors: int | None = None,
    check_ranges: bool = False,
) -> list[Entry]:
    """Score the dev split of each task on one runtime or, as "plaintext,emulated,simulated", on several.

    Several runtimes are compared: how often they predict the same, and the greatest difference of a logit. `sample`:
    only the first examples under "simulated". With `layer_errors`, the errors after each layer on so many
    examples; with `check_ranges`, where values left the domains of their series.

    Each text is padded to the least public length that it fits, at most `max_length`; batches are always full, so each
    length is compiled once.
    """
    runtimes = [name.strip() for name in runtime.split(",")]
    for name in runtimes:
        if name not in RUNTIMES:
            raise UserError(f"unknown runtime {name!r}: choose one of {', '.join(RUNTIMES)}")
    if batch_size < 1 or any(number is not None and number < 1 for number in (limit, sample, layer_errors)):
        raise UserError("--batch-size, --limit, --sample and --layer-errors: a whole number of at least 1 was expected")
    chosen = [tasks.find(name) for name in names]
    choice.approximations()
    if set(runtimes) != {"plaintext"} or layer_errors:
        protocol.check()
    read = [(task, tasks.read(task, data_dir, "dev", limit)) for task in chosen]
    loaded = load(model)
    choice = choice_for(loaded, choice)
    approximations = choice.approximations()
    if check_ranges and ("emulated" not in runtimes or not approximations.openings):
        raise UserError(
            "--check-ranges: pass --runtime emulated and --preset fast or drop-in, whose series have domains"
        )
    checked_length(max_length, loaded)
    for task in chosen:
        check_head(task, loaded)
    length = max_length or min(DEFAULT_LENGTH, loaded.config.positions)
    ranges = ensure_calibration(loaded, approximations, length=length, path=calibration, say=reporter.say)
    tokenizer = Tokenizer(loaded.tokenizer_dir, loaded.config)
    entries: list[Entry] = []
    for task, examples in read:
        found: dict[str, np.ndarray] = {}
        for name in runtimes:
            part = examples[: sample if name == "simulated" else None]
            served, encoded = loaded, encode_examples(loaded, tokenizer, part, max_length, truncate)
            if name == "emulated":
                pieces = UsedPieces.of(encoded)
                served, encoded = pieces.model(loaded), pieces.texts(encoded)
            spent, left = Spent(), None
            used = replace(protocol, config=EMULATION) if name == "emulated" else protocol
            checked = check_ranges and name == "emulated"
            with (
                reporter.progress(f"{task.name}, {len(part)} examples, {name}") as progress,
                _forward(name, served, choice, used, ranges, spent, checked) as forward,
            ):
                started = time.perf_counter()
                logits = predict(forward, encoded, len(part), batch_size, progress)
                seconds = time.perf_counter() - started
                if checked:
                    left = [str(place) for place in forward.violations]  # type: ignore[attr-defined]
            metrics = tasks.score(task, tasks.predict(task, in_task_order(task, loaded, logits)), part.labels)
            entries.append(
                {
                    "task": task.name,
                    "metric_name": next(iter(metrics)),
                    "metric": next(iter(metrics.values())),
                    "metrics": metrics,
                    "runtime": name,
                    **choice.entry(),
                    "config": None if name == "plaintext" else used.config,
                    "count": len(part),
                    "seconds": seconds,
                    **(asdict(spent) if spent.send_actions else {}),
                    **({} if left is None else {"left_domain": left}),
                    "agreement": {other: agreement(task, logits, theirs) for other, theirs in found.items()},
                    "note": examples.note,
                }
            )
            found[name] = logits
        if layer_errors:
            encoded = encode_examples(loaded, tokenizer, examples[:layer_errors], max_length, truncate)
            from secformer_jax.inference.layer_errors import errors_by_layer

            with reporter.progress("errors by layer"):
                entries[-1]["layer_errors"] = errors_by_layer(loaded, approximations, ranges, encoded)
    print_scores(reporter, choice, entries)
    return entries


def agreement(task: Task, logits: np.ndarray, others: np.ndarray) -> Entry:
    """How near two runtimes are on the examples that both have: equal predictions, and the greatest difference."""
    count = min(len(logits), len(others))
    logits, others = logits[:count], others[:count]
    same = tasks.predict(task, logits) == tasks.predict(task, others)
    return {
        "count": count,
        **({"same_predictions": int(same.sum())} if task.labels else {}),
        "max_logit_difference": float(np.abs(logits - others).max()),
    }


@contextmanager
def _forward(
    runtime: str,
    model: Checkpoint,
    choice: Choice,
    protocol: Protocol,
    calibration: Calibration | None,
    spent: Spent,
    check_ranges: bool,
) -> Iterator[Forward]:
    if runtime == "plaintext":
        yield Plaintext(model, choice.approximations(), calibration=calibration)
        return
    if check_ranges:
        from secformer_jax.inference.range_check import RangeCheck

        with RangeCheck(model, choice.approximations(), calibration) as check:
            yield check
        return
    with protocol.start(model, choice, calibration) as private:

        def forward(batch: Encoded) -> np.ndarray:
            answer = private(batch)
            spent.send_bytes += answer.result.profile.total.send_bytes
            spent.send_actions += answer.result.profile.total.send_actions
            return answer.logits

        yield forward
