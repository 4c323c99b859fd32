"""The training loop: steps, dev scores, the best parameters, and going on exactly where a stopped run was."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from secformer_jax.errors import UserError
from secformer_jax.models.calibrate import Progress
from secformer_jax.training import state
from secformer_jax.training.batches import Batch, Dataset
from secformer_jax.training.recipe import Recipe, make_optimizer

Params = Any
Objective = Callable[[Params, Params, Batch, jax.Array], jax.Array]
"""(trained params, fixed params, batch, dropout key) -> loss."""
Score = Callable[[Params], float]
"""Dev metric of the parameters; greater is better."""

SAVE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run's parameters, their dev score, and all scores: dicts of step, epoch, loss and score.

    The parameters are those with the best score; without a score (None) the last ones.
    """

    params: Params
    score: float | None
    history: list[dict[str, float]]


def train(
    objective: Objective,
    params: Params,
    fixed: Params,
    data: Dataset,
    recipe: Recipe,
    score: Score | None,
    folder: Path,
    about: Mapping[str, Any],
    *,
    progress: Progress = lambda done, total: None,
    save_seconds: float = SAVE_SECONDS,
) -> Trained:
    """Minimise the objective from `params` on, and return the parameters with the best dev score, if there is one.

    The state is kept in `folder`; a run that finds one goes on from it, and ends with the same parameters bit for bit
    as one that was never stopped. `about` (plain JSON) says what is trained and must be the same then.

    Raises:
        UserError: a state of another run, or a loss that is not finite.
    """
    per_epoch = data.batches_in_epoch(recipe.batch_size)
    total = recipe.steps(per_epoch)
    optimizer = make_optimizer(recipe, total)
    run = _Run(folder, {**about, **dataclasses.asdict(recipe)})
    params, best, opt_state = run.resume(jax.tree.map(np.asarray, params), optimizer.init(params))
    update = _update(objective, optimizer)
    # Spread over the epoch, its end included.
    due = {math.ceil(per_epoch * (i + 1) / recipe.evaluations) for i in range(recipe.evaluations)}
    key, saved, losses = jax.random.key(recipe.seed, impl="rbg"), time.monotonic(), run.losses
    order: list[np.ndarray] = []
    step = run.step
    while step < total:
        epoch, place = divmod(step, per_epoch)
        if place == 0 or not order:
            order = data.epoch(recipe.batch_size, recipe.seed, epoch)
        batch = data.batch(order[place])
        params, opt_state, loss = update(params, opt_state, fixed, batch, jax.random.fold_in(key, step))
        losses.append(float(loss))
        step += 1
        scored = place + 1 in due or step == total
        if scored:
            mean = float(np.mean(losses))
            if not math.isfinite(mean):
                raise UserError(f"the loss is {mean} at step {step}: lower --learning-rate")
            entry = {"step": step, "epoch": step / per_epoch, "loss": mean}
            if score is not None:
                entry["score"] = float(score(params))
                if not run.history or entry["score"] > run.best_score():
                    best = run.keep_best(params)
            run.history.append(entry)
            losses.clear()
        if scored or time.monotonic() - saved >= save_seconds:
            run.save(step, params, opt_state)
            saved = time.monotonic()
        progress(step, total)
    if score is None:
        return Trained(jax.tree.map(np.array, params), None, run.history)
    return Trained(best, run.best_score(), run.history)


def _update(objective: Objective, optimizer: optax.GradientTransformation) -> Callable:
    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Params, opt_state: Any, fixed: Params, batch: Batch, key: jax.Array) -> tuple:
        loss, gradients = jax.value_and_grad(objective)(params, fixed, batch, key)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return update


class _Run:
    """What a run keeps on disk: state.safetensors, and best.safetensors beside it."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._state, self._best, self._about = folder / "state.safetensors", folder / "best.safetensors", dict(about)
        self.step = 0
        self.losses: list[float] = []
        self.history: list[dict[str, float]] = []

    def resume(self, params: Params, opt_state: Any) -> tuple[Params, Params, Any]:
        """(parameters, best parameters, optimizer state): as stored, or else as given."""
        if not self._state.is_file():
            return params, params, opt_state
        (params, opt_state), stored = state.load(self._state, (params, opt_state))
        if stored["about"] != self._about:
            changed = sorted(name for name in self._about if stored["about"].get(name) != self._about[name])
            raise UserError(
                f"{self._state.parent} holds a run with other settings ({', '.join(changed)}): "
                "use the same ones, remove it, or choose another --out"
            )
        self.step, self.losses, self.history = stored["step"], stored["losses"], stored["history"]
        best = state.load(self._best, params)[0] if self._best.is_file() else params
        return params, best, opt_state

    def best_score(self) -> float:
        """The greatest so far."""
        return max(each["score"] for each in self.history)

    def keep_best(self, params: Params) -> Params:
        """Write them, and return a copy that no later step overwrites."""
        copy = jax.tree.map(np.array, params)
        state.save(self._best, copy, {})
        return copy

    def save(self, step: int, params: Params, opt_state: Any) -> None:
        """Write the state after a step."""
        about = {"about": self._about, "step": step, "losses": self.losses, "history": self.history}
        state.save(self._state, (params, opt_state), about)
