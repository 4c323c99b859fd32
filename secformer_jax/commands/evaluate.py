"""`secformer evaluate`: a model's metric on GLUE tasks, in plaintext, emulated, or under MPC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from secformer_jax import tasks
from secformer_jax.calibration import Calibration
from secformer_jax.checkpoint import Checkpoint, load
from secformer_jax.commands.common import Choice, Protocol, checked_length
from secformer_jax.errors import UserError
from secformer_jax.evaluation import Forward, check_head, encode_examples, in_task_order, predict
from secformer_jax.plaintext import Plaintext, load_calibration
from secformer_jax.reports import Entry, Reporter
from secformer_jax.text import Encoded, Tokenizer

RUNTIMES = ("plaintext", "emulated", "simulated")
EMULATION = "1pc_ref2k"


@dataclass
class Spent:
    """What the requests of one task sent."""

    send_bytes: int = 0
    send_actions: int = 0


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
    check_ranges: bool = False,
) -> list[Entry]:
    """Score the dev split of each task; with `check_ranges`, say where values left the domains of their series.

    Texts are padded to --max-length, or else each to the least public length that it fits; batches are always full, so
    each length is compiled once.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"unknown runtime {runtime!r}: choose one of {', '.join(RUNTIMES)}")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UserError("--batch-size and --limit: a whole number of at least 1 was expected")
    chosen = [tasks.find(name) for name in names]
    approximations = choice.approximations()
    if check_ranges and (runtime != "emulated" or not approximations.opened):
        raise UserError(
            "--check-ranges: pass --runtime emulated and --preset fast or drop-in, whose series have domains"
        )
    if runtime == "emulated":
        protocol = replace(protocol, config=EMULATION)
    if runtime != "plaintext":
        protocol.check()
    read = [(task, tasks.read(task, data_dir, "dev", limit)) for task in chosen]
    loaded = load(model)
    checked_length(max_length, loaded)
    ranges = load_calibration(loaded, approximations, calibration)
    for task in chosen:
        check_head(task, loaded)
    tokenizer = Tokenizer(loaded.tokenizer_dir, loaded.config.vocab_size)
    entries = []
    for task, examples in read:
        encoded = encode_examples(loaded, tokenizer, examples, max_length, truncate)
        spent, left = Spent(), None
        with (
            reporter.progress(f"{task.name}, {len(examples)} examples, {runtime}") as progress,
            _forward(runtime, loaded, choice, protocol, ranges, spent, check_ranges) as forward,
        ):
            started = time.perf_counter()
            logits = predict(forward, encoded, len(examples), batch_size, max_length, progress)
            seconds = time.perf_counter() - started
            if check_ranges:
                left = [str(place) for place in forward.violations]  # type: ignore[attr-defined]
        metrics = tasks.score(task, tasks.predict(task, in_task_order(task, loaded, logits)), examples.labels)
        name, metric = next(iter(metrics.items()))
        entries.append(
            {
                "task": task.name,
                "metric_name": name,
                "metric": metric,
                "metrics": metrics,
                "runtime": runtime,
                **choice.entry(),
                "config": None if runtime == "plaintext" else protocol.config,
                "count": len(examples),
                "seconds": seconds,
                **({"send_bytes": spent.send_bytes, "send_actions": spent.send_actions} if spent.send_actions else {}),
                **({} if left is None else {"left_domain": left}),
                "note": examples.note,
            }
        )
    _print(reporter, choice, entries)
    return entries


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
        from secformer_jax.opened.ranges import RangeCheck

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


def _print(reporter: Reporter, choice: Choice, entries: Sequence[Entry]) -> None:
    reporter.table(
        f"Dev splits, {entries[0]['runtime']}, {choice}",
        ("task", "examples", "metric", "value", "others", "seconds"),
        [
            (
                entry["task"],
                f"{entry['count']:,}",
                entry["metric_name"],
                f"{entry['metric']:.4f}",
                ", ".join(f"{name} {value:.4f}" for name, value in list(entry["metrics"].items())[1:]),
                f"{entry['seconds']:.1f}",
            )
            for entry in entries
        ],
    )
    for entry in entries:
        if entry["note"]:
            reporter.say(entry["note"])
        for line in entry.get("left_domain", ()):
            reporter.say(line)
        if entry.get("left_domain") == []:
            reporter.say(f"{entry['task']}: every value stayed in the domain of its series")
