"""`secformer evaluate`: a model's metric on GLUE tasks, in plaintext, emulated, or under MPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from secformer_jax import tasks
from secformer_jax.calibration import Calibration
from secformer_jax.checkpoint import Checkpoint, load
from secformer_jax.commands.common import Choice, Protocol, checked_length
from secformer_jax.errors import UserError
from secformer_jax.plaintext import Plaintext, encode, load_calibration, request_head
from secformer_jax.reports import Entry, Reporter
from secformer_jax.tasks import Examples, Task
from secformer_jax.text import Encoded, Tokenizer, padded_length

RUNTIMES = ("plaintext", "emulated", "simulated")
EMULATION = "1pc_ref2k"
Forward = Callable[[Encoded], np.ndarray]


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
        _check_head(task, loaded)
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
        metrics = tasks.score(task, tasks.predict(task, _in_task_order(task, loaded, logits)), examples.labels)
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


def _check_head(task: Task, model: Checkpoint) -> None:
    head, labels = request_head(model), model.config.num_labels
    if head == "similarity":
        if task.labels:
            raise UserError(f"{task.name} needs a classifier and this model has no classification head: fine-tune it")
    elif (head == "regression") != (not task.labels) or (task.labels and labels != task.num_labels):
        raise UserError(f"{task.name} needs {task.num_labels} logits, and this {head} model has {labels}: use its own")


def _in_task_order(task: Task, model: Checkpoint, logits: np.ndarray) -> np.ndarray:
    """Logits in the order of the task's labels, where the model names the same labels in another order."""
    if task.labels and sorted(model.config.id2label) == sorted(task.labels):
        return logits[:, [model.config.id2label.index(label) for label in task.labels]]
    return logits


def encode_examples(
    model: Checkpoint, tokenizer: Tokenizer, examples: Examples, max_length: int | None, truncate: bool
) -> Encoded:
    """All examples at one length; a sentence encoder takes the two texts of an example as rows 2i and 2i + 1."""
    if request_head(model) == "similarity":
        assert examples.pairs is not None
        texts = [text for pair in zip(examples.texts, examples.pairs, strict=True) for text in pair]
        return encode(model, tokenizer, texts, None, max_length, truncate)
    return encode(model, tokenizer, examples.texts, examples.pairs, max_length, truncate)


def predict(
    forward: Forward,
    encoded: Encoded,
    count: int,
    batch_size: int,
    max_length: int | None,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """Logits of all examples, in their order, batch by batch of equal length."""
    rows = len(encoded.input_ids) // count
    tokens = encoded.attention_mask.sum(axis=1).astype(int).reshape(count, rows).max(axis=1)
    longest = encoded.input_ids.shape[1]
    lengths = np.array([max_length or min(padded_length(int(n)), longest) for n in tokens])
    batch_size = min(batch_size, count)
    logits: dict[int, np.ndarray] = {}
    for length in np.unique(lengths):
        found = np.flatnonzero(lengths == length)
        for start in range(0, len(found), batch_size):
            members = found[start : start + batch_size]
            # A batch that isn't full is filled with its last example: one shape, compiled once.
            filled = np.pad(members, (0, batch_size - len(members)), mode="edge")
            which = (filled[:, None] * rows + np.arange(rows)).reshape(-1)
            batch = Encoded(
                encoded.input_ids[which, :length],
                encoded.token_type_ids[which, :length],
                encoded.attention_mask[which, :length],
            )
            logits |= dict(zip(members.tolist(), forward(batch), strict=False))
            progress(len(logits), count)
    return np.stack([logits[i] for i in range(count)])


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
