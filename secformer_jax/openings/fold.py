"""The model owner's preparation: LayerNorm's affine part and mean folded into the linear layers, then the ring.

LayerNorm's gamma and beta go into the weights that read its output; the mean that the next LayerNorm takes off is
taken off the weights that feed it. So LayerNorm itself is a square, a sum and one scaling, and gamma costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from secformer_jax.models.transformer import Architecture
from secformer_jax.openings import scales

Tree = Mapping[str, Any]


def prepare(params: Tree, config: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """Ring elements of all weights, one after the other, with the names that the opened model declares.

    Args:
        params: the parameters of the BERT and its head, as `checkpoint.load` gives them.
        config: the model's shape.
    """
    bert = params["bert"]
    embeddings, layers = bert["embeddings"], bert["encoder"]["layer"]
    words = _double(embeddings["word_embeddings"]["embedding"])
    types = _double(embeddings["token_type_embeddings"]["embedding"])
    yield "embeddings/table", _ring(_centred(np.concatenate([words, types])), scales.SUM)
    del words, types
    yield "embeddings/positions", _ring(_centred(_double(embeddings["position_embeddings"]["embedding"])), scales.SUM)
    norm = _norm(embeddings["LayerNorm"])
    for i in range(config.num_hidden_layers):
        layer = layers[str(i)]
        attention, own = layer["attention"], f"layer_{i}"
        parts = {
            "query": (1 / math.sqrt(config.head_dim), scales.QUERY),
            "key": (1.0, scales.KEY),
            "value": (1.0, scales.VALUE),
        }
        folded = {name: _fold(attention["self"][name], norm, factor) for name, (factor, _) in parts.items()}
        bits = {name: target + scales.TRUNCATION - scales.HIDDEN for name, (_, target) in parts.items()}
        yield f"{own}_attention/qkv_kernel", np.concatenate([_ring(folded[n][0], bits[n]) for n in parts], axis=1)
        biases = [_ring(folded[n][1], bits[n] + scales.HIDDEN) for n in parts]
        yield f"{own}_attention/qkv_bias", np.concatenate(biases)
        yield from _residual(f"{own}_attention/residual", norm, attention["output"]["dense"]["bias"]).items()
        kernel = _centred(_double(attention["output"]["dense"]["kernel"]))
        yield f"{own}_attention/out_kernel", _ring(kernel, scales.SUM - scales.CONTEXT)
        norm = _norm(attention["output"]["LayerNorm"])
        kernel, bias = _fold(layer["intermediate"]["dense"], norm)
        yield f"{own}_feed_forward/in_kernel", _ring(kernel, scales.FEED_IN - scales.HIDDEN)
        yield f"{own}_feed_forward/in_bias", _ring(bias, scales.FEED_IN)
        yield from _residual(f"{own}_feed_forward/residual", norm, layer["output"]["dense"]["bias"]).items()
        kernel = _centred(_double(layer["output"]["dense"]["kernel"]))
        yield f"{own}_feed_forward/out_kernel", _ring(kernel, scales.FEED_OUT - scales.GELU)
        norm = _norm(layer["output"]["LayerNorm"])
    yield "gamma", _ring(norm[0], scales.GAMMA)
    yield "beta", _ring(norm[1], scales.SUM)


def _double(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _norm(layer_norm: Tree) -> tuple[np.ndarray, np.ndarray]:
    return _double(layer_norm["scale"]), _double(layer_norm["bias"])


def _centred(x: np.ndarray) -> np.ndarray:
    """With its mean over the last axis taken off."""
    return x - x.mean(axis=-1, keepdims=True)


def _fold(dense: Tree, norm: tuple[np.ndarray, np.ndarray], factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that read a LayerNorm's output before its gamma and beta."""
    kernel = _double(dense["kernel"])
    return norm[0][:, None] * kernel * factor, (_double(dense["bias"]) + norm[1] @ kernel) * factor


def _residual(name: str, norm: tuple[np.ndarray, np.ndarray], bias: Any) -> dict[str, np.ndarray]:
    """gamma, what takes the mean of gamma x off, and beta with the block's bias, centred."""
    gamma, beta = norm
    return {
        f"{name}/gamma": _ring(gamma, scales.GAMMA),
        f"{name}/mean": _ring(gamma[:, None] / len(gamma), scales.GAMMA),
        f"{name}/bias": _ring(_centred(beta + _double(bias)), scales.SUM),
    }


def _ring(x: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(x * 2.0**bits).astype(np.int64)
