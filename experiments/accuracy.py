"""Accuracy on GLUE of every way to serve a BERT privately, in plaintext and emulated: SecFormer's Table 2.

    python experiments/accuracy.py --data-dir GLUE [--task STS-B ...] [--side secformer ...] [--model DIR]
        [--seed 0 ...] [--runs RUNS] [--folder DIR] [--plaintext] [--fresh] [--quick]

A teacher is fine-tuned for each task; students are distilled from it in the two stages of the paper, or fine-tuned with
their functions and no teacher; each is scored on the whole dev split. Every model is kept in --runs and every cell in
results/accuracy.json as soon as it is there, so a stopped run goes on by the same command. Epochs are those of two
cores (`EPOCHS`), chosen so that the table of one seed takes about half a day for all-MiniLM-L6-v2; --paper-epochs takes
the paper's, and each student then starts from its teacher alone. --model bert-base-uncased, from a local folder, gives
the paper's own backbone. --plaintext leaves the emulation out, and SPU is not needed then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from results import FOLDER, Check, Entry, Results, console, run, table

from secformer_jax.cli.commands import distill as distill_command
from secformer_jax.cli.commands import evaluate as evaluate_command
from secformer_jax.cli.commands import finetune as finetune_command
from secformer_jax.cli.commands.common import Choice, Protocol
from secformer_jax.cli.commands.training import calibrate, finish, read_report, read_splits
from secformer_jax.cli.report import Reporter
from secformer_jax.evaluation import tasks
from secformer_jax.models.checkpoint import load
from secformer_jax.training.arithmetic import average
from secformer_jax.training.distill import LOGITS_RECIPE, STATES_RECIPE, Weights
from secformer_jax.training.loop import Trained
from secformer_jax.training.recipe import Recipe
from secformer_jax.training.scoring import dev_score

TABLE_2 = ("STS-B", "MRPC", "RTE", "CoLA", "QNLI")
FIRST = "STS-B"
"""Its students are distilled from their teacher alone; the other tasks' start from what that changed in them."""
LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Epochs of a task on two cores: of the teacher (and of students without one), of stage 1 and of stage 2."""

    teacher: float
    states: float
    logits: float


EPOCHS = {
    "STS-B": Epochs(3, 3, 1),
    "MRPC": Epochs(4, 1, 1),
    "RTE": Epochs(4, 4, 1),
    "CoLA": Epochs(4, 2, 1),
    "QNLI": Epochs(2, 1, 1),
    "SST-2": Epochs(1, 1, 1),
}
TEACHER = Recipe(learning_rate=5e-5, evaluations=2, dropout=False)
SOUPS = {
    "SST-2": (
        dataclasses.replace(TEACHER, epochs=1, evaluations=4, warmup=0.06),
        dataclasses.replace(TEACHER, epochs=2, evaluations=4, dropout=True),
    )
}
"""Tasks whose teacher is the mean of several: on SST-2 it is better than each."""
STATES = dataclasses.replace(STATES_RECIPE, learning_rate=3e-4, batch_size=8, warmup=0.05, schedule="linear")
LOGITS = dataclasses.replace(LOGITS_RECIPE, learning_rate=3e-5, batch_size=16, evaluations=2)
WEIGHTS = Weights(scores=0.0)
"""Few epochs take higher rates than the paper's 5e-5 and 1e-5, smaller batches for more steps in their time, and
hidden states alone in stage 1: --paper-epochs takes its own."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One row of the table.

    Attributes:
        preset: what serves it.
        model: "teacher", "tuned/<preset>" (fine-tuned with those functions) or "distilled/<preset>".
    """

    preset: str
    model: str


SIDES = {
    "plain": Side("exact", "teacher"),
    "secformer": Side("secformer", "distilled/secformer"),
    "mpcformer": Side("mpcformer", "distilled/mpcformer"),
    # The same students: their GeLU was the sine series, which is within 0.02 of the one that fast computes.
    "fast": Side("fast", "distilled/secformer"),
    "puma": Side("puma", "teacher"),
    "drop-in": Side("drop-in", "teacher"),
    "secformer without distillation": Side("secformer", "tuned/secformer"),
    "mpcformer without distillation": Side("mpcformer", "tuned/mpcformer"),
}
TEACHERS = {"STS-B": 0.86, "MRPC": 0.86, "SST-2": 0.90}
"""What a MiniLM teacher should reach."""
GREATEST_LOSS = 0.015


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all cells share."""

    data_dir: Path | None
    runs: Path
    model: str
    limit: int | None
    paper: bool
    plaintext: bool

    def trained(self, kind: str, task: str, seed: int) -> Path:
        """The folder of a model, trained unless it is there (or where its training was stopped)."""
        name = f"{Path(self.model).name}-{kind.replace('/', '-')}-{task}-{seed}{'-quick' if self.limit else ''}"
        out = self.runs / name
        if out.is_dir():
            return out
        what, _, preset = kind.partition("/")
        epochs = Epochs(1, 1, 1) if self.limit else EPOCHS[task]
        shared: dict[str, Any] = {
            "name": task,
            "data_dir": self.data_dir,
            "out": out,
            "max_length": LENGTH,
            "limit": self.limit,
        }
        if what == "distilled":
            distill_command.run(
                Reporter(False),
                teacher=str(self.trained("teacher", task, seed)),
                choice=Choice(preset),
                shape=distill_command.Shape(),
                states_epochs=None if self.paper else epochs.states,
                states=dataclasses.replace(STATES_RECIPE if self.paper else STATES, seed=seed),
                logits=dataclasses.replace(
                    LOGITS_RECIPE if self.paper else dataclasses.replace(LOGITS, epochs=epochs.logits), seed=seed
                ),
                weights=Weights() if self.paper else WEIGHTS,
                like=None if self.paper or task == FIRST else self._first_pair(kind, seed),
                **shared,
            )
        elif what == "teacher" and task in SOUPS and not self.paper:
            self._soup(out, task, seed, shared)
        else:
            finetune_command.run(
                Reporter(False),
                model=self.model,
                choice=Choice(preset or "exact"),
                recipe=dataclasses.replace(TEACHER, epochs=epochs.teacher, seed=seed),
                **shared,
            )
        return out

    def _first_pair(self, kind: str, seed: int) -> tuple[str, str]:
        """The student of the first task and its teacher."""
        return str(self.trained(kind, FIRST, seed)), str(self.trained("teacher", FIRST, seed))

    def _soup(self, out: Path, task: str, seed: int, shared: dict[str, Any]) -> None:
        """Train every part of a soup that is not there, and write their mean."""
        parts = [out.with_name(f"{out.name}-part{i}") for i in range(len(SOUPS[task]))]
        for part, recipe in zip(parts, SOUPS[task], strict=True):
            if not part.is_dir():
                recipe = dataclasses.replace(recipe, seed=seed, epochs=1 if self.limit else recipe.epochs)
                finetune_command.run(
                    Reporter(False), model=self.model, choice=Choice("exact"), recipe=recipe, **{**shared, "out": part}
                )
        mean, about = average([load(part) for part in parts]), tasks.find(task)
        splits = read_splits(mean, about, self.data_dir, LENGTH, self.limit)
        score = dev_score(mean, Choice("exact").approximations(), about, splits.dev)(mean.params)
        reports = [read_report(part) for part in parts]
        told = {"kind": "mean", "task": task, "metric_name": about.metric, "parts": reports}
        finish(Reporter(False), out, mean, None, Trained(mean.params, score, []), splits.train, told)

    def cell(self, side: Side, task: str, seed: int) -> Entry:
        """Both columns of one side."""
        folder = self.trained(side.model, task, seed)
        self._calibrate(folder, side, task)
        rows = evaluate_command.run(
            Reporter(True),
            model=str(folder),
            names=[task],
            data_dir=self.data_dir,
            # Exact functions are the plaintext answer; under SPU they are its own approximations, preset spu.
            runtime="plaintext" if self.plaintext or side.preset == "exact" else "plaintext,emulated",
            choice=Choice(side.preset),
            protocol=Protocol(),
            calibration=None,
            limit=self.limit,
            batch_size=16,
            max_length=LENGTH,
            truncate=True,
        )
        columns = {f"{row['runtime']}": row["metric"] for row in rows}
        nearness = rows[-1]["agreement"].get("plaintext", {})
        kept = {name: rows[0][name] for name in ("metric_name", "count", "note")}
        seconds = sum(row["seconds"] for row in rows)
        told = {"model": folder.name, "trained": read_report(folder), "device": jax.devices()[0].device_kind}
        return {**columns, **kept, **nearness, **told, "seconds": seconds}

    def _calibrate(self, folder: Path, side: Side, task: str) -> None:
        """Ranges of a teacher for a preset that needs some, on training sentences."""
        if side.preset != "drop-in" or (folder / "calibration.json").is_file():
            return
        model = load(folder)
        splits = read_splits(model, tasks.find(task), self.data_dir, LENGTH, self.limit)
        calibrate(Reporter(False), model, Choice(side.preset), splits.train)


def main(
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="GLUE's TSV files.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Some of the table's tasks, or SST-2.")] = None,
    side: Annotated[list[str] | None, typer.Option("--side", help=", ".join(SIDES))] = None,
    model: Annotated[str, typer.Option("--model", help="The backbone: a local BERT folder, or minilm.")] = "minilm",
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Of all that is trained; 0 unless said.")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Where models are kept.")] = Path("runs"),
    folder: Annotated[Path, typer.Option("--folder", help="Where the results file goes.")] = FOLDER,
    paper_epochs: Annotated[bool, typer.Option("--paper-epochs", help="The paper's epochs and rates.")] = False,
    plaintext: Annotated[bool, typer.Option("--plaintext", help="No emulation, and so no SPU.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure all cells again; models stay.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few examples, to see that it runs.")] = False,
) -> None:
    """Measure what is asked for and not there yet, and print the table of all that is."""
    names = [tasks.find(name).name for name in task or TABLE_2]
    for name in side or ():
        if name not in SIDES:
            raise typer.BadParameter(f"unknown side {name!r}: choose one of {', '.join(SIDES)}")
    sides = {name: SIDES[name] for name in side or SIDES}
    bench = Bench(data_dir, runs, model, 32 if quick else None, paper_epochs, plaintext)
    backbone = Path(model).name
    results = Results("accuracy" if backbone == "minilm" else f"accuracy-{backbone}", folder, fresh=fresh)
    for label, each in sides.items():
        for name in names:
            for number in seed or (0,):
                results.cell(f"{label}/{name}/{number}", lambda e=each, n=name, s=number: bench.cell(e, n, s))  # type: ignore[misc]
                report(results, quick)


def report(results: Results, quick: bool) -> None:
    """Print the table and the checks of the cells that are there; of a few examples there is nothing to check."""
    checks = [] if quick else teacher_checks(results.cells) + comparison(results.cells)
    seeds = len({key.rpartition("/")[2] for key in results.cells})
    splits = sorted({cell["note"] for cell in results.cells.values() if cell["note"]})
    title = "; ".join((f"GLUE dev, 100 times the official metric, {seeds} seed{'s' * (seeds > 1)}", *splits))
    found = [name for name in (*TABLE_2, "SST-2") if any(f"/{name}/" in key for key in results.cells)]
    rows = []
    for label in SIDES:
        for column in ("plaintext", "emulated"):
            values = [scores(results.cells, label, name, column) for name in found]
            if any(values):
                whole = [
                    float(np.mean(value))
                    for name, value in zip(found, values, strict=True)
                    if name in TABLE_2 and value
                ]
                mean = shown([float(np.mean(whole))]) if len(whole) == len(TABLE_2) else ""
                rows.append((label, column, *map(shown, values), mean))
    columns = ("side", "arithmetic", *found, "Table 2 mean")
    shown_table = table(title, columns, rows, 2)
    epochs = {name: dataclasses.asdict(each) for name, each in EPOCHS.items()}
    results.publish(console(), [shown_table], checks, epochs=epochs, splits=splits)


def scores(cells: dict[str, Entry], label: str, task: str, column: str) -> list[float]:
    """The figures of all seeds that are there."""
    prefix = f"{label}/{task}/"
    return [cell[column] for key, cell in cells.items() if key.startswith(prefix) and column in cell]


def shown(values: Sequence[float]) -> str:
    """Mean, and the spread where there are several seeds."""
    if not values:
        return ""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * (max(values) - min(values)):.1f})"


def teacher_checks(cells: dict[str, Entry]) -> list[Check]:
    """Teachers against what they should reach."""
    return [
        Check(f"teacher {name}", float(np.mean(found)), limit, at_least=True)
        for name, limit in TEACHERS.items()
        if (found := scores(cells, "plain", name, "plaintext"))
    ]


def comparison(cells: dict[str, Entry]) -> list[Check]:
    """SecFormer's students, emulated, against their teachers and MPCFormer's students, over the tasks that all have."""

    def mean(label: str, column: str, over: Iterable[str]) -> float:
        return float(np.mean([np.mean(scores(cells, label, name, column)) for name in over]))

    def both(label: str, column: str) -> list[str]:
        ours = [name for name in TABLE_2 if scores(cells, "secformer", name, "emulated")]
        return [name for name in ours if scores(cells, label, name, column)]

    checks = []
    if common := both("plain", "plaintext"):
        lost = mean("plain", "plaintext", common) - mean("secformer", "emulated", common)
        checks.append(Check(f"secformer's loss against its teachers, {len(common)} tasks", lost, GREATEST_LOSS))
    if common := both("mpcformer", "emulated"):
        gain = mean("secformer", "emulated", common) - mean("mpcformer", "emulated", common)
        checks.append(Check(f"secformer's gain over mpcformer, {len(common)} tasks", gain, 0.0, at_least=True))
    return checks


if __name__ == "__main__":
    run(main)
