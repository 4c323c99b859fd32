"""The owner's preparation of a decoder: norms folded into what reads them, the mean taken off, then the ring.

A norm's scale goes into the kernel that reads it, and its shift into that one's bias. LayerNorm takes the mean of the
residual stream off; here whatever writes to the stream has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.openings.decoder import scales

Tree = Mapping[str, Any]
Prefix = tuple[np.ndarray, np.ndarray]
"""Keys (turned) and values of the prefix, (layers, key_value_heads, prefix, head_dim) each."""


def prepare(params: Tree, config: DecoderArchitecture, prefix: Prefix | None) -> Iterator[tuple[str, np.ndarray]]:
    """Ring elements of all weights, one after the other, with the names that `OpenedDecoder` declares.

    Args:
        params: as `decoders.checkpoint` gives them.
        config: the model.
        prefix: of the tokens that come before every request's; None for none.
    """
    written = _same if config.rms_norm else _centred
    table = _double(params["embeddings"]["embedding"])
    yield "embeddings/table", _ring(written(table), scales.TABLE)
    if config.rotary is None:
        yield "embeddings/positions", _ring(written(_double(params["positions"]["embedding"])), scales.TABLE)
    for i in range(config.num_hidden_layers):
        layer = params["layers"][str(i)]
        attention, feed_forward = layer["attention"], layer["feed_forward"]
        factors = {"query": 1 / math.sqrt(config.head_dim), "key": 1.0, "value": 1.0}
        read = [(attention[name], factor) for name, factor in factors.items()]
        yield from _reader(f"layer_{i}_attention/read", layer["attention_norm"], read)
        yield from _writer(f"layer_{i}_attention", attention["output"], written)
        if prefix is not None:
            for name, values, bits in zip(("keys", "values"), prefix, (scales.KEY, scales.VALUE), strict=True):
                yield f"layer_{i}_attention/prefix_{name}", _ring(_double(values[i]), bits)
        read = [(feed_forward[name], 1.0) for name in (("gate", "up") if config.gated else ("up",))]
        yield from _reader(f"layer_{i}_feed_forward/read", layer["feed_forward_norm"], read)
        yield from _writer(f"layer_{i}_feed_forward", feed_forward["down"], written)
    kernel = table.T if config.tied else _double(params["head"]["kernel"])
    yield "head/kernel", _ring(_double(params["norm"]["scale"])[:, None] * kernel, scales.WEIGHT)
    if not config.rms_norm:
        yield "head/bias", _ring(_double(params["norm"]["bias"]) @ kernel, scales.STREAM)


def _reader(name: str, norm: Tree, read: list[tuple[Tree, float]]) -> Iterator[tuple[str, np.ndarray]]:
    """The kernels side by side, each times a factor; and the bias, where there is one."""
    kernels = [_double(dense["kernel"]) * factor for dense, factor in read]
    kernel = np.concatenate(kernels, axis=-1)
    yield f"{name}/kernel", _ring(_double(norm["scale"])[:, None] * kernel, scales.READ)
    if "bias" in read[0][0]:
        bias = np.concatenate([_double(dense["bias"]) * factor for dense, factor in read])
        shift = _double(norm["bias"]) @ kernel if "bias" in norm else 0.0
        yield f"{name}/bias", _ring(bias + shift, scales.NORMED)


def _writer(name: str, dense: Tree, written: Any) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}/out_kernel", _ring(written(_double(dense["kernel"])), scales.WEIGHT)
    if "bias" in dense:
        yield f"{name}/out_bias", _ring(written(_double(dense["bias"])), scales.STREAM)


def _double(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=-1, keepdims=True)


def _ring(x: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(x * 2.0**bits).astype(np.int64)
