"""What a client shares of its next tokens: one-hot rows, proven to be (`mpc.one_hot`). Needs nothing but numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secformer_jax.mpc.runtime.shares import InputSpec


@dataclass(frozen=True)
class TokenInputs:
    """Rows of a pass.

    Attributes:
        words: of the vocabulary.
        bits: of the ring that they are shared in.
    """

    words: int
    bits: int

    def specs(self, rows: int, length: int) -> tuple[InputSpec, ...]:
        """Of each array: one, for so many new tokens of one text."""
        return (InputSpec("int64", (rows * length, self.words), self.bits, (self.words,)),)

    def array(self, tokens: Sequence[int] | np.ndarray, padded: int) -> np.ndarray:
        """int64 (padded, words); padding, which no token looks at, repeats the last one."""
        ids = [*tokens, *[tokens[-1]] * (padded - len(tokens))]
        return (np.asarray(ids)[:, None] == np.arange(self.words)).astype(np.int64)
