"""ELECTRA's discriminators (Clark et al. 2020): narrower embeddings, projected; a head with GeLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.models.families.family import BERT_KEYS, Family


def _derived(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    # Embeddings as wide as the hidden states have no projection.
    same = fields["embedding_size"] == fields["hidden_size"]
    return {"pooler_act": "gelu", **({"embedding_size": 0} if same else {})}


FAMILY = Family(
    classes={"electra": "Electra"},
    prefix="electra",
    keys={**{key: key for key in BERT_KEYS}, "embedding_size": "embedding_size"},
    defaults={"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    harmless=frozenset({"summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj"}),
    derived=_derived,
    heads={"ForSequenceClassification": {"pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"}},
)
