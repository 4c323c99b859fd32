"""Texts to training batches: examples of about one length together, so that little is padded."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from secformer_jax.models.text import Encoded

Array = np.ndarray | jax.Array
LENGTHS = (8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512)
"""Lengths that a training batch is padded to. Each is compiled once."""

_SORTED_TOGETHER = 50
"""Batches whose examples are sorted by length together: the order stays random from group to group."""


class Batch(NamedTuple):
    """Ids and types int32, mask float32, each (batch, length); labels (batch,)."""

    input_ids: Array
    token_type_ids: Array
    attention_mask: Array
    labels: Array


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training split: its texts at one length, and their labels."""

    encoded: Encoded
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self) -> np.ndarray:
        """Real tokens of each example (examples,)."""
        return self.encoded.attention_mask.sum(axis=1).astype(int)

    def batch(self, rows: np.ndarray) -> Batch:
        """These examples, padded to the least of `LENGTHS` that holds them."""
        encoded = self.encoded
        longest = int(encoded.attention_mask[rows].sum(axis=1).max())
        length = min((size for size in LENGTHS if size >= longest), default=longest)
        cut = np.s_[rows, : min(length, encoded.input_ids.shape[1])]
        return Batch(
            encoded.input_ids[cut], encoded.token_type_ids[cut], encoded.attention_mask[cut], self.labels[rows]
        )

    def epoch(self, batch_size: int, seed: int, number: int) -> list[np.ndarray]:
        """The rows of each batch of one epoch, which follow from the seed and the epoch's number alone.

        All batches are full: the examples that are left over, others each time, sit the epoch out.
        """
        rng = np.random.default_rng((seed, number))
        batch_size = min(batch_size, len(self))
        order, tokens = rng.permutation(len(self)), self.tokens()
        order = order[: len(order) // batch_size * batch_size]
        batches: list[np.ndarray] = []
        for start in range(0, len(order), batch_size * _SORTED_TOGETHER):
            group = order[start : start + batch_size * _SORTED_TOGETHER]
            group = group[np.argsort(tokens[group], kind="stable")]
            batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def batches_in_epoch(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return len(self) // min(batch_size, len(self))
