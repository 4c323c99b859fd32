"""MPNet (Song et al. 2020): RoBERTa's positions, no token types, and a bias of attention for relative positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.models.families.family import BERT_KEYS, Family

BUCKETS = 32
"""transformers' MPNet counts with 32 buckets and has its padding at 1, whatever the configuration says."""


def _derived(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"position_offset": 2, "type_vocab_size": 1, "relative_buckets": BUCKETS}


FAMILY = Family(
    classes={"mpnet": "MPNet"},
    prefix="mpnet",
    keys={key: key for key in BERT_KEYS if key != "type_vocab_size"},
    defaults={"vocab_size": 30527, "pad_token_id": 1},
    fixed={"relative_attention_num_buckets": BUCKETS},
    harmless=frozenset({"type_vocab_size"}),
    derived=_derived,
    modules={
        "attention.self.query": "attention.attn.q",
        "attention.self.key": "attention.attn.k",
        "attention.self.value": "attention.attn.v",
        "attention.output.dense": "attention.attn.o",
        "attention.output.LayerNorm": "attention.LayerNorm",
    },
    heads={"ForSequenceClassification": {"pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"}},
    types=False,
)
