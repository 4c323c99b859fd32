"""Small decoders with random weights of trained size, and what transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers
from families import trained_size
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers import decoders as readers

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


TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")
TOKENS = 330


def write_tokenizer(folder: Path, template: str | None = TEMPLATE, special: Sequence[str] = SPECIAL) -> Path:
    """Bytes as tokens, some of them together, and the special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = readers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["system\nBe kind", "What is it? It is", "assistant", "user", "\n\n\n"] * 9
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, initial_alphabet=alphabet, special_tokens=list(special))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": special[0]} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
