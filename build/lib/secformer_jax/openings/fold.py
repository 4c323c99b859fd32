"""The model owner's preparation: LayerNorm's affine part and mean folded into the linear layers, then the ring.

LayerNorm's gamma and beta go into the weights that read its output; the mean that the next LayerNorm takes off is
taken off the weights that feed it. So LayerNorm itself is a square, a sum and one scaling, and gamma costs nothing.
The half of GeLU's input that is linear in the block's goes into the kernel of its residual.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from secformer_jax.models.transformer import Architecture
from secformer_jax.openings import scales

Tree = Mapping[str, Any]


def prepare(
    params: Tree, config: Architecture, table_bits: int, stretches: Sequence[float], balances: Sequence[float]
) -> Iterator[tuple[str, np.ndarray]]:
    """Ring elements of all weights, one after the other, with the names that the opened model declares.

    Args:
        params: the parameters of the BERT and its head, as `checkpoint.load` gives them.
        config: the model's shape.
        table_bits: fraction bits of the embeddings (`plan.table`).
        stretches: what GeLU's inputs are multiplied with, layer by layer (`plan.gelu_tail`).
        balances: what keys are multiplied with, and queries divided by (`plan.balance`).
    """
    bert = params["bert"]
    embeddings, layers = bert["embeddings"], bert["encoder"]["layer"]
    words = _double(embeddings["word_embeddings"]["embedding"])
    types = _double(embeddings["token_type_embeddings"]["embedding"])
    yield "embeddings/table", _ring(_centred(np.concatenate([words, types])), table_bits)
    del words, types
    yield "embeddings/positions", _ring(_centred(_double(embeddings["position_embeddings"]["embedding"])), table_bits)
    if config.relative_buckets:
        table = _double(bert["encoder"]["relative_attention_bias"]["embedding"])
        yield "relative_bias", _ring(table, scales.QUERY + scales.KEY)
    norm = _norm(embeddings["LayerNorm"])
    reader = _projected(norm, bert["embeddings_project"]) if config.embedding_size else _diagonal(norm)
    for i in range(config.num_hidden_layers):
        layer = layers[str(i)]
        attention, own = layer["attention"], f"layer_{i}"
        factors = {"query": 1 / math.sqrt(config.head_dim) / balances[i], "key": balances[i], "value": 1.0}
        folded = [_fold(attention["self"][name], reader, factor) for name, factor in factors.items()]
        kernel, bias = (np.concatenate([part[k] for part in folded], axis=-1) for k in (0, 1))
        yield f"{own}_attention/qkv_kernel", _ring(kernel, scales.SUM - scales.HIDDEN)
        yield f"{own}_attention/qkv_bias", _ring(bias, scales.SUM)
        yield from _residual(f"{own}_attention/residual", reader, attention["output"]["dense"]["bias"]).items()
        kernel = _centred(_double(attention["output"]["dense"]["kernel"]))
        yield f"{own}_attention/out_kernel", _ring(kernel, scales.SUM - scales.CONTEXT)
        reader = _diagonal(_norm(attention["output"]["LayerNorm"]))
        kernel, bias = _fold(layer["intermediate"]["dense"], reader)
        yield f"{own}_feed_forward/in_kernel", _ring(kernel * stretches[i], scales.SUM - scales.HIDDEN)
        yield f"{own}_feed_forward/in_bias", _ring(bias * stretches[i], scales.SUM)
        out = _centred(_double(layer["output"]["dense"]["kernel"]))
        yield f"{own}_feed_forward/out_kernel", _ring(out, scales.SUM - scales.FEED)
        # gelu(u) = u/2 + tail(u): the half is linear in x.
        half = _Reader(_centred(np.diag(reader.factor)) + kernel @ out / 2, reader.shift + bias @ out / 2)
        yield from _residual(f"{own}_feed_forward/residual", half, layer["output"]["dense"]["bias"]).items()
        norm = _norm(layer["output"]["LayerNorm"])
        reader = _diagonal(norm)
    yield "gamma", _ring(norm[0], scales.SUM - scales.HIDDEN)
    yield "beta", _ring(norm[1], scales.SUM)


def _double(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _norm(layer_norm: Tree) -> tuple[np.ndarray, np.ndarray]:
    return _double(layer_norm["scale"]), _double(layer_norm["bias"])


def _centred(x: np.ndarray) -> np.ndarray:
    """With its mean over the last axis taken off."""
    return x - x.mean(axis=-1, keepdims=True)


class _Reader(NamedTuple):
    """What stands between a LayerNorm's normalised values x and the block that reads them.

    Attributes:
        factor: gamma (width,), for gamma x; or (width, hidden), for x factor.
        shift: what is added: beta, or beta after the projection and its bias.
    """

    factor: np.ndarray
    shift: np.ndarray


def _diagonal(norm: tuple[np.ndarray, np.ndarray]) -> _Reader:
    return _Reader(*norm)


def _projected(norm: tuple[np.ndarray, np.ndarray], dense: Tree) -> _Reader:
    gamma, beta = norm
    kernel = _double(dense["kernel"])
    return _Reader(gamma[:, None] * kernel, beta @ kernel + _double(dense["bias"]))


def _fold(dense: Tree, reader: _Reader, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that read a LayerNorm's output before its gamma and beta."""
    kernel = _double(dense["kernel"])
    before = reader.factor[:, None] * kernel if reader.factor.ndim == 1 else reader.factor @ kernel
    return before * factor, (_double(dense["bias"]) + reader.shift @ kernel) * factor


def _residual(name: str, reader: _Reader, bias: Any) -> dict[str, np.ndarray]:
    """gamma, what takes the mean of gamma x off, and beta with the block's bias, centred; or a projection."""
    gamma, beta = reader
    if gamma.ndim == 2:
        kernel, total = _centred(gamma), _centred(beta + _double(bias))
        return {f"{name}/kernel": _ring(kernel, scales.SUM - scales.HIDDEN), f"{name}/bias": _ring(total, scales.SUM)}
    return {
        f"{name}/gamma": _ring(gamma, scales.SUM - scales.HIDDEN),
        f"{name}/mean": _ring(gamma[:, None] / len(gamma), scales.SUM - scales.HIDDEN),
        f"{name}/bias": _ring(_centred(beta + _double(bias)), scales.SUM),
    }


def _ring(x: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(x * 2.0**bits).astype(np.int64)
