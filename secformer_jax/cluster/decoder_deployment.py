"""What an owner makes known about a language model that generates: data, as `deployment.Deployment` is of an encoder's.

The fixed prefix is in it as token ids: the servers need to know how many they are, and a client what its own text
stands behind. Of the weights there is nothing in it but the calibrated ranges, rounded.
"""

from __future__ import annotations

import dataclasses
import functools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secformer_jax.cluster.deployment import described_name
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.decoders.inputs import TokenInputs
from secformer_jax.inference.decoders.prompts import pass_lengths
from secformer_jax.inference.reveal import EVERYTHING
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.tokens import ChatFormat
from secformer_jax.mpc.runtime.shares import RING_BITS

KIND, FORMAT = "decoder", 3
MOST_PREFIX = 1024
GENERATION = "generation"
"""What such a model answers with, beside the heads of encoders."""
REVEALS = "the logits of every next token"


@dataclass(frozen=True)
class DecoderDeployment:
    """One published model.

    Attributes:
        config: its architecture.
        calibration: ranges of its values behind the prefix; without the model's fingerprint.
        series: on these ranges, by name, as JSON values; see `fits`.
        chat: how a conversation becomes one text.
        prefix: ids of the tokens that come before every text.
        capacity: the most tokens of a conversation, with the padding of its prompts.
        input_bits: of the ring that a client's tokens are shared in.
        logits_bits: of the ring of what it gets.
        nonce: makes each publication another one.
    """

    config: DecoderArchitecture
    calibration: Calibration
    series: Mapping[str, Any]
    chat: ChatFormat
    prefix: tuple[int, ...]
    capacity: int
    input_bits: int
    logits_bits: int
    nonce: str

    masked, keep_weights, reveal = True, True, EVERYTHING
    cut_once, least, unit = False, RequestShape(1, 1), 1
    head = GENERATION

    def anew(self) -> DecoderDeployment:
        """The same model under another name: masks of the weights serve one publication."""
        return dataclasses.replace(self, nonce=secrets.token_hex(16))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "config": self.config.to_json(),
            "calibration": self.calibration.to_json(),
            "series": dict(self.series),
            "chat": dataclasses.asdict(self.chat),
            "prefix": list(self.prefix),
            "capacity": self.capacity,
            "input_bits": self.input_bits,
            "logits_bits": self.logits_bits,
            "nonce": self.nonce,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DecoderDeployment:
        """The inverse of `to_json`.

        Raises:
            UserError: not such a description.
        """
        try:
            if values["format"] != FORMAT:
                found = values["format"]
                raise UserError(f"a description of format {found}, not {FORMAT}: publish again with this version")
            config, prefix = DecoderArchitecture.from_json(values["config"]), tuple(values["prefix"])
            capacity, nonce = values["capacity"], values["nonce"]
            bits = values["input_bits"], values["logits_bits"]
            if type(capacity) is not int or not all(type(each) is int and 0 < each <= RING_BITS for each in bits):
                raise UserError(f"a description with capacity {capacity!r}, and rings of {bits!r} bits")
            if len(prefix) > MOST_PREFIX or not all(type(id) is int and 0 <= id < config.vocab_size for id in prefix):
                raise UserError("a description whose prefix is no list of token ids")
            if not 1 <= capacity <= config.max_position_embeddings - len(prefix):
                raise UserError(f"a description with room for {capacity} tokens, and the model has not the positions")
            if not isinstance(nonce, str) or len(nonce) != 32:
                raise UserError("a description without a nonce of 32 characters")
            series = values["series"]
            if not isinstance(series, dict):
                raise UserError("a description whose series have no names")
            ranges, chat = Calibration.from_json(values["calibration"]), ChatFormat(**values["chat"])
            *pieces, trims = dataclasses.astuple(chat)
            if not all(isinstance(piece, str) for piece in pieces) or type(trims) is not bool:
                raise UserError("a description whose chat format is no text")
            return cls(config, ranges, series, chat, prefix, capacity, *bits, nonce)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"no description of a model that this version understands ({error!r})") from None

    @property
    def result_bits(self) -> int:
        """Of the ring that answers are in."""
        return self.logits_bits

    @functools.cached_property
    def name(self) -> str:
        """See `described_name`."""
        return described_name(self.to_json())

    @property
    def inputs(self) -> TokenInputs:
        """What a client shares."""
        return TokenInputs(self.config.vocab_size, self.input_bits)

    def lengths(self) -> tuple[int, ...]:
        """See `prompts.pass_lengths`."""
        return pass_lengths(self.capacity)

    def next(self, shape: RequestShape) -> RequestShape | None:
        """What most likely comes after a pass: the next token, where there is room for it."""
        if shape.real == shape.length > 1:
            # More of the prompt, as likely.
            return None
        start = shape.start + shape.length
        return RequestShape(1, 1, shape.conversation, start, 1) if start < self.capacity else None

    def check(self, shape: RequestShape) -> None:
        """Refuse a pass that this model does not serve.

        Raises:
            UserError: more than one text, another number of tokens, or more than there is room for.
        """
        if not shape.conversation:
            raise UserError("this model generates text: a request of it is a conversation's (secformer generate)")
        if shape.rows != 1 or shape.length not in self.lengths() or not 1 <= shape.real <= shape.length:
            raise UserError(
                f"{shape.real} tokens padded to {shape.length} in {shape.rows} texts: one text is served, padded to "
                f"{', '.join(map(str, self.lengths()))}"
            )
        if shape.start + shape.length > self.capacity:
            raise UserError(
                f"a conversation of {shape.start + shape.length} tokens, and there is room for {self.capacity}: begin "
                "a new one"
            )
