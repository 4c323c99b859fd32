"""DistilBERT (Sanh et al. 2019): BERT with other names, without token types, and with a ReLU before its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.models.families.family import Family


def _derived(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type_vocab_size": 1, "pooler_act": "relu"}


FAMILY = Family(
    classes={"distilbert": "DistilBert"},
    prefix="distilbert",
    keys={
        "vocab_size": "vocab_size",
        "dim": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "hidden_dim": "intermediate_size",
        "max_position_embeddings": "max_position_embeddings",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "seq_classif_dropout": "classifier_dropout",
        "initializer_range": "initializer_range",
        "pad_token_id": "pad_token_id",
    },
    defaults={"n_layers": 6, "seq_classif_dropout": 0.2},
    harmless=frozenset({"qa_dropout", "sinusoidal_pos_embds", "tie_weights_"}),
    derived=_derived,
    layers="transformer.layer",
    modules={
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    },
    heads={"ForSequenceClassification": {"pooler.dense": "pre_classifier"}},
    types=False,
)
