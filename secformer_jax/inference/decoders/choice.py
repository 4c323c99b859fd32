"""The client's choice of the next token from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secformer_jax.errors import UserError


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest; else tokens are drawn with probability softmax(logits / temperature).
        top_p: draw among the fewest likeliest tokens that have this probability together (Holtzman et al., ICLR 2020).
        repetition_penalty: logits of tokens that were there are divided by it, or multiplied where they are negative
            (Keskar et al. 2019).

    Raises:
        UserError: a number out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", 1 <= self.repetition_penalty < math.inf, "1 or more"),
        ):
            if not good:
                raise UserError(f"{name} is {getattr(self, name)}, and {expected} was expected")

    def next(self, logits: np.ndarray, previous: Sequence[int], generator: np.random.Generator) -> int:
        """A token's id.

        Args:
            logits: (vocab_size,).
            previous: ids of the tokens so far.
            generator: what draws.
        """
        logits = np.array(logits, np.float64)
        seen = np.unique(np.asarray(previous, np.int64))
        penalised = logits[seen]
        logits[seen] = np.where(penalised > 0, penalised / self.repetition_penalty, penalised * self.repetition_penalty)
        if self.temperature == 0:
            return int(np.argmax(logits))
        scaled = (logits - logits.max()) / self.temperature
        order = np.argsort(-scaled, kind="stable")
        upto = np.cumsum(np.exp(scaled[order]))
        kept = order[: int(np.searchsorted(upto / upto[-1], self.top_p)) + 1]
        # The largest of scaled + Gumbel noise has the distribution softmax(scaled). Noise by token, so that the last
        # bits of private logits change what a seed draws only where two sums are that near, or a token is at top_p's
        # border.
        return int(kept[np.argmax((scaled + generator.gumbel(size=len(scaled)))[kept])])
