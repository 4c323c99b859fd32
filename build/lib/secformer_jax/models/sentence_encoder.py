"""Folders of sentence-transformers: which vector a sentence encoder gives (modules.json and the folders it names)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture, DenseLayer, Pooling
from secformer_jax.models.tensors import checked, read_safetensors

MODULES = "modules.json"
MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}
ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "GELU": "gelu", "ReLU": "relu"}


def is_sentence_encoder(path: Path) -> bool:
    """Whether the folder says how its vectors are made."""
    return (path / MODULES).is_file()


def read_pooling(path: Path, width: int) -> tuple[Pooling, dict[str, Any]]:
    """How the folder's vectors are made of hidden states of this width, and the parameters of its dense layers.

    Without modules.json: the mean over the tokens.

    Raises:
        UserError: a module, a pooling or an order of modules that is not supported.
    """
    if not is_sentence_encoder(path):
        return Pooling(), {}
    modules = _json(path / MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path / MODULES} is no list of modules: fetch it again")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    middle = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or any(kind != "Dense" for kind in middle) or modules[0].get("path"):
        raise UserError(
            f"{path / MODULES} has the modules {', '.join(kinds)}, and Transformer, Pooling, Dense (any number) and "
            "Normalize are supported, in this order"
        )
    _refuse_prompt(path)
    folders = [_inside(path, module.get("path")) for module in modules]
    layers, params = [], {}
    for i, folder in enumerate(folders[2 : 2 + len(middle)]):
        layer, params[f"dense_{i}"] = _dense(folder, width)
        layers.append(layer)
        width = layer.features
    return Pooling(_mode(folders[1]), tuple(layers), normalize=kinds[-1] == "Normalize"), params


def write_pooling(path: Path, config: Architecture) -> None:
    """Write modules.json and the pooling's own folder; dense layers are not written."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds += [("Normalize", "2_Normalize")] if config.pooling.normalize else []
    modules = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, folder) in enumerate(kinds)
    ]
    pooling = {key: mode == config.pooling.mode for key, mode in MODES.items()}
    (path / "1_Pooling").mkdir()
    (path / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    values = {"word_embedding_dimension": config.hidden_size, **pooling}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _refuse_prompt(path: Path) -> None:
    file = path / "config_sentence_transformers.json"
    name = _object(file).get("default_prompt_name") if file.is_file() else None
    if name:
        raise UserError(f"{file}: the prompt {name!r} goes before every text, which is not supported")


def _mode(folder: Path) -> str:
    values = _object(folder / "config.json")
    found = [key for key, value in values.items() if key.startswith("pooling_mode") and value is True]
    if len(found) != 1 or found[0] not in MODES:
        raise UserError(
            f"{folder / 'config.json'}: {' and '.join(found) or 'no pooling'}, and exactly one of {', '.join(MODES)} "
            "was expected"
        )
    return MODES[found[0]]


def _dense(folder: Path, width: int) -> tuple[DenseLayer, dict[str, Any]]:
    values, file = _object(folder / "config.json"), folder / "model.safetensors"
    kind = str(values.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if kind not in ACTIVATIONS:
        raise UserError(f"{folder / 'config.json'}: activation {kind}, and {', '.join(ACTIVATIONS)} are supported")
    layer = DenseLayer(values.get("out_features", 0), values.get("bias", True), ACTIVATIONS[kind])
    if not file.is_file():
        raise UserError(f"{folder} has no model.safetensors, which the weights of a dense layer were expected in")
    try:
        tensors = read_safetensors(file)
        params = {"kernel": checked(tensors["linear.weight"], (width, layer.features), "linear", file, kernel=True)}
        if layer.bias:
            params["bias"] = checked(tensors["linear.bias"], (layer.features,), "linear.bias", file, kernel=False)
    except KeyError as error:
        raise UserError(f"{file} has no tensor {error}: fetch it again") from None
    return layer, params


def _inside(path: Path, name: Any) -> Path:
    """A folder that modules.json names; one outside the model's own is refused."""
    folder = path / str(name or "")
    if not folder.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{path / MODULES} names {name!r}, which is outside the model's folder: use another model")
    return folder


def _object(file: Path) -> Mapping[str, Any]:
    values = _json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a JSON object: fetch it again")
    return values


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read ({error}): fetch the folder again") from None
