"""What a first layer reads: a token and its position alone decide it, so no text has to be found that has them all."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.calibration import Range
from secformer_jax.functions.measure import span
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.plaintext import exact_functions

ROWS = 4096
"""Tokens that are looked at together: what products of them take bounds it."""

UNTRAINED = 1 / 64
"""Of the median mean square: an embedding below it is one that training has left alone (reserved, or padding)."""

Places = Mapping[str, Mapping[str, Range]]


def first_layer(model: DecoderCheckpoint, prefix: int) -> Places:
    """Ranges of the first layer's norm, queries, keys and values over the whole vocabulary, named as `calibrate` does.

    The norm's hold for every token at every position that a text may have. Queries, keys and values are taken of each
    token at one position; where they are turned, at any angle: each number reaches the length of its pair. Tokens
    without a trained embedding are left out: a range down to their zeros would spoil that of all others.

    Args:
        model: the checkpoint.
        prefix: how many positions are taken by what stands before every text.
    """
    config = model.config
    table = np.asarray(model.params["embeddings"]["embedding"])
    squares = np.einsum("ij,ij->i", table, table)
    # Numbers that are not finite are kept, for `span` to find.
    trained = np.flatnonzero(~(squares < UNTRAINED * np.nanmedian(squares)))
    positions = np.zeros((1, config.hidden_size))
    if config.rotary is None:
        positions = np.asarray(model.params["positions"]["embedding"], np.float64)[prefix:]
    found: Places = {}
    for start in range(0, len(trained), ROWS):
        tokens = trained[start : start + ROWS]
        rows = table[tokens].astype(np.float64)
        found = union(found, {"layer.0.attention_norm": _before_norm(rows, positions, centred=not config.rms_norm)})
        found = union(found, _after_norm(model, rows + positions[tokens % len(positions)]))
    return found


def union(one: Places, other: Places) -> Places:
    """Ranges that hold what either holds."""
    found = {place: dict(quantities) for place, quantities in one.items()}
    for place, quantities in other.items():
        own = found.setdefault(place, {})
        for name, new in quantities.items():
            own[name] = new.union(own.get(name, new))
    return found


def _before_norm(rows: np.ndarray, positions: np.ndarray, *, centred: bool) -> dict[str, Range]:
    """|e + p|^2 = |e|^2 + |p|^2 + 2 e p, of every pair; e + p in each column is greatest where both are."""
    if centred:
        # The mean of a sum is the sum of the means.
        rows, positions = (part - part.mean(axis=1, keepdims=True) for part in (rows, positions))
    lengths = [np.sum(part * part, axis=1) for part in (rows, positions)]
    squares = lengths[0][:, None] + lengths[1] + 2 * (rows @ positions.T)
    ends = [np.array([part.min(axis=0), part.max(axis=0)]) for part in (rows, positions)]
    # Rounding may leave a sum of squares below zero.
    return {"mean_square": span(np.maximum(squares, 0.0) / rows.shape[1]), "value": span(ends[0] + ends[1])}


def _after_norm(model: DecoderCheckpoint, x: np.ndarray) -> Places:
    config, layer = model.config, model.params["layers"]["0"]
    # No bias for RMSNorm.
    affine = [
        jnp.asarray(layer["attention_norm"][name]) for name in ("scale", "bias") if name in layer["attention_norm"]
    ]
    normed = np.asarray(exact_functions(config).norm(jnp.asarray(x, jnp.float32), *affine), np.float64)
    found: dict[str, dict[str, Range]] = {}
    for name in ("query", "key", "value"):
        weights = layer["attention"][name]
        output = normed @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights.get("bias", 0.0))
        if name == "query":
            output /= math.sqrt(config.head_dim)
        if config.rotary is not None and name != "value":
            output = output.reshape(len(x), -1, 2, config.head_dim // 2)
            length = np.sqrt(np.sum(output * output, axis=2))
            output = np.stack([length, -length])
        found[f"layer.0.{name}"] = {"output": span(output)}
    return found
