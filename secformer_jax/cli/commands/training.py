"""What `finetune` and `distill` share: a task's splits, and a trained model's folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secformer_jax.cli.commands.common import Choice
from secformer_jax.cli.report import Entry, Reporter, versions
from secformer_jax.errors import UserError
from secformer_jax.evaluation import tasks
from secformer_jax.evaluation.predict import encode_examples
from secformer_jax.evaluation.tasks import Examples, Task
from secformer_jax.functions import calibration as calibrations
from secformer_jax.functions import presets
from secformer_jax.models.calibrate import calibrate_model
from secformer_jax.models.checkpoint import Checkpoint, load, save
from secformer_jax.models.folders import tokenizer_files
from secformer_jax.models.text import Tokenizer
from secformer_jax.models.vocabulary import UsedPieces
from secformer_jax.training.batches import Dataset
from secformer_jax.training.loop import Trained

REPORT_FILE = "training.json"
CALIBRATION_SENTENCES = 512


@dataclasses.dataclass(frozen=True)
class Splits:
    """A task's training and dev splits as tokens, and where they aren't the official ones."""

    train: Dataset
    dev: Dataset
    note: str | None

    def used_pieces(self) -> UsedPieces:
        """The word pieces that there are in either."""
        return UsedPieces.of(self.train.encoded, self.dev.encoded)

    def renumbered(self, pieces: UsedPieces) -> Splits:
        """The same, for a model with these pieces alone."""
        train, dev = (dataclasses.replace(each, encoded=pieces.texts(each.encoded)) for each in (self.train, self.dev))
        return Splits(train, dev, self.note)


def read_splits(model: Checkpoint, task: Task, data_dir: Path | None, max_length: int, limit: int | None) -> Splits:
    """Read and encode both; texts longer than `max_length` are cut. `limit`: only the first training examples."""
    # `finish` copies them: refused before hours of training, not after.
    tokenizer_files(model.tokenizer_dir)
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    train, dev = tasks.read(task, data_dir, "train", limit), tasks.read(task, data_dir, "dev")
    if not len(train) or not len(dev):
        raise UserError(f"{task.name}: a split without an example; use GLUE's official TSV files")

    def encoded(examples: Examples) -> Dataset:
        return Dataset(encode_examples(model, tokenizer, examples, max_length, True), examples.labels)

    return Splits(encoded(train), encoded(dev), train.note)


def working_folder(out: Path) -> Path:
    """Where the state of a run is kept until its model is written to `out`."""
    return out.with_name(f"{out.name}.training")


def check_out(out: Path) -> None:
    """Refuse to write over a model."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty: choose another --out or remove it")


def finish(
    reporter: Reporter,
    out: Path,
    model: Checkpoint,
    choice: Choice | None,
    trained: Trained,
    data: Dataset,
    about: Mapping[str, Any],
) -> Entry:
    """Write the model with all that belongs beside it, and remove the state of its training.

    With a choice of functions its name goes into the folder, and the ranges of their family, measured on sentences
    of the training split at its padded length.
    """
    staged = working_folder(out) / "model"
    save(model, staged, replace=True)
    report = {**about, "score": trained.score, "history": trained.history, "versions": versions()}
    (staged / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if choice is not None:
        choice.save(staged)
        calibrate(reporter, load(staged), choice, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        out.rmdir()
    staged.rename(out)
    shutil.rmtree(working_folder(out))
    reporter.say(f"dev {about['metric_name']} {trained.score:.4f}; the model is in {out}")
    return {**report, "path": str(out)}


def read_report(folder: Path) -> Entry:
    """What `finish` said of a model: its task, recipe, scores and versions."""
    if not (folder / REPORT_FILE).is_file():
        raise UserError(f"{folder} has no {REPORT_FILE}: a model made by `secformer distill` was expected")
    return json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))


def calibrate(reporter: Reporter, model: Checkpoint, choice: Choice, data: Dataset) -> None:
    """Measure the ranges for a choice of functions on the first training sentences, and the longest."""
    tokens = data.tokens()
    longest = tokens.argsort(kind="stable")[::-1][:CALIBRATION_SENTENCES]
    rows = [*range(min(CALIBRATION_SENTENCES, len(data))), *(int(i) for i in longest)]
    encoded = data.encoded.rows(np.array(rows))
    with reporter.progress("measuring ranges") as progress:
        measured = calibrate_model(model, encoded, [presets.family(choice.approximations())], progress=progress)
    calibrations.save(measured, model.path)
