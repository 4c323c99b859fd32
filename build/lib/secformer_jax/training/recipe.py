"""How long, how fast and from which seed to train, and the optimizer that follows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import optax

from secformer_jax.errors import UserError

SCHEDULES = ("linear", "constant")
DTYPES = ("float32", "bfloat16")
_NOT_DECAYED = ("bias", "scale")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        epochs: passes over the training split; a part of one is possible.
        learning_rate: the greatest one.
        batch_size: examples a step.
        warmup: the part of all steps over which the learning rate rises from 0.
        schedule: after that "linear", down to 0 at the last step, or "constant".
        weight_decay: AdamW's; none on biases and LayerNorm.
        clip: greatest global norm of a gradient.
        seed: of everything drawn: the order of the examples, dropout, a new head.
        evaluations: how often the dev split is scored in one epoch; the best parameters are kept.
        dtype: of the activations and of the copy of the weights that they meet; the weights themselves, nonlinear
            functions, losses and the optimizer are float32.
        dropout: whether there is any, at the rates of the model's config.
    """

    epochs: float = 3
    learning_rate: float = 3e-5
    batch_size: int = 32
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    evaluations: int = 1
    dtype: str = "float32"
    dropout: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)}: at least 1 was expected")
        for name in ("epochs", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)}: a number above 0 was expected")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup {self.warmup}: a part of all steps, from 0 to below 1, was expected")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: 0 or more was expected")
        for value, known in ((self.schedule, SCHEDULES), (self.dtype, DTYPES)):
            if value not in known:
                raise UserError(f"{value!r} is unknown: choose one of {', '.join(known)}")

    def steps(self, per_epoch: int) -> int:
        """Steps in all, where an epoch has so many."""
        return max(1, round(self.epochs * per_epoch))


def make_optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """AdamW after clipping, for a run of that many steps in all."""
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adamw(make_schedule(recipe, steps), weight_decay=recipe.weight_decay, mask=decayed),
    )


def make_schedule(recipe: Recipe, steps: int) -> optax.Schedule:
    """Step -> learning rate."""
    warm = round(recipe.warmup * steps)
    last = 0.0 if recipe.schedule == "linear" else recipe.learning_rate
    rise = optax.linear_schedule(0.0, recipe.learning_rate, max(warm, 1))
    rest = optax.linear_schedule(recipe.learning_rate, last, max(steps - warm, 1))
    return optax.join_schedules([rise, rest], [warm])


def decayed(params: Any) -> Any:
    """Which parameters have weight decay: all but biases and LayerNorm."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, params)
