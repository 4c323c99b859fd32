"""`secformer distill`: a student with other nonlinear functions, from a teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from secformer_jax.cli.commands.common import Choice, checked_length
from secformer_jax.cli.commands.training import check_out, finish, read_report, read_splits, working_folder
from secformer_jax.cli.options import (
    BatchSize,
    DataDir,
    Dropout,
    Dtype,
    Evaluations,
    Gelu,
    Json,
    LayerNorm,
    Out,
    Seed,
    Softmax,
    TrainLength,
    TrainLimit,
    TrainTask,
)
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.errors import UserError
from secformer_jax.evaluation import tasks
from secformer_jax.evaluation.predict import check_head
from secformer_jax.evaluation.tasks import Examples
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.training import distill as training
from secformer_jax.training.arithmetic import transfer
from secformer_jax.training.distill import STATES_EPOCHS, Pair, Weights
from secformer_jax.training.loop import SAVE_SECONDS
from secformer_jax.training.recipe import Recipe
from secformer_jax.training.scoring import dev_score
from secformer_jax.training.student import keep_layers, keep_positions, keep_vocabulary, uniform_layers


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a student keeps of its teacher: layers, as their number or as a list; word pieces; positions."""

    layers: str | None = None
    vocabulary: int | None = None
    positions: int | None = None

    def follow(self, depth: int) -> tuple[int, ...]:
        """The teacher's layers that the student's follow."""
        if self.layers is None:
            return tuple(range(depth))
        try:
            numbers = tuple(int(part) for part in self.layers.split(","))
        except ValueError:
            raise UserError(f"--layers {self.layers}: a number, or numbers as 1,3,5, was expected") from None
        return uniform_layers(numbers[0], depth) if "," not in self.layers else numbers


def distill(
    teacher: Annotated[str, typer.Option("--teacher", help="The fine-tuned model's folder.")],
    task: TrainTask,
    out: Out,
    data_dir: DataDir = None,
    preset: Annotated[str, typer.Option("--preset", help="The student's functions.")] = "secformer",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    like: Annotated[
        tuple[str, str] | None,
        typer.Option("--like", help="A student of another task, and its teacher: start there."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="How many of the teacher's, or which (1,3,5); all by default.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", help="Keep so many word pieces, the most used.")
    ] = None,
    positions: Annotated[int | None, typer.Option("--positions", help="Keep so many positions.")] = None,
    states_epochs: Annotated[
        float | None, typer.Option("--states-epochs", help="Of stage 1; the paper's; 0 leaves it out.")
    ] = None,
    states_learning_rate: Annotated[float, typer.Option("--states-learning-rate", help="Of stage 1.")] = 5e-5,
    logits_epochs: Annotated[float, typer.Option("--logits-epochs", help="Of stage 2.")] = 5,
    logits_learning_rate: Annotated[float, typer.Option("--logits-learning-rate", help="Of stage 2.")] = 1e-5,
    scores_weight: Annotated[
        float,
        typer.Option("--scores-weight", help="Of attention scores in stage 1."),
    ] = 1.0,
    range_penalty: Annotated[float, typer.Option("--range-penalty", help="Of a penalty on wide ranges.")] = 0.0,
    label_weight: Annotated[float, typer.Option("--label-weight", help="Of the labels in stage 2.")] = 0.0,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    evaluations: Evaluations = 1,
    dtype: Dtype = "float32",
    dropout: Dropout = False,
    max_length: TrainLength = 128,
    limit: TrainLimit = None,
    json: Json = False,
) -> None:
    """Teach a student with other functions what a teacher does: hidden states and scores, then logits."""
    if min(scores_weight, range_penalty, label_weight, states_epochs or 0) < 0:
        raise UserError("--scores-weight, --range-penalty, --label-weight and --states-epochs: 0 or more was expected")
    reporter = Reporter(json)
    entries = run(
        reporter,
        teacher=teacher,
        name=task,
        data_dir=data_dir,
        out=out,
        choice=Choice(preset, gelu, softmax, layer_norm),
        shape=Shape(layers, vocabulary, positions),
        states_epochs=states_epochs,
        states=Recipe(1, states_learning_rate, batch_size, 0.0, "constant", seed=seed, dtype=dtype, dropout=dropout),
        logits=Recipe(
            logits_epochs,
            logits_learning_rate,
            batch_size,
            seed=seed,
            evaluations=evaluations,
            dtype=dtype,
            dropout=dropout,
        ),
        weights=Weights(scores_weight, label_weight, range_penalty),
        like=like,
        max_length=max_length,
        limit=limit,
    )
    reporter.results(entries)


def run(
    reporter: Reporter,
    *,
    teacher: str,
    name: str,
    data_dir: Path | None,
    out: Path,
    choice: Choice,
    shape: Shape,
    states_epochs: float | None,
    states: Recipe,
    logits: Recipe,
    weights: Weights,
    like: tuple[str, str] | None = None,
    max_length: int,
    limit: int | None,
    save_seconds: float = SAVE_SECONDS,
) -> list[Entry]:
    """Stage 1 and stage 2; keep the parameters with the best dev metric of stage 2, and write the student to `out`.

    Word pieces that neither split has stay as they were.

    states_epochs: of stage 1; None for the paper's number for this task, 0 to leave the stage out.
    like: another task's student with the same functions, and its teacher: the student starts from what changed there.
    """
    task, approximations = tasks.find(name), choice.approximations()
    check_out(out)
    loaded = load(teacher)
    if loaded.head == "embedding":
        raise UserError(f"{teacher} has no classification head: run `secformer finetune` on {task.name} first")
    check_head(task, loaded)
    epochs = STATES_EPOCHS[task.name] if states_epochs is None else states_epochs
    reduced = _reduce(loaded, shape, tasks.read(task, data_dir, "train", limit), working_folder(out))
    layers = shape.follow(loaded.config.num_hidden_layers)
    start = keep_layers(reduced, layers)
    if like is not None:
        start = transfer(start, *_like(*like, choice))
    pair = Pair(reduced, start, layers, approximations, weights)
    checked_length(max_length, pair.student)
    splits = read_splits(pair.student, task, data_dir, max_length, limit)
    pieces = splits.used_pieces()
    narrow = dataclasses.replace(pair, teacher=pieces.model(pair.teacher), student=pieces.model(pair.student))
    narrowed = splits.renumbered(pieces)
    first = dataclasses.replace(states, epochs=epochs) if epochs else None
    about: dict[str, Any] = {
        "kind": "distill",
        "task": task.name,
        "metric_name": task.metric,
        "from": loaded.fingerprint,
        "like": None if like is None else load(like[0]).fingerprint,
        "functions": choice.entry(),
        "layers": list(layers),
        "vocabulary": pair.student.config.vocab_size,
        "scores_weight": weights.scores,
        "label_weight": weights.labels,
        "range_penalty": weights.ranges,
        "max_length": max_length,
        "used_pieces": len(pieces.ids),
        "limit": limit,
        "note": splits.note,
    }
    exact = Choice("exact").approximations()
    teacher_score = dev_score(narrow.teacher, exact, task, narrowed.dev)(narrow.teacher.params)
    reporter.say(f"teacher, as the student reads: dev {task.metric} {teacher_score:.4f}")
    with reporter.progress(f"distilling for {task.name}, {len(splits.train):,} examples") as progress:
        before, trained = training.distill(
            narrow,
            narrowed.train,
            first,
            logits,
            dev_score(narrow.student, approximations, task, narrowed.dev),
            working_folder(out),
            about,
            progress=progress,
            save_seconds=save_seconds,
        )
    about |= {
        "teacher_score": teacher_score,
        "states_recipe": None if first is None else dataclasses.asdict(first),
        "states_history": None if before is None else before.history,
        "recipe": dataclasses.asdict(logits),
    }
    best = dataclasses.replace(pair.student, params=pieces.restored(trained.params, pair.student))
    return [finish(reporter, out, best, choice, trained, splits.train, about)]


def _like(student: str, teacher: str, choice: Choice) -> tuple[Checkpoint, Checkpoint]:
    """A student and the teacher it was distilled from, refused unless they are that."""
    after, before = load(student), load(teacher)
    report = read_report(after.path)
    if report.get("from") != before.fingerprint:
        raise UserError(f"{student} was not distilled from {teacher}: pass a student's folder and its teacher's")
    if report["functions"] != choice.entry():
        raise UserError(f"{student} has other functions than the student asked for: pass one of the same preset")
    return after, before


def _reduce(teacher: Checkpoint, shape: Shape, train: Examples, folder: Path) -> Checkpoint:
    """The teacher with the student's vocabulary and positions, so that both read the same pieces."""
    reduced = teacher
    if shape.positions is not None:
        reduced = keep_positions(reduced, shape.positions)
    if shape.vocabulary is not None:
        texts = [*train.texts, *(train.pairs or ())]
        reduced = keep_vocabulary(reduced, texts, shape.vocabulary, folder / "tokenizer")
    return reduced
