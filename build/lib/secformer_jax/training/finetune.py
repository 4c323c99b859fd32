"""Fine-tuning a checkpoint on one task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from secformer_jax.evaluation.tasks import Task
from secformer_jax.functions import presets
from secformer_jax.models import transformer as bert
from secformer_jax.models.calibrate import Progress
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import functions_for
from secformer_jax.models.transformer import Architecture
from secformer_jax.training.batches import Array, Batch, Dataset
from secformer_jax.training.loop import SAVE_SECONDS, Objective, Params, Score, Trained, train
from secformer_jax.training.precision import cast, in_float32
from secformer_jax.training.recipe import Recipe


def with_head(model: Checkpoint, task: Task, seed: int) -> Checkpoint:
    """The model with the task's classifier: its own where it has one for these labels, else a fresh one.

    A pooler that the checkpoint lacks is fresh as well.
    """
    head = "classification" if task.labels else "regression"
    names = task.label_names or task.labels or ("score",)
    if model.head == head and model.config.num_labels == task.num_labels:
        return model
    config = dataclasses.replace(model.config, id2label=names)
    params = flatten_dict(jax.tree.map(np.asarray, bert.init_params(config, head, jax.random.key(seed))))
    params |= {path: leaf for path, leaf in flatten_dict(model.params).items() if path[0] == "bert"}
    return dataclasses.replace(model, config=config, head=head, params=unflatten_dict(params))


def trainable(approximations: presets.Approximations) -> presets.Approximations:
    """The functions to train with: the preset's own, but for those whose constants come from calibration.

    Ranges move while a model trains, so constants for them can only be chosen at the end. Until then such a function
    stands in as what it approximates, within its stated error: the one that ranges are measured with.
    """
    measured = presets.families()[presets.family(approximations)]
    parts = {name: getattr(approximations, name) for name in approximations.names()}
    stand_ins = {name: getattr(measured, name) for name, part in parts.items() if part.needs_calibration}
    return presets.Approximations(**{**parts, **stand_ins})


def apply_bert(
    config: Architecture,
    head: str,
    approximations: presets.Approximations,
    params: Params,
    batch: Batch,
    *,
    dtype: str = "float32",
    dropout: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits in float32, and the intermediates; with a key for dropout there is dropout."""
    functions = functions_for(config, approximations, length=batch.input_ids.shape[1])
    if dtype != "float32":
        params, functions = cast(params, dtype), in_float32(functions)
    result: Any = bert.build_model(config, functions, head).apply(
        {"params": params},
        batch.input_ids,
        batch.token_type_ids,
        jnp.asarray(batch.attention_mask, dtype),
        output_intermediates=True,
        deterministic=dropout is None,
        rngs=None if dropout is None else {"dropout": dropout},
    )
    logits, kept = result
    return logits.astype(jnp.float32), kept


def label_loss(logits: jax.Array, labels: Array) -> jax.Array:
    """Cross-entropy with class ids, or squared error against scores where there is one logit."""
    if logits.shape[-1] == 1:
        return jnp.mean(jnp.square(logits[:, 0] - labels))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def finetune(
    model: Checkpoint,
    approximations: presets.Approximations,
    data: Dataset,
    recipe: Recipe,
    score: Score,
    folder: Path,
    about: Mapping[str, Any],
    *,
    progress: Progress = lambda done, total: None,
    save_seconds: float = SAVE_SECONDS,
) -> Trained:
    """Train a model (from `with_head`) with these functions on the labels; see `loop.train`."""
    objective = _objective(model, trainable(approximations), recipe)
    return train(
        objective, model.params, {}, data, recipe, score, folder, about, progress=progress, save_seconds=save_seconds
    )


def _objective(model: Checkpoint, approximations: presets.Approximations, recipe: Recipe) -> Objective:
    def objective(params: Params, _: Params, batch: Batch, key: jax.Array) -> jax.Array:
        dropout = key if recipe.dropout else None
        logits, _ = apply_bert(
            model.config, model.head, approximations, params, batch, dtype=recipe.dtype, dropout=dropout
        )
        return label_loss(logits, batch.labels)

    return objective
