"""The mean of several fine-tuned models: one model, as fast as each, and often better than the best of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from secformer_jax.checkpoint import Checkpoint
from secformer_jax.errors import UserError


def average(models: Sequence[Checkpoint]) -> Checkpoint:
    """The first model with the mean of all parameters.

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
