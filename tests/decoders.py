"""Small decoders with random weights of trained size, and what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers
from families import trained_size

LLAMA = transformers.LlamaConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=80,
    max_position_embeddings=64,
    rope_theta=10_000.0,
    tie_word_embeddings=True,
)
GPT2 = transformers.GPT2Config(vocab_size=97, n_embd=48, n_layer=2, n_head=4, n_positions=64, eos_token_id=0)
CONFIGS = {"llama": LLAMA, "gpt2": GPT2}
CLASSES = {"llama": transformers.FlaxLlamaForCausalLM, "gpt2": transformers.FlaxGPT2LMHeadModel}


def reference(name: str, folder: Path, **changes: Any) -> Any:
    """Transformers' model, saved in a folder as Hugging Face has it (safetensors in torch's layout)."""
    config = type(CONFIGS[name])(**{**CONFIGS[name].to_dict(), **changes})
    model = CLASSES[name](config, _do_init=True)
    model.params = jax.tree_util.tree_map_with_path(trained_size, jax.tree.map(np.asarray, model.params))
    if name == "llama" and config.tie_word_embeddings:
        model.params["lm_head"]["kernel"] = model.params["model"]["embed_tokens"]["embedding"].T
    model.save_pretrained(folder, safe_serialization=False)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"architectures": [_class_name(name)]}))
    return model


def _class_name(name: str) -> str:
    return CLASSES[name].__name__.removeprefix("Flax")
