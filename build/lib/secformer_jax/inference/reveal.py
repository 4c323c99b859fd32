"""What of a head's output the client gets: all of it, fewer bits, or the label alone.

Logits tell more of a model than its answer: with enough of them, others are trained to imitate it. An owner who
publishes can have them rounded, or the greatest found, before anything leaves the servers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secformer_jax.errors import UserError

LABEL_HEADS = ("classification", "tokens")
MOST_BITS = 16


@dataclass(frozen=True)
class Reveal:
    """What is revealed.

    Attributes:
        label: the label alone: 1 where the logit is greatest, and 0 elsewhere.
        bits: fraction bits that numbers are rounded to; None: all that there are.
    """

    label: bool = False
    bits: int | None = None

    def check(self, head: str) -> None:
        """Refuse what this head does not do.

        Args:
            head: one of `heads.HEADS`.

        Raises:
            UserError: labels of a head that has none, bits that can't be, or both.
        """
        if self.label and head not in LABEL_HEADS:
            raise UserError(f"a label alone is an answer of {' and '.join(LABEL_HEADS)}, and this head is {head}")
        if self.bits is not None and (type(self.bits) is not int or not 0 <= self.bits <= MOST_BITS):
            raise UserError(f"numbers are rounded to 0 to {MOST_BITS} fraction bits, and {self.bits} were asked for")
        if self.label and self.bits is not None:
            raise UserError("the label alone has no fraction bits: ask for one of both")

    def read(self, revealed: np.ndarray) -> np.ndarray:
        """What was revealed, at the client: the runtime's truncation leaves a unit of its own fraction bits."""
        return revealed if self.bits is None else np.rint(revealed * 2.0**self.bits) / 2.0**self.bits

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], head: str) -> Reveal:
        """The inverse of `to_json`, for a head.

        Raises:
            UserError: as `check`.
            KeyError, TypeError: other values.
        """
        if type(values["label"]) is not bool:
            raise TypeError("label is true or false")
        found = cls(values["label"], values["bits"])
        found.check(head)
        return found

    def words(self, whole: str) -> str:
        """What a client learns, where all of it is `whole`."""
        if self.label:
            return "the label alone"
        return whole if self.bits is None else f"{whole}, rounded to {self.bits} fraction bits"


EVERYTHING = Reveal()
