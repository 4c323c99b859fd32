"""What a model owner makes known about a model: every server compiles its program from it for itself.

It is data, not code: the architecture, the names of the functions, the calibrated ranges and the series on them. No
weight is in it, and nothing that follows from the weights but these ranges, rounded. A client reads it without JAX;
what computes is checked by `requirements.checked`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from secformer_jax.cluster.options import MAX_ROWS
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.inputs import EMBEDDINGS, Inputs, inputs_for
from secformer_jax.inference.reveal import Reveal
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.heads import HEADS
from secformer_jax.models.text import PADDED_LENGTHS
from secformer_jax.mpc.runtime.shares import RING_BITS

FORMAT = 6


@dataclass(frozen=True)
class Deployment:
    """One published model.

    Attributes:
        config: its architecture.
        head: what answers, one of `heads.HEADS`.
        functions: the names of the variants: "gelu", "softmax", "layer_norm".
        openings: whether the model is computed by masked openings, see `presets.Approximations`.
        calibration: ranges of the model's values, where the functions need them; without the model's fingerprint.
        series: on these ranges, by name, as JSON values; see `fits`.
        embedding: one of `inputs.EMBEDDINGS`.
        input_bits: of the ring that a client's words are shared in, where openings compute; else None.
        keep_weights: keep the openings of the weights between requests.
        reveal: what of the answer a client gets.
        nonce: makes each publication another one.
    """

    config: Architecture
    head: str
    functions: Mapping[str, str]
    openings: bool
    calibration: Calibration | None
    series: Mapping[str, Any]
    embedding: str
    input_bits: int | None
    keep_weights: bool
    reveal: Reveal
    nonce: str

    cut_once: ClassVar[bool] = True
    """Whether products have many rows: see `ProductStage`."""
    result_bits: ClassVar[int] = RING_BITS
    """Of the ring that answers are in."""

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
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "series": dict(self.series),
            "embedding": self.embedding,
            "input_bits": self.input_bits,
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
                found = values["format"]
                raise UserError(f"a description of format {found}, not {FORMAT}: publish again with this version")
            head, keep, nonce = values["head"], values["keep_weights"], values["nonce"]
            openings, embedding, bits = values["openings"], values["embedding"], values["input_bits"]
            if head not in HEADS or type(keep) is not bool or type(openings) is not bool:
                raise UserError(f"a description with head {head!r}, keep_weights {keep!r}, openings {openings!r}")
            expected = type(bits) is int and 0 < bits <= RING_BITS if openings else bits is None
            if embedding not in EMBEDDINGS or not expected:
                raise UserError(f"a description with embedding {embedding!r}, input_bits {bits!r}")
            if not isinstance(nonce, str) or len(nonce) != 32:
                raise UserError("a description without a nonce of 32 characters")
            series = values["series"]
            if not isinstance(series, dict):
                raise UserError("a description whose series have no names")
            ranges = None if values["calibration"] is None else Calibration.from_json(values["calibration"])
            config, functions = Architecture.from_json(values["config"]), dict(values["functions"])
            reveal = Reveal.from_json(values["reveal"], head)
            return cls(config, head, functions, openings, ranges, series, embedding, bits, keep, reveal, nonce)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"no description of a model that this version understands ({error!r})") from None

    @functools.cached_property
    def name(self) -> str:
        """See `described_name`."""
        return described_name(self.to_json())

    @property
    def inputs(self) -> Inputs:
        """What a client shares."""
        return inputs_for(self.config, self.embedding, self.input_bits)

    @property
    def masked(self) -> bool:
        """Whether the weights stay under masks of the dealer's."""
        return self.openings

    @property
    def unit(self) -> int:
        """How many texts an answer takes."""
        return HEADS[self.head].rows

    @property
    def least(self) -> RequestShape:
        """A small request."""
        return RequestShape(2, 16 if self.calibration is None else min(16, self.calibration.max_length))

    def lengths(self) -> tuple[int, ...]:
        """The padded lengths that are served: few, for each is compiled; within the positions and the calibration."""
        most = self.config.positions
        if self.calibration is not None:
            most = min(most, self.calibration.max_length)
        return tuple(length for length in PADDED_LENGTHS if length <= most)

    def next(self, shape: RequestShape) -> RequestShape | None:
        """What most likely comes after a request: one of its size."""
        return shape

    def check(self, shape: RequestShape) -> None:
        """Refuse a shape that this model does not serve.

        Raises:
            UserError: another number of rows than a power of two, another padded length, or a conversation.
        """
        if shape.conversation:
            raise UserError("this model answers in one pass, and has no conversations: ask it with secformer infer")
        if not 1 <= shape.rows <= MAX_ROWS or shape.rows & (shape.rows - 1):
            raise UserError(f"{shape.rows} texts in one request: a power of two is served, at most {MAX_ROWS}")
        if shape.length not in self.lengths():
            raise UserError(f"a padded length of {shape.length}, and {', '.join(map(str, self.lengths()))} are served")
        if shape.rows % HEADS[self.head].rows:
            raise UserError("this model compares pairs of texts, and the number of texts is odd")


def described_name(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description, short: what a publication is called on every wire."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]
