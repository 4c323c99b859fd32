"""The shape of a BERT, as Hugging Face's config.json gives it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What Hugging Face's config.json says of a BERT, under the same names; ``id2label`` is a tuple."""

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

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise UserError(f"config.json: {field.name} is {value!r}, and a whole number was expected")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise UserError(f"config.json: {name} is {getattr(self, name)}, and at least 1 was expected")
        if self.hidden_act != "gelu":
            raise UserError(
                f"config.json: hidden_act is {self.hidden_act!r}, and only 'gelu' is supported: use such a model"
            )
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Read Hugging Face's config.json; unknown keys are ignored, other kinds of model refused."""
        if values.get("model_type") != "bert":
            raise UserError(
                f"model_type is {values.get('model_type')!r}, and only 'bert' is supported: use a BERT model"
            )
        positions = values.get("position_embedding_type") or "absolute"
        if positions != "absolute":
            raise UserError(f"config.json: position_embedding_type is {positions!r}, and only 'absolute' is supported")
        names = {field.name for field in dataclasses.fields(cls)} - {"id2label"}
        known = {name: value for name, value in values.items() if name in names and value is not None}
        given = values.get("id2label")
        if given:
            labels = [given[key] for key in sorted(given, key=int)]
        else:
            labels = [f"LABEL_{i}" for i in range(int(values.get("num_labels") or 2))]
        return cls(**known, id2label=tuple(str(label) for label in labels))

    def to_dict(self) -> dict[str, Any]:
        """Write Hugging Face's config.json (without ``architectures``, which is the checkpoint's to say)."""
        labels = {str(i): label for i, label in enumerate(self.id2label)}
        return {
            **dataclasses.asdict(self),
            "model_type": "bert",
            "position_embedding_type": "absolute",
            "id2label": labels,
            "label2id": {label: int(i) for i, label in labels.items()},
        }


SHAPES: dict[str, Architecture] = {
    "tiny": Architecture(128, 32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    "minilm": Architecture(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    "bert-base": Architecture(),
    "bert-large": Architecture(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
