"""RoBERTa (Liu et al. 2019), XLM-RoBERTa and CamemBERT: BERT whose positions begin after the padding's row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.models.families.family import Family


def _derived(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"position_offset": fields["pad_token_id"] + 1}


FAMILY = Family(
    classes={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
    prefix="roberta",
    defaults={"pad_token_id": 1},
    derived=_derived,
    heads={"ForSequenceClassification": {"pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"}},
)
