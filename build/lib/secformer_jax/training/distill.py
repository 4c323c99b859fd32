"""Distillation of a teacher into a student with other nonlinear functions, in two stages.

Recipe: SecFormer (Luo et al., Findings of ACL 2024), which is MPCFormer's (Li et al., ICLR 2023): hidden states and
attention scores first, then logits. The student starts from the teacher's weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.models.calibrate import Progress
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.layers import Intermediates
from secformer_jax.training.batches import Array, Batch, Dataset
from secformer_jax.training.finetune import apply_bert, label_loss, trainable
from secformer_jax.training.loop import SAVE_SECONDS, Objective, Params, Score, Trained, train
from secformer_jax.training.penalty import Ranges, range_penalty
from secformer_jax.training.recipe import Recipe

STATES_RECIPE = Recipe(epochs=10, learning_rate=5e-5, warmup=0.0, schedule="constant", dropout=False)
"""Stage 1 of the paper; epochs by task in `STATES_EPOCHS`."""
LOGITS_RECIPE = Recipe(epochs=5, learning_rate=1e-5, warmup=0.1, dropout=False)
"""Stage 2 of the paper."""
STATES_EPOCHS = {"CoLA": 50, "MRPC": 20, "RTE": 50, "STS-B": 100, "QNLI": 10, "SST-2": 10}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of the terms of both losses that a recipe may leave out or add; as they are, the paper's.

    Attributes:
        scores: the attention scores, beside the hidden states (stage 1). With 2Quad a student whose scores are the
            teacher's attends to other keys than the teacher, whose softmax is sharper: 0 lets it find its own.
        labels: the loss against the labels, beside the teacher's logits (stage 2).
        ranges: `penalty.range_penalty`, in both stages.
    """

    scores: float = 1.0
    labels: float = 0.0
    ranges: float = 0.0


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher (with exact functions) and the student that learns from it.

    Attributes:
        layers: the teacher's layer that each of the student's follows.
        approximations: the student's functions.
        weights: of the terms of the losses.
        ranges: what `penalty.range_penalty` allows.
    """

    teacher: Checkpoint
    student: Checkpoint
    layers: tuple[int, ...]
    approximations: presets.Approximations
    weights: Weights = Weights()
    ranges: Ranges = dataclasses.field(default_factory=Ranges)

    def __post_init__(self) -> None:
        teacher, student = self.teacher.config, self.student.config
        if len(self.layers) != student.num_hidden_layers:
            raise UserError(f"{len(self.layers)} layers to follow, and the student has {student.num_hidden_layers}")
        for name in ("hidden_size", "num_attention_heads", "vocab_size", "num_labels"):
            if getattr(teacher, name) != getattr(student, name):
                raise UserError(
                    f"{name} {getattr(student, name)} of the student, and {getattr(teacher, name)} of the teacher: "
                    "they must be equal"
                )


def states_loss(
    student: Intermediates, teacher: Intermediates, mask: Array, layers: Sequence[int], scores: float = 1.0
) -> jax.Array:
    """Mean squared error of all hidden states, embeddings included, and `scores` times that of all attention scores.

    Padded positions and masked keys don't count. Student layer i is held to the teacher's layer `layers[i]`.
    """
    at = mask[:, :, None]
    pairs = mask[:, None, :, None] * mask[:, None, None, :]

    def error(ours: str, theirs: str, where: Array) -> jax.Array:
        one, other = student[ours].astype(jnp.float32), teacher[theirs].astype(jnp.float32)
        counted = jnp.broadcast_to(where, one.shape)
        return jnp.sum(jnp.square(one - other) * counted) / jnp.sum(counted)

    total = error("hidden_states.0", "hidden_states.0", at)
    for i, layer in enumerate(layers):
        total += error(f"hidden_states.{i + 1}", f"hidden_states.{layer + 1}", at)
        if scores:
            total += scores * error(f"layer.{i}.softmax", f"layer.{layer}.softmax", pairs)
    return total


def logits_loss(student: jax.Array, teacher: jax.Array, labels: Array) -> jax.Array:
    """Cross-entropy with the teacher's probabilities (temperature 1); for regression squared error against scores."""
    if student.shape[-1] == 1:
        return label_loss(student, labels)
    return jnp.mean(optax.softmax_cross_entropy(student, jax.nn.softmax(teacher)))


def distill(
    pair: Pair,
    data: Dataset,
    states: Recipe | None,
    logits: Recipe,
    score: Score,
    folder: Path,
    about: Mapping[str, Any],
    *,
    progress: Progress = lambda done, total: None,
    save_seconds: float = SAVE_SECONDS,
) -> tuple[Trained | None, Trained]:
    """Both stages, or with `states` None the second alone; each goes on where it was stopped. See `loop.train`."""
    steps = [recipe.steps(data.batches_in_epoch(recipe.batch_size)) for recipe in (states, logits) if recipe]
    params, first = pair.student.params, None

    def run(objective: Objective, recipe: Recipe, name: str, score: Score | None, before: int) -> Trained:
        return train(
            objective,
            params,
            pair.teacher.params,
            data,
            recipe,
            score,
            folder / name,
            {**about, "stage": name},
            progress=lambda done, total: progress(before + done, sum(steps)),
            save_seconds=save_seconds,
        )

    if states is not None:
        first = run(_objective(pair, states, with_states=True), states, "states", None, 0)
        params = first.params
    second = run(_objective(pair, logits, with_states=False), logits, "logits", score, sum(steps[:-1]))
    return first, second


def _objective(pair: Pair, recipe: Recipe, *, with_states: bool) -> Objective:
    exact, own, weights = presets.preset("exact"), trainable(pair.approximations), pair.weights
    needs_teacher = with_states or pair.student.head != "regression"

    def objective(params: Params, teacher_params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        dropout = key if recipe.dropout else None
        config, head = pair.student.config, pair.student.head
        logits, kept = apply_bert(config, head, own, params, batch, dtype=recipe.dtype, dropout=dropout)
        teacher_logits, teacher_kept = logits, kept
        if needs_teacher:
            config, head = pair.teacher.config, pair.teacher.head
            teacher_logits, teacher_kept = apply_bert(config, head, exact, teacher_params, batch, dtype=recipe.dtype)
        if with_states:
            loss = states_loss(kept, teacher_kept, batch.attention_mask, pair.layers, weights.scores)
        else:
            loss = logits_loss(logits, teacher_logits, batch.labels)
            if weights.labels:
                loss += weights.labels * label_loss(logits, batch.labels)
        if weights.ranges:
            loss += weights.ranges * range_penalty(kept, batch.attention_mask, pair.ranges)
        return loss

    return objective
