"""Every family with every head that Hugging Face's Flax classes have, small, with random weights of trained size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers

from secformer_jax.functions import calibration, presets
from secformer_jax.functions.measure import update
from secformer_jax.models import transformer
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.families import FAMILIES, read_config
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Encoded

LENGTH = 24
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZES),
    "roberta": transformers.RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5),
    "xlm-roberta": transformers.XLMRobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5),
    "electra": transformers.ElectraConfig(**SIZES, embedding_size=32),
    "distilbert": transformers.DistilBertConfig(vocab_size=97, dim=64, n_layers=2, n_heads=4, hidden_dim=128),
}
"""By model_type; MPNet has no Flax class."""
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "electra": "Electra",
    "distilbert": "DistilBert",
}
HEADS = {
    "classification": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "question": "ForQuestionAnswering",
}


def trained_size(path: tuple, leaf: np.ndarray, seed: int = 0) -> np.ndarray:
    """Matrices, tables and biases whose sums have a size like those of trained models; gammas near 1."""
    name = jax.tree_util.keystr(path)
    rng = np.random.default_rng([seed, *name.encode()])
    if "scale" in name:
        return (1 + 0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)
    return (0.15 * rng.standard_normal(leaf.shape)).astype(np.float32)


def reference(model_type: str, head: str, folder: Path, **changes: object) -> transformers.FlaxPreTrainedModel:
    """Hugging Face's own model, also saved to the folder, as Hugging Face's tools write it."""
    labels = {"question": 2, "tokens": 5}.get(head, 3)
    values = {**CONFIGS[model_type].to_dict(), "id2label": {i: f"label {i}" for i in range(labels)}, **changes}
    config = type(CONFIGS[model_type])(**{**values, "label2id": None})
    model = getattr(transformers, f"Flax{CLASSES[model_type]}{HEADS[head]}")(config)
    model.params = jax.tree_util.tree_map_with_path(trained_size, model.params)
    model.save_pretrained(folder)
    # What transformers writes is told apart from what it leaves to its defaults.
    assert json.loads((folder / "config.json").read_text())["architectures"] == [CLASSES[model_type] + HEADS[head]]
    return model


def requests(config: Architecture, texts: int = 32, seed: int = 0) -> Encoded:
    """Texts of random tokens and types, of different lengths, padded."""
    rng = np.random.default_rng(seed)
    mask = np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (texts, 1))
    ids = np.where(mask, rng.integers(5, config.vocab_size, mask.shape), config.pad_token_id)
    types = rng.integers(0, config.type_vocab_size, mask.shape) * mask
    return Encoded(ids.astype(np.int32), types.astype(np.int32), mask.astype(np.float32))


def logits_of(model: transformers.FlaxPreTrainedModel, encoded: Encoded) -> np.ndarray:
    """Hugging Face's logits as our heads shape them."""
    # Token types are told: by default Flax's ELECTRA takes them for 1, and torch's for 0.
    types = encoded.token_type_ids if getattr(model.config, "type_vocab_size", 0) else None
    output = model(encoded.input_ids, encoded.attention_mask, *(() if types is None else (types,)))
    if hasattr(output, "start_logits"):
        return np.stack([output.start_logits, output.end_logits], axis=-1)
    return np.asarray(output.logits)


def cases() -> list[tuple[str, str]]:
    """Every family with a Flax class, every head."""
    return [(model_type, head) for model_type in CONFIGS for head in HEADS]


def small(model_type: str, head: str, **changes: Any) -> Checkpoint:
    """A model of one layer, of any family and with any head, with random weights of trained size."""
    family, sizes = FAMILIES[model_type], {**SIZES, "num_hidden_layers": 1, "layer_norm_eps": 1e-5}
    sizes |= {"type_vocab_size": 1 if "roberta" in model_type else 2, "embedding_size": 32}
    values = {key: sizes[field] for key, field in family.keys.items() if field in sizes}
    labels = 1 if head in ("regression", "cross_encoder") else 3
    read = read_config({"model_type": model_type, **values, "num_labels": labels})
    config, own = dataclasses.replace(read, **changes), "embedding" if head == "similarity" else head
    params = transformer.init_params(config, own, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(trained_size, params)
    return Checkpoint(config, params, own, tokenizer_dir=Path(), path=Path())


def calibrate(model: Checkpoint, approximations: presets.Approximations) -> calibration.Calibration:
    """The model's ranges on other texts than those of seed 0."""
    family, ranges = presets.family(approximations), None
    plain = Plaintext(model, presets.families()[family], head="embedding")
    for seed in range(1, 9):
        texts = requests(model.config, 8, seed)
        ranges = update(ranges, plain.intermediates(texts)[1], texts.attention_mask, family=family)
    assert ranges is not None
    return ranges
