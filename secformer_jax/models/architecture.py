"""What an encoder is, whatever family it comes from: sizes, activations, positions, and how its vectors are pooled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError

ACTIVATIONS = ("gelu", "gelu_new")
"""Activations of the feed-forward layers: x Phi(x), and its tanh form (Hendrycks and Gimpel 2016)."""
HEAD_ACTIVATIONS = ("tanh", "gelu", "relu", "identity")
POOLINGS = ("mean", "cls", "max")
LARGEST = 2**24
"""No size of a model is greater: a description that says so is refused before anything is allocated."""


_TYPES = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
    "bool": (bool,),
    "tuple[str, ...]": (tuple,),
    "tuple[DenseLayer, ...]": (tuple,),
}


def check_types(value: Any) -> None:
    """Refuse a field of another type than it declares, a negative size and one beyond every model's."""
    for field in dataclasses.fields(value):
        found, kinds = getattr(value, field.name), _TYPES.get(str(field.type))
        if kinds is None:
            continue  # Another dataclass, which checks itself.
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            expected = "a whole number" if kinds == (int,) else str(field.type)
            raise UserError(f"config.json: {field.name} is {found!r}, and {expected} was expected")
        if isinstance(found, int) and not 0 <= found <= LARGEST:
            raise UserError(f"config.json: {field.name} is {found!r}, and a whole number up to {LARGEST} was expected")
        if isinstance(found, tuple) and field.name == "id2label" and not all(isinstance(x, str) for x in found):
            raise UserError("config.json: id2label holds something that is not text: name the labels")


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """A linear layer after pooling: its output's width, whether it has a bias, one of `HEAD_ACTIVATIONS`."""

    features: int
    bias: bool = True
    activation: str = "tanh"

    def __post_init__(self):
        check_types(self)
        if self.features < 1 or self.activation not in HEAD_ACTIVATIONS:
            raise UserError(f"a dense layer of {self.features} features with activation {self.activation!r}")


@dataclasses.dataclass(frozen=True)
class Pooling:
    """How a sentence encoder makes one vector of a text's hidden states (sentence-transformers' modules.json).

    Attributes:
        mode: one of `POOLINGS`, over the tokens of the text.
        dense: linear layers on the pooled vector, in their order.
        normalize: whether the vector is scaled to length 1 at the end.
    """

    mode: str = "mean"
    dense: tuple[DenseLayer, ...] = ()
    normalize: bool = False

    def __post_init__(self):
        check_types(self)
        if self.mode not in POOLINGS:
            raise UserError(f"pooling {self.mode!r}, and one of {', '.join(POOLINGS)} was expected")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What is known to everybody about an encoder. Names are those of BERT's config.json where it has them.

    Attributes:
        model_type: Hugging Face's, which says which family reads and writes it (`families`).
        embedding_size: width of the embeddings, where a projection follows them (ELECTRA); 0 for hidden_size.
        position_offset: the row of the first token in the table of positions (RoBERTa: 2).
        relative_buckets: buckets of the bias that attention adds for relative positions (MPNet); 0 for none.
        pooler_act: activation of the dense layer on the first token that sequence classification reads.
        output_activation: what a cross-encoder's score is: "sigmoid" or "identity" of its logit.
        pooling: how a sentence encoder pools.
        id2label: the labels by their index.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    initializer_range: float = 0.02
    pad_token_id: int = 0
    id2label: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    model_type: str = "bert"
    embedding_size: int = 0
    position_offset: int = 0
    relative_buckets: int = 0
    pooler_act: str = "tanh"
    output_activation: str = "identity"
    pooling: Pooling = Pooling()

    def __post_init__(self):
        check_types(self)
        positive = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*positive, "type_vocab_size"):
            if getattr(self, name) < 1:
                raise UserError(f"config.json: {name} is {getattr(self, name)}, and at least 1 was expected")
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(
                f"config.json: hidden_act is {self.hidden_act!r}, and only {' and '.join(ACTIVATIONS)} are supported: "
                "use such a model"
            )
        if self.pooler_act not in HEAD_ACTIVATIONS:
            raise UserError(f"the pooler's activation is {self.pooler_act!r}: expected {', '.join(HEAD_ACTIVATIONS)}")
        if not 0 <= self.layer_norm_eps < 1:
            raise UserError(f"config.json: layer_norm_eps is {self.layer_norm_eps}, and 0 to 1 was expected")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"config.json: hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}"
            )

    @property
    def num_labels(self) -> int:
        """How many logits the classifier has."""
        return len(self.id2label)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings' tables and of their LayerNorm."""
        return self.embedding_size or self.hidden_size

    @property
    def positions(self) -> int:
        """The most tokens that the model takes."""
        return self.max_position_embeddings - self.position_offset

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_json`.

        Raises:
            UserError: a value of another type, or out of its range.
            TypeError, KeyError: another set of keys.
        """
        pooling = dict(values["pooling"])
        pooling["dense"] = tuple(DenseLayer(**layer) for layer in pooling["dense"])
        return cls(**{**values, "id2label": tuple(values["id2label"]), "pooling": Pooling(**pooling)})


SHAPES: dict[str, Architecture] = {
    "tiny": Architecture(128, 32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    "minilm": Architecture(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    "bert-base": Architecture(),
    "bert-large": Architecture(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
