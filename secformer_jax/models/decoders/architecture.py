"""What a decoder is, whatever family it comes from: sizes, norms, positions, activations, and when it stops."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import check_types

ACTIVATIONS = ("silu", "gelu", "gelu_new")


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021), and how they are stretched for longer texts.

    Attributes:
        theta: the base of the frequencies.
        kind: "default"; "linear", every frequency over `factor`; or "llama3", low frequencies over it (Llama 3.1).
        factor, low_freq_factor, high_freq_factor, original_max_position_embeddings: see `rotary.frequencies`.
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self):
        check_types(self)
        if self.kind not in ("default", "linear", "llama3"):
            raise UserError(f"config.json: rope_scaling is {self.kind!r}, and default, linear and llama3 are supported")
        if not (self.theta > 1 and self.factor >= 1 and 0 < self.low_freq_factor < self.high_freq_factor):
            raise UserError("config.json: rope_theta and rope_scaling do not fit together: fetch the folder again")


@dataclasses.dataclass(frozen=True)
class DecoderArchitecture:
    """A causal language model with its norms before attention and feed-forward.

    Attributes:
        model_type: Hugging Face's, which says which family reads it (`decoders.FAMILIES`).
        num_key_value_heads: each serves num_attention_heads / num_key_value_heads queries (Ainslie et al. 2023).
        head_dim: width of one head.
        rms_norm: norms divide by the root of the mean square (Zhang and Sennrich 2019), and have no mean and no bias.
        rotary: rotary positions; None where a table of positions is added to the embeddings.
        gated: the feed-forward part is down(act(gate x) up x), and not down(act(up x)).
        attention_bias, feed_forward_bias: whether these linear layers have biases.
        tied: logits come from the table of embeddings, and not from a head's own.
        eos_token_ids: tokens that end an answer.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    norm_eps: float
    hidden_act: str
    model_type: str
    rms_norm: bool = True
    rotary: Rotary | None = None
    gated: bool = True
    attention_bias: bool = False
    feed_forward_bias: bool = False
    tied: bool = True
    initializer_range: float = 0.02
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self):
        check_types(self)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise UserError(f"config.json: {field.name} is {value}, and at least 1 was expected")
            if field.type == "float" and not 0 <= value < 1:
                raise UserError(f"config.json: {field.name} is {value}, and a number from 0 to 1 was expected")
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(
                f"config.json: the activation is {self.hidden_act!r}, and {', '.join(ACTIVATIONS)} are supported"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"config.json: {self.num_attention_heads} heads can't share {self.num_key_value_heads} heads of keys: "
                "fetch the folder again"
            )
        if self.rotary is not None and self.head_dim % 2:
            raise UserError(f"config.json: head_dim is {self.head_dim}, and rotary positions take an even number")
        if not all(isinstance(token, int) and 0 <= token < self.vocab_size for token in self.eos_token_ids):
            raise UserError(
                f"config.json or generation_config.json: eos_token_id is {self.eos_token_ids}, and the vocabulary has "
                f"{self.vocab_size} tokens"
            )

    @property
    def queries_per_key(self) -> int:
        """Heads that share one head of keys and values."""
        return self.num_attention_heads // self.num_key_value_heads

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DecoderArchitecture:
        """The inverse of `to_json`.

        Raises:
            UserError: a value of another type, or out of its range.
            TypeError, KeyError: another set of keys.
        """
        rotary = None if values["rotary"] is None else Rotary(**values["rotary"])
        return cls(**{**values, "rotary": rotary, "eos_token_ids": tuple(values["eos_token_ids"])})
