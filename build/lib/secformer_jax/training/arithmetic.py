"""Arithmetic of whole models: the mean of several, and what training changed in one added to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.models.checkpoint import Checkpoint


def average(models: Sequence[Checkpoint]) -> Checkpoint:
    """The first model with the mean of all parameters: as fast as each, and often better than the best of them.

    Source: model soups (Wortsman et al., ICML 2022), the uniform soup. All models must have been fine-tuned from the
    same weights, a fresh head's included (one seed, different recipes).

    Raises:
        UserError: models of different shapes.
    """
    first = models[0]
    shapes = [jax.tree.map(np.shape, model.params) for model in models]
    if any(each != shapes[0] for each in shapes):
        raise UserError("models of different shapes have no mean: pass models that were fine-tuned from the same one")
    params = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float32), *(each.params for each in models))
    return dataclasses.replace(first, params=params)


def transfer(model: Checkpoint, student: Checkpoint, teacher: Checkpoint) -> Checkpoint:
    """The model with what distillation changed in another task's pair added to its embeddings and layers.

    Most of what a student learns is to do with other functions what softmax and GeLU did, which is the same for every
    task; the model's own pooler and head stay. Source: task arithmetic (Ilharco et al., ICLR 2023).

    Raises:
        UserError: encoders of different shapes.
    """
    base, after, before = ({name: each.params["bert"][name] for name in _PARTS} for each in (model, student, teacher))
    if not jax.tree.map(np.shape, base) == jax.tree.map(np.shape, after) == jax.tree.map(np.shape, before):
        raise UserError(
            "models of different shapes: what changed in a student can be added to a model with the same layers, "
            "sizes and vocabulary"
        )
    moved = jax.tree.map(lambda *leaves: np.float32(leaves[0]) + leaves[1] - leaves[2], base, after, before)
    return dataclasses.replace(model, params={**model.params, "bert": {**model.params["bert"], **moved}})


_PARTS = ("embeddings", "encoder")
