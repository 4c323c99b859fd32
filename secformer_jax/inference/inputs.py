"""What a client shares of its texts. It follows from what is public of a model, and needs nothing but numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.runtime.shares import InputSpec

EMBEDDINGS = ("client", "inside")
"""Who makes the one-hot rows: the client, or the protocol from shared ids."""


class Inputs(Protocol):
    """How a batch becomes what is shared."""

    def specs(self, rows: int, length: int) -> tuple[InputSpec, ...]:
        """Of each array, in the order of the module's arguments, for so many texts of a padded length."""

    def arrays(self, encoded: Encoded) -> tuple[np.ndarray, ...]:
        """These arrays for one batch."""


@dataclass(frozen=True)
class Ids:
    """Ids, token types and the mask: the protocol makes one-hot rows of them."""

    def specs(self, rows: int, length: int) -> tuple[InputSpec, ...]:
        """See `Inputs`."""
        return InputSpec("int32", (rows, length)), InputSpec("int32", (rows, length)), _mask(rows, length)

    def arrays(self, encoded: Encoded) -> tuple[np.ndarray, ...]:
        """See `Inputs`."""
        return encoded.arrays()


@dataclass(frozen=True)
class OneHot:
    """One-hot rows of words, of token types, and the mask: fixed-point numbers of the runtime."""

    words: int
    types: int

    def specs(self, rows: int, length: int) -> tuple[InputSpec, ...]:
        """See `Inputs`."""
        words, types = (InputSpec("float32", (rows, length, size)) for size in (self.words, self.types))
        return words, types, _mask(rows, length)

    def arrays(self, encoded: Encoded) -> tuple[np.ndarray, ...]:
        """See `Inputs`."""
        ids, types, mask = encoded.arrays()
        words, kinds = (
            (found[..., None] == np.arange(size)).astype(np.float32)
            for found, size in ((ids, self.words), (types, self.types))
        )
        return words, kinds, mask


@dataclass(frozen=True)
class Proven:
    """Words with token types, and how many tokens a text has: all of it one-hot, and proven to be (`mpc.one_hot`).

    Attributes:
        words: of the vocabulary.
        types: of tokens; 0 for a model that has none.
        bits: of the ring that the words are shared in; what comes of zeros and ones is small.
    """

    words: int
    types: int
    bits: int

    def specs(self, rows: int, length: int) -> tuple[InputSpec, ...]:
        """See `Inputs`."""
        vectors = tuple(size for size in (self.words, self.types) if size)
        return (
            InputSpec("int64", (rows, length, sum(vectors)), self.bits, vectors),
            InputSpec("int64", (rows, length), one_hot=(length,)),
        )

    def arrays(self, encoded: Encoded) -> tuple[np.ndarray, ...]:
        """See `Inputs`.

        Raises:
            UserError: padding before a token.
        """
        ids, types, mask = encoded.input_ids[..., None], encoded.token_type_ids[..., None], encoded.attention_mask
        tokens = np.arange(1, mask.shape[1] + 1)
        counts = mask.sum(axis=1, keepdims=True)
        if not np.array_equal(mask, tokens <= counts):
            raise UserError("the padding of a text has to stand behind its tokens: set the tokenizer's side to right")
        rows = np.concatenate([ids == np.arange(self.words), types == np.arange(self.types)], axis=-1)
        return rows.astype(np.int64), (tokens == counts).astype(np.int64)


def inputs_for(config: Architecture, embedding: str, bits: int | None) -> Inputs:
    """What is shared for a model.

    Args:
        config: its architecture.
        embedding: one of `EMBEDDINGS`.
        bits: of the ring of the words, where the model is computed by masked openings; else None.
    """
    if bits is not None:
        return Proven(config.vocab_size, config.type_vocab_size, bits)
    return Ids() if embedding == "inside" else OneHot(config.vocab_size, config.type_vocab_size)


def _mask(rows: int, length: int) -> InputSpec:
    return InputSpec("float32", (rows, length))
