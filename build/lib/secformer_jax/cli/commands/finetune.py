"""`secformer finetune`: a model for one task, from any BERT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from secformer_jax.cli.commands.common import Choice, checked_length
from secformer_jax.cli.commands.training import check_out, finish, read_splits, working_folder
from secformer_jax.cli.options import (
    BatchSize,
    DataDir,
    Dropout,
    Dtype,
    Evaluations,
    Gelu,
    Json,
    LayerNorm,
    Model,
    Out,
    Seed,
    Softmax,
    TrainLength,
    TrainLimit,
    TrainTask,
)
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.evaluation import tasks
from secformer_jax.models.checkpoint import load
from secformer_jax.training import finetune as training
from secformer_jax.training.loop import SAVE_SECONDS
from secformer_jax.training.recipe import Recipe
from secformer_jax.training.scoring import dev_score


def finetune(
    model: Model,
    task: TrainTask,
    out: Out,
    data_dir: DataDir = None,
    preset: Annotated[str, typer.Option("--preset", help="Train with these functions; exact.")] = "exact",
    gelu: Gelu = None,
    softmax: Softmax = None,
    layer_norm: LayerNorm = None,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training split.")] = 3,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="The greatest one.")] = 3e-5,
    batch_size: BatchSize = 32,
    warmup: Annotated[float, typer.Option("--warmup", help="Part of all steps.")] = 0.1,
    seed: Seed = 0,
    evaluations: Evaluations = 1,
    dtype: Dtype = "float32",
    dropout: Dropout = True,
    max_length: TrainLength = 128,
    limit: TrainLimit = None,
    json: Json = False,
) -> None:
    """Train a model on a GLUE task: a teacher, or with another preset a student without distillation."""
    reporter = Reporter(json)
    recipe = Recipe(
        epochs, learning_rate, batch_size, warmup, seed=seed, evaluations=evaluations, dtype=dtype, dropout=dropout
    )
    entries = run(
        reporter,
        model=model,
        name=task,
        data_dir=data_dir,
        out=out,
        choice=Choice(preset, gelu, softmax, layer_norm),
        recipe=recipe,
        max_length=max_length,
        limit=limit,
    )
    reporter.results(entries)


def run(
    reporter: Reporter,
    *,
    model: str,
    name: str,
    data_dir: Path | None,
    out: Path,
    choice: Choice,
    recipe: Recipe,
    max_length: int,
    limit: int | None,
    save_seconds: float = SAVE_SECONDS,
) -> list[Entry]:
    """Train on the task's labels, keep the parameters with the best dev metric, and write the model to `out`.

    Word pieces that neither split has stay as they were.
    """
    task, approximations = tasks.find(name), choice.approximations()
    check_out(out)
    loaded = load(model, backbone=True)
    checked_length(max_length, loaded)
    headed = training.with_head(loaded, task, recipe.seed)
    splits = read_splits(headed, task, data_dir, max_length, limit)
    pieces = splits.used_pieces()
    narrow, narrowed = pieces.model(headed), splits.renumbered(pieces)
    about: dict[str, Any] = {
        "kind": "finetune",
        "task": task.name,
        "metric_name": task.metric,
        "from": loaded.fingerprint,
        "functions": choice.entry(),
        "max_length": max_length,
        "used_pieces": len(pieces.ids),
        "limit": limit,
        "note": splits.note,
    }
    with reporter.progress(f"fine-tuning on {task.name}, {len(splits.train):,} examples") as progress:
        trained = training.finetune(
            narrow,
            approximations,
            narrowed.train,
            recipe,
            dev_score(narrow, approximations, task, narrowed.dev),
            working_folder(out),
            about,
            progress=progress,
            save_seconds=save_seconds,
        )
    best = dataclasses.replace(headed, params=pieces.restored(trained.params, headed))
    # A model with exact functions is a teacher, and answers with any preset.
    served = None if choice.preset == "exact" else choice
    about |= {"recipe": dataclasses.asdict(recipe)}
    return [finish(reporter, out, best, served, trained, splits.train, about)]
