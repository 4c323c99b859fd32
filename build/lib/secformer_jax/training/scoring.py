"""Dev scores while a model trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.evaluation import tasks
from secformer_jax.evaluation.predict import in_task_order, predict
from secformer_jax.evaluation.tasks import Task
from secformer_jax.functions import presets
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded
from secformer_jax.training.batches import Batch, Dataset
from secformer_jax.training.finetune import apply_bert, trainable
from secformer_jax.training.loop import Params, Score

BATCH_SIZE = 32


def dev_score(model: Checkpoint, approximations: presets.Approximations, task: Task, dev: Dataset) -> Score:
    """The task's headline metric on the dev split, in plaintext and float32; each length is compiled once."""
    functions = trainable(approximations)

    @jax.jit
    def logits_of(params: Params, batch: Batch) -> jax.Array:
        return apply_bert(model.config, model.head, functions, params, batch)[0]

    def score(params: Params) -> float:
        on_device = jax.tree.map(jnp.asarray, params)

        def forward(encoded: Encoded) -> np.ndarray:
            unlabelled = np.zeros(len(encoded.input_ids), np.float32)
            batch = Batch(encoded.input_ids, encoded.token_type_ids, encoded.attention_mask, unlabelled)
            return np.asarray(logits_of(on_device, batch))

        logits = predict(forward, dev.encoded, len(dev), BATCH_SIZE, lambda done, total: None)
        predictions = tasks.predict(task, in_task_order(task, model, logits))
        return next(iter(tasks.score(task, predictions, dev.labels).values()))

    return score
