"""GPT-2 (Radford et al. 2019): a table of positions, LayerNorm, GeLU's tanh form, one kernel for query, key, value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.family import DecoderFamily, Path, Source, token_ids
from secformer_jax.models.families.family import ACTIVATIONS

PARTS = {
    ("attention", "query"): ("attn.c_attn", (0, 3)),
    ("attention", "key"): ("attn.c_attn", (1, 3)),
    ("attention", "value"): ("attn.c_attn", (2, 3)),
    ("attention", "output"): ("attn.c_proj", (0, 1)),
    ("feed_forward", "up"): ("mlp.c_fc", (0, 1)),
    ("feed_forward", "down"): ("mlp.c_proj", (0, 1)),
}
"""Parts of a layer: GPT-2's module, and which part of its outputs."""

NORMS = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}


def _fields(known: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = dict(known)
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    if not (isinstance(heads, int) and isinstance(width, int) and heads > 0) or width % heads:
        raise UserError(f"config.json: n_embd is {width!r}, and a multiple of n_head ({heads!r}) was expected")
    fields.setdefault("intermediate_size", 4 * width)
    return {
        **fields,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "hidden_act": ACTIVATIONS.get(fields["hidden_act"], fields["hidden_act"]),
        "rms_norm": False,
        "gated": False,
        "attention_bias": True,
        "feed_forward_bias": True,
        "eos_token_ids": token_ids(fields.get("eos_token_ids")),
    }


def _sources(config: DecoderArchitecture) -> dict[Path, Source]:
    found: dict[Path, Source] = {
        ("embeddings", "embedding"): Source("wte.weight"),
        ("positions", "embedding"): Source("wpe.weight"),
        ("norm", "scale"): Source("ln_f.weight"),
        ("norm", "bias"): Source("ln_f.bias"),
    }
    if not config.tied:
        found["head", "kernel"] = Source("lm_head.weight", transposed=True)
    for i in range(config.num_hidden_layers):
        for norm, name in NORMS.items():
            found["layers", str(i), norm, "scale"] = Source(f"h.{i}.{name}.weight")
            found["layers", str(i), norm, "bias"] = Source(f"h.{i}.{name}.bias")
        for path, (name, part) in PARTS.items():
            # Conv1D keeps its kernel as (inputs, outputs).
            found["layers", str(i), *path, "kernel"] = Source(f"h.{i}.{name}.weight", part=part)
            found["layers", str(i), *path, "bias"] = Source(f"h.{i}.{name}.bias", part=part)
    return found


FAMILY = DecoderFamily(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    prefix="transformer.",
    keys={
        "vocab_size": "vocab_size",
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "norm_eps",
        "activation_function": "hidden_act",
        "tie_word_embeddings": "tied",
        "initializer_range": "initializer_range",
        "eos_token_id": "eos_token_ids",
    },
    defaults={
        "vocab_size": 50257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "eos_token_id": 50256,
    },
    fields=_fields,
    sources=_sources,
    buffers=(".attn.bias", ".attn.masked_bias"),
    fixed={"reorder_and_upcast_attn": False, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True},
    harmless=frozenset(
        {
            *("attn_pdrop", "embd_pdrop", "gradient_checkpointing", "n_ctx", "resid_pdrop", "summary_activation"),
            *("summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        }
    ),
)
