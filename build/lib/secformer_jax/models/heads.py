"""Heads: how a model answers, as data. What each computes is in `head_layers`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from secformer_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Head:
    """One way to answer.

    Attributes:
        name: as in `HEADS`.
        reveals: what the client learns, and nobody else does.
        class_end: how Hugging Face's class names end; "" for a head of our own.
        pooled: whether the head reads the pooler's output.
        rows: texts of a batch that make one answer.
    """

    name: str
    reveals: str
    class_end: str = ""
    pooled: bool = False
    rows: int = 1

    def first_token(self, config: Architecture) -> bool:
        """Whether only the first token's hidden state is read."""
        pools = self.name in ("embedding", "similarity")
        return self.pooled or (pools and config.pooling.mode == "cls")


_sequence_head = functools.partial(Head, class_end="ForSequenceClassification", pooled=True)
HEADS: Mapping[str, Head] = {
    head.name: head
    for head in (
        _sequence_head("classification", reveals="a logit for each label"),
        _sequence_head("multi_label", reveals="a logit for each label"),
        _sequence_head("regression", reveals="one number"),
        _sequence_head("cross_encoder", reveals="one logit"),
        Head("tokens", "a logit for each token, padding included, and label", "ForTokenClassification"),
        Head(
            "question",
            "two logits for each token of question and context, padding included",
            "ForQuestionAnswering",
        ),
        Head("embedding", "the vector", "Model"),
        Head("similarity", "the cosine of two texts", rows=2),
    )
}
