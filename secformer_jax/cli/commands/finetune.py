"""`secformer finetune`: a model for one task, from any BERT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from secformer_jax.cli.commands.common import Choice, checked_length
from secformer_jax.cli.commands.training import check_out, finish, read_splits, working_folder
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.evaluation import tasks
from secformer_jax.models.checkpoint import load
from secformer_jax.training.finetune import finetune, with_head
from secformer_jax.training.loop import SAVE_SECONDS
from secformer_jax.training.recipe import Recipe
from secformer_jax.training.scoring import dev_score


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
    loaded = load(model)
    checked_length(max_length, loaded)
    headed = with_head(loaded, task, recipe.seed)
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
        trained = finetune(
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
