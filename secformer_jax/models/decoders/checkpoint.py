"""Hugging Face folders of decoders: config.json, weights in safetensors, tokenizer files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from secformer_jax.errors import UserError
from secformer_jax.models.decoders import decoder_family, read_config
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.family import DecoderFamily, Source, token_ids
from secformer_jax.models.decoders.model import parameter_shapes
from secformer_jax.models.folders import read_generation, read_json, resolve
from secformer_jax.models.tensors import Tensors, checked, fingerprint, read_tensors


@dataclasses.dataclass(frozen=True)
class DecoderCheckpoint:
    """A decoder: float32 parameters as `model.Decoder` takes them, and the folder that holds its tokenizer."""

    config: DecoderArchitecture
    params: dict[str, Any]
    path: Path

    @cached_property
    def fingerprint(self) -> str:
        """See `tensors.fingerprint`."""
        return fingerprint(self.config.to_json(), self.params)


def load(path_or_name: str | os.PathLike[str]) -> DecoderCheckpoint:
    """Load a local folder or a hub id.

    Raises:
        UserError: what is no folder of such a model, or one whose function would not be computed as it is meant.
    """
    path = resolve(path_or_name)
    values = read_json(path)
    config, family = read_config(values), decoder_family(values.get("model_type"))
    named = values.get("architectures") or []
    if named != [family.class_name]:
        raise UserError(
            f"config.json: architectures is {named!r}, and {family.class_name} generates text: use such a model"
        )
    # As in transformers, generation_config.json says what ends an answer, where it says anything.
    ends = token_ids(read_generation(path).get("eos_token_id"))
    config = dataclasses.replace(config, eos_token_ids=ends or config.eos_token_ids)
    file, tensors = read_tensors(path)
    return DecoderCheckpoint(config, to_params(tensors, config, family, file), path)


def to_params(tensors: Tensors, config: DecoderArchitecture, family: DecoderFamily, file: Path) -> dict[str, Any]:
    """The parameter tree, every tensor checked.

    Raises:
        UserError: a tensor that is missing, left over, of another shape, or not finite.
    """
    plain = {
        name.removeprefix(family.prefix): tensor
        for name, tensor in tensors.items()
        if not name.endswith(family.buffers)
    }
    sources, shapes = family.sources(config), flatten_dict(parameter_shapes(config))
    missing = list(dict.fromkeys(source.name for source in sources.values() if source.name not in plain))
    if missing:
        raise UserError(
            f"{file}: missing tensors {', '.join(missing[:3])} (of {len(missing)}); expected all {len(sources)} of the "
            "model that config.json describes: use the folder's own config.json and weights"
        )
    # A tied head may be stored as well: it is the table.
    left = plain.keys() - {source.name for source in sources.values()} - {"lm_head.weight"}
    if left:
        raise UserError(
            f"{file}: {family.class_name} has no tensor {min(left)} (and {len(left) - 1} more are not known): an "
            "adapter has to be merged into the weights, another architecture is not supported"
        )
    if config.tied and not _same(plain.get("lm_head.weight"), plain[sources["embeddings", "embedding"].name]):
        raise UserError(
            f"{file}: the head is not the table of embeddings, and config.json says it is (tie_word_embeddings)"
        )
    return unflatten_dict({path: _read(plain, source, shapes[path].shape, file) for path, source in sources.items()})


def _same(head: np.ndarray | None, table: np.ndarray) -> bool:
    return head is None or np.array_equal(head, table)


def _read(plain: Mapping[str, np.ndarray], source: Source, shape: tuple[int, ...], file: Path) -> np.ndarray:
    index, parts = source.part
    whole = (*shape[:-1], shape[-1] * parts)
    tensor = checked(plain[source.name], whole, source.name, file, kernel=source.transposed)
    return np.ascontiguousarray(tensor[..., index * shape[-1] : (index + 1) * shape[-1]])
