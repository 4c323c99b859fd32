"""Weights on disk, by a family's names and in torch's layout, to and from the one tree of parameters."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.families import family_of
from secformer_jax.models.folders import WEIGHT_FILES
from secformer_jax.models.heads import HEADS
from secformer_jax.models.transformer import parameter_shapes

Tensors = dict[str, np.ndarray]
FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Weights that are what they say; numbers of fewer bits come with scales of their own."""
_Path = tuple[str, ...]
_BUFFERS = ("position_ids", "token_type_ids")
_OTHER_HEADS = re.compile(
    r"cls\.|lm_head\.|pooler\.|discriminator_predictions\.|generator_|vocab_(transform|layer_norm|projector)\."
)
"""Heads of pretraining, and a pooler that nothing reads: left out in silence. Anything else left over is refused."""


def fingerprint(config: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """SHA-256 over a configuration and every tensor: tells whether something was made for this very model."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(flatten_dict(params, sep="/").items()):
        tensor = np.ascontiguousarray(tensor, np.float32)
        digest.update(f"{name} {tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[Path, Tensors]:
    """The folder's file of weights, and all its tensors under torch's names, in torch's layout.

    Raises:
        UserError: no weights, weights in a format that can run code, or a damaged file.
    """
    file = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if file is None:
        if (path / "pytorch_model.bin").is_file():
            raise UserError(
                f"{path} has only pytorch_model.bin, which is not read (it can run code): convert it once where torch "
                "is installed, with transformers: AutoModel.from_pretrained(DIR).save_pretrained(DIR), using "
                "AutoModelForSequenceClassification for a classifier"
            )
        if (path / "model.safetensors.index.json").is_file():
            raise UserError(f"{path} has its weights in several files, and one was expected: save it again unsharded")
        raise UserError(f"{path} is no model folder: no weights, and {' or '.join(WEIGHT_FILES)} was expected")
    try:
        if file.suffix == ".safetensors":
            return file, read_safetensors(file)
        tree = flatten_dict(flax.serialization.msgpack_restore(file.read_bytes()))
        return file, {".".join((*name[:-1], _leaf(name))): _torch_layout(name, t) for name, t in tree.items()}
    except Exception as error:  # safetensors, msgpack and flax raise a dozen types on a damaged file
        raise UserError(f"{file} can't be read ({str(error)[:120]}): it is damaged, fetch it again") from None


def read_safetensors(file: Path) -> Tensors:
    """All tensors but buffers that follow from the sizes."""
    with safetensors.safe_open(file, framework="numpy") as opened:
        wanted = [name for name in opened.keys() if not name.endswith(_BUFFERS)]  # noqa: SIM118 (no iterator)
        return {name: opened.get_tensor(name) for name in wanted}


def to_params(tensors: Tensors, config: Architecture, head: str, file: Path) -> dict[str, Any]:
    """The parameter tree, every tensor checked.

    A sentence encoder keeps the pooler where there is one: fine-tuning goes on from it.

    Raises:
        UserError: a tensor that is missing, left over, of another shape, or not finite.
    """
    family, plain = family_of(config.model_type), _plain_names(tensors, config)
    wanted = flatten_dict({"bert": parameter_shapes(config, None)})
    class_end = HEADS[head].class_end
    if head == "embedding":
        if "pooler.dense.weight" not in plain or config.model_type != "bert":
            wanted = {name: like for name, like in wanted.items() if name[1] != "pooler"}
    else:
        wanted = flatten_dict(parameter_shapes(config, head))
    wanted = {path: like for path, like in wanted.items() if not path[0].startswith("dense_")}
    names = {path: tensor_name(path, config, class_end, prefixed=False) for path in wanted}
    made = {} if family.types else {path for path in wanted if "token_type_embeddings" in path}
    missing = [name for path, name in names.items() if name not in plain and path not in made]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{file}: missing tensors {', '.join(missing[:3])}{more}; expected all {len(names) - len(made)} of the "
            f"{head} model that config.json describes: use the folder's own config.json and weights"
        )
    left = [name for name in plain if name not in names.values() and not _OTHER_HEADS.match(name)]
    if left:
        raise UserError(
            f"{file}: {head} models of this kind have no tensor {left[0]} (and {len(left) - 1} more are not known): "
            "an adapter has to be merged into the weights, another architecture is not supported"
        )
    params = {}
    for path, like in wanted.items():
        if path in made:
            params[path] = np.zeros(like.shape, np.float32)
            continue
        params[path] = checked(plain[names[path]], like.shape, names[path], file, kernel=path[-1] == "kernel")
    return unflatten_dict(params)


def checked(tensor: np.ndarray, shape: tuple[int, ...], name: str, file: Path, *, kernel: bool) -> np.ndarray:
    """A tensor in float32 and our layout: of this shape, and finite.

    Raises:
        UserError: it is not.
    """
    expected = shape[::-1] if kernel else shape
    if tensor.shape != expected:
        raise UserError(
            f"{file}: tensor {name} has shape {tensor.shape}, and config.json makes it {expected}: "
            "use the folder's own config.json and weights"
        )
    if tensor.dtype.name not in FLOATS:
        raise UserError(
            f"{file}: tensor {name} holds {tensor.dtype}, and {', '.join(FLOATS)} was expected: dequantise it"
        )
    tensor = np.ascontiguousarray(tensor.T if kernel else tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise UserError(
            f"{file}: tensor {name} holds NaN or infinity, and finite weights were expected: train it again"
        )
    return tensor


def from_params(params: Mapping[str, Any], config: Architecture, head: str, dtype: DTypeLike) -> Tensors:
    """The inverse of `to_params`, as Hugging Face's classes name and shape them."""
    family = family_of(config.model_type)
    class_end = HEADS[head].class_end
    tensors = {}
    for path, tensor in flatten_dict(dict(params)).items():
        if (not family.types and "token_type_embeddings" in path) or path[0].startswith("dense_"):
            continue
        name = tensor_name(path, config, class_end, prefixed=head != "embedding")
        tensors[name] = np.ascontiguousarray(_torch_layout(path, np.asarray(tensor)).astype(dtype))
    return tensors


def tensor_name(path: _Path, config: Architecture, class_end: str, *, prefixed: bool) -> str:
    """The family's name of a parameter; with `prefixed` as in a model with a head."""
    family, inside = family_of(config.model_type), path[0] == "bert"
    module, encoders = family.module_name(".".join(path[inside:-1]), class_end)
    prefix = f"{family.prefix}." if prefixed and inside and encoders else ""
    return f"{prefix}{module}.{_leaf(path)}"


def _leaf(path: _Path) -> str:
    return {"embedding": "weight", "kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])


def _torch_layout(path: _Path, tensor: np.ndarray) -> np.ndarray:
    return tensor.T if path[-1] == "kernel" else tensor


def _plain_names(tensors: Tensors, config: Architecture) -> Tensors:
    """Without the encoder's prefix, and with today's names of LayerNorm's parameters."""
    prefix = f"{family_of(config.model_type).prefix}."

    def plain(name: str) -> str:
        name = name.removeprefix(prefix)
        return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))

    return {plain(name): tensor for name, tensor in tensors.items()}
