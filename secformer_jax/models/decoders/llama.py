"""Llama (Touvron et al. 2023) and what has its classes: SmolLM2, TinyLlama and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.architecture import DecoderArchitecture, Rotary
from secformer_jax.models.decoders.family import DecoderFamily, Path, Source, token_ids

MODULES = {
    ("attention_norm",): "input_layernorm",
    ("attention", "query"): "self_attn.q_proj",
    ("attention", "key"): "self_attn.k_proj",
    ("attention", "value"): "self_attn.v_proj",
    ("attention", "output"): "self_attn.o_proj",
    ("feed_forward_norm",): "post_attention_layernorm",
    ("feed_forward", "gate"): "mlp.gate_proj",
    ("feed_forward", "up"): "mlp.up_proj",
    ("feed_forward", "down"): "mlp.down_proj",
}
"""Parts of a layer: ours to Llama's."""

SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def _fields(known: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = dict(known)
    scaling = dict(fields.pop("rope_scaling", None) or {})
    fields["rotary"] = _rotary(fields.pop("rope_theta"), scaling)
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    if not (isinstance(heads, int) and isinstance(width, int) and heads > 0):
        raise UserError(
            f"config.json: hidden_size is {width!r} and num_attention_heads {heads!r}, and whole numbers were expected"
        )
    fields.setdefault("num_key_value_heads", heads)
    fields.setdefault("head_dim", width // heads)
    return {**fields, "eos_token_ids": token_ids(fields.get("eos_token_ids"))}


def _rotary(theta: Any, scaling: dict[str, Any]) -> Rotary:
    kind = str(scaling.pop("rope_type", scaling.pop("type", "default")))
    scaling.pop("type", None)
    numbers = {"rope_theta": theta, **scaling}
    for key, value in numbers.items():
        if key not in ("rope_theta", *SCALING) or isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"config.json: {key} of the rotary positions is {value!r}, which is not supported")
    return Rotary(theta, kind, **scaling)


def _sources(config: DecoderArchitecture) -> dict[Path, Source]:
    found: dict[Path, Source] = {
        ("embeddings", "embedding"): Source("embed_tokens.weight"),
        ("norm", "scale"): Source("norm.weight"),
    }
    if not config.tied:
        found["head", "kernel"] = Source("lm_head.weight", transposed=True)
    for i in range(config.num_hidden_layers):
        for path, module in MODULES.items():
            place, name = ("layers", str(i), *path), f"layers.{i}.{module}"
            if path[-1].endswith("norm"):
                found[*place, "scale"] = Source(f"{name}.weight")
                continue
            found[*place, "kernel"] = Source(f"{name}.weight", transposed=True)
            if config.attention_bias if path[0] == "attention" else config.feed_forward_bias:
                found[*place, "bias"] = Source(f"{name}.bias")
    return found


FAMILY = DecoderFamily(
    model_type="llama",
    class_name="LlamaForCausalLM",
    prefix="model.",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_hidden_layers",
        "num_attention_heads": "num_attention_heads",
        "num_key_value_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "intermediate_size": "intermediate_size",
        "max_position_embeddings": "max_position_embeddings",
        "rms_norm_eps": "norm_eps",
        "hidden_act": "hidden_act",
        "rope_theta": "rope_theta",
        "rope_scaling": "rope_scaling",
        "attention_bias": "attention_bias",
        "mlp_bias": "feed_forward_bias",
        "tie_word_embeddings": "tied",
        "initializer_range": "initializer_range",
        "eos_token_id": "eos_token_ids",
    },
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "eos_token_id": 2,
    },
    fields=_fields,
    sources=_sources,
    buffers=("rotary_emb.inv_freq",),
    fixed={"rope_interleaved": False},
    harmless=frozenset({"is_llama_config", "pretraining_tp", "transformers.js_config"}),
)
