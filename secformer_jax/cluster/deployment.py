"""What a model owner makes known about a model: every server compiles its program from it for itself.

It is data, not code: the architecture, the names of the functions, the calibration constants. No weight is in it, and
nothing that follows from the weights but the calibrated ranges, rounded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secformer_jax.cluster.options import MAX_ROWS
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration, Range
from secformer_jax.inference.reveal import EVERYTHING, Reveal
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.families import family_of
from secformer_jax.models.heads import HEADS
from secformer_jax.models.plaintext import request_head
from secformer_jax.models.text import PADDED_LENGTHS

if TYPE_CHECKING:
    from secformer_jax.models.checkpoint import Checkpoint

FORMAT = 4


@dataclass(frozen=True)
class RequestShape:
    """The public size of a request: texts, and tokens in each."""

    rows: int
    length: int


@dataclass(frozen=True)
class Deployment:
    """One published model.

    Attributes:
        config: its architecture.
        head: what answers, one of `heads.HEADS`.
        functions: the names of the variants: "gelu", "softmax", "layer_norm".
        openings: whether the model is computed by masked openings, see `presets.Approximations`.
        calibration: ranges of the model's values, where the functions need them; without the model's fingerprint.
        embedding: "client" or "inside", see `PrivateModel`.
        keep_weights: keep the openings of the weights between requests.
        reveal: what of the answer a client gets.
        nonce: makes each publication another one.
    """

    config: Architecture
    head: str
    functions: Mapping[str, str]
    openings: bool
    calibration: Calibration | None
    embedding: str
    keep_weights: bool
    reveal: Reveal
    nonce: str

    @classmethod
    def describe(
        cls,
        model: Checkpoint,
        approximations: presets.Approximations,
        calibration: Calibration | None,
        *,
        embedding: str = "client",
        keep_weights: bool = True,
        head: str | None = None,
        reveal: Reveal = EVERYTHING,
    ) -> Deployment:
        """What is to be known about a checkpoint that is served with these functions and this head.

        Raises:
            UserError: the head does not answer so.
        """
        chosen, head = approximations.names(), head or request_head(model)
        reveal.check(head)
        ranges = None if calibration is None else calibration.published()
        nonce = secrets.token_hex(16)
        return cls(model.config, head, chosen, approximations.openings, ranges, embedding, keep_weights, reveal, nonce)

    def anew(self) -> Deployment:
        """The same model under another name: masks of the weights serve one publication."""
        return dataclasses.replace(self, nonce=secrets.token_hex(16))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": FORMAT,
            "config": self.config.to_json(),
            "head": self.head,
            "functions": dict(self.functions),
            "openings": self.openings,
            "calibration": None if self.calibration is None else dataclasses.asdict(self.calibration),
            "embedding": self.embedding,
            "keep_weights": self.keep_weights,
            "reveal": self.reveal.to_json(),
            "nonce": self.nonce,
        }

    @classmethod
    def from_json(cls, values: Any) -> Deployment:
        """The inverse of `to_json`.

        Raises:
            UserError: not such a description.
        """
        try:
            if values["format"] != FORMAT:
                raise UserError(f"a description of format {values['format']}, and {FORMAT} was expected")
            head, keep, nonce = values["head"], values["keep_weights"], values["nonce"]
            openings = values["openings"]
            if head not in HEADS or type(keep) is not bool or type(openings) is not bool:
                raise UserError(f"a description with head {head!r}, keep_weights {keep!r}, openings {openings!r}")
            if not isinstance(nonce, str) or len(nonce) != 32:
                raise UserError("a description without a nonce of 32 characters")
            ranges = None if values["calibration"] is None else _calibration(values["calibration"])
            config, functions = Architecture.from_json(values["config"]), dict(values["functions"])
            family_of(config.model_type)
            reveal = Reveal.from_json(values["reveal"], head)
            made = cls(config, head, functions, openings, ranges, values["embedding"], keep, reveal, nonce)
            made.approximations()
            return made
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"no description of a model that this version understands ({error!r})") from None

    @property
    def name(self) -> str:
        """SHA-256 of the description, short: what it is called on every wire."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:32]

    def approximations(self) -> presets.Approximations:
        """The functions."""
        return presets.from_names(self.functions, self.openings)

    @property
    def masked(self) -> bool:
        """Whether the weights stay under masks of the dealer's."""
        return self.openings

    def lengths(self) -> tuple[int, ...]:
        """The padded lengths that are served: few, for each is compiled."""
        return tuple(length for length in PADDED_LENGTHS if length <= self.config.positions)

    def check(self, shape: RequestShape) -> None:
        """Refuse a shape that this model does not serve.

        Raises:
            UserError: another number of rows than a power of two, another padded length, or one beyond the calibration.
        """
        if not 1 <= shape.rows <= MAX_ROWS or shape.rows & (shape.rows - 1):
            raise UserError(f"{shape.rows} texts in one request: a power of two is served, at most {MAX_ROWS}")
        if shape.length not in self.lengths():
            raise UserError(f"a padded length of {shape.length}, and {', '.join(map(str, self.lengths()))} are served")
        if shape.rows % HEADS[self.head].rows:
            raise UserError("this model compares pairs of texts, and the number of texts is odd")
        if self.calibration is not None:
            self.calibration.check(presets.family(self.approximations()), shape.length)


def _calibration(values: Mapping[str, Any]) -> Calibration:
    places = {
        str(place): {str(name): Range(float(ends["low"]), float(ends["high"])) for name, ends in ranges.items()}
        for place, ranges in values["places"].items()
    }
    return Calibration("", str(values["family"]), int(values["sentences"]), int(values["max_length"]), places)
