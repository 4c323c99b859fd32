"""Predictions of a model for all examples of a task, batch by batch, whatever computes the logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.evaluation.tasks import Examples, Task
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.request import encode, request_head
from secformer_jax.models.text import Encoded, Tokenizer, padded_length

Forward = Callable[[Encoded], np.ndarray]


def check_head(task: Task, model: Checkpoint) -> None:
    """Refuse a model whose head is not the task's."""
    head, labels = request_head(model), model.config.num_labels
    if head == "similarity":
        if task.labels:
            raise UserError(f"{task.name} needs a classifier and this model has no classification head: fine-tune it")
    elif (head == "regression") != (not task.labels) or (task.labels and labels != task.num_labels):
        raise UserError(f"{task.name} needs {task.num_labels} logits, and this {head} model has {labels}: use its own")


def in_task_order(task: Task, model: Checkpoint, logits: np.ndarray) -> np.ndarray:
    """Logits in the order of the task's labels, where the model names the same labels in another order."""
    if task.labels and sorted(model.config.id2label) == sorted(task.labels):
        return logits[:, [model.config.id2label.index(label) for label in task.labels]]
    return logits


def encode_examples(
    model: Checkpoint, tokenizer: Tokenizer, examples: Examples, max_length: int | None, truncate: bool
) -> Encoded:
    """All examples at one length; a sentence encoder takes the two texts of an example as rows 2i and 2i + 1."""
    if request_head(model) == "similarity":
        assert examples.pairs is not None
        texts = [text for pair in zip(examples.texts, examples.pairs, strict=True) for text in pair]
        return encode(model, tokenizer, texts, None, max_length, truncate)
    return encode(model, tokenizer, examples.texts, examples.pairs, max_length, truncate)


def predict(
    forward: Forward,
    encoded: Encoded,
    count: int,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """Logits of all examples, in their order, batch by batch, each of the least public length that fits."""
    rows = len(encoded.input_ids) // count
    tokens = encoded.attention_mask.sum(axis=1).astype(int).reshape(count, rows).max(axis=1)
    longest = encoded.input_ids.shape[1]
    lengths = np.array([min(padded_length(int(n)), longest) for n in tokens])
    batch_size = min(batch_size, count)
    logits: dict[int, np.ndarray] = {}
    for length in np.unique(lengths):
        found = np.flatnonzero(lengths == length)
        for start in range(0, len(found), batch_size):
            members = found[start : start + batch_size]
            # A batch that isn't full is filled with its last example: one shape, compiled once.
            filled = np.pad(members, (0, batch_size - len(members)), mode="edge")
            which = (filled[:, None] * rows + np.arange(rows)).reshape(-1)
            logits |= dict(zip(members.tolist(), forward(encoded.rows(which, int(length))), strict=False))
            progress(len(logits), count)
    return np.stack([logits[i] for i in range(count)])
