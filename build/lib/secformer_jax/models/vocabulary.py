"""A model with only the word pieces that some texts have: for those texts the same one, with a smaller table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded


@dataclasses.dataclass(frozen=True)
class UsedPieces:
    """The ids of the word pieces that some texts have, padding included, in rising order.

    Worth it where every row of the table costs something: a row that no token picks adds exactly 0 to a one-hot
    product, which takes most of an emulation's time, and gets no gradient, yet the optimizer passes over it.
    """

    ids: np.ndarray

    @classmethod
    def of(cls, *texts: Encoded) -> UsedPieces:
        """Those of these batches together."""
        return cls(np.unique(np.concatenate([np.unique(encoded.input_ids) for encoded in texts])))

    def texts(self, encoded: Encoded) -> Encoded:
        """The same texts, for a model from `model`."""
        ids = np.searchsorted(self.ids, encoded.input_ids).astype(encoded.input_ids.dtype)
        return dataclasses.replace(encoded, input_ids=ids)

    def model(self, model: Checkpoint) -> Checkpoint:
        """The model with these pieces alone."""
        params = _with_table(model.params, lambda table: np.asarray(table)[self.ids])
        return dataclasses.replace(
            model, config=dataclasses.replace(model.config, vocab_size=len(self.ids)), params=params
        )

    def restored(self, params: Any, model: Checkpoint) -> Any:
        """Parameters of a model from `model`, with the rows of the other pieces as the whole model has them."""

        def whole(table: np.ndarray) -> np.ndarray:
            rows = np.array(model.params["bert"]["embeddings"]["word_embeddings"]["embedding"])
            rows[self.ids] = table
            return rows

        return _with_table(params, whole)


def _with_table(params: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    def leaf(path: tuple, value: np.ndarray) -> np.ndarray:
        return change(value) if any(getattr(key, "key", None) == "word_embeddings" for key in path) else value

    return jax.tree_util.tree_map_with_path(leaf, params)
