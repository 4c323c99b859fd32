"""What a head makes of the hidden states, the same for the plaintext model and for the opened one.

Each is one function, ``compute(config, hidden, mask, deterministic)``, called inside a module's method: the parameters
that it declares belong to that module. hidden is (batch, length, hidden), or (batch, 1, hidden) where
`Head.first_token` says so, or for a pooled head the pooler's output (batch, hidden); mask (batch, length) of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from secformer_jax.functions.gelu import gelu_exact
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.heads import HEADS
from secformer_jax.models.layers import Array, dense

Compute = Callable[[Architecture, Array, Array, bool], Array]
LEAST_SCORE = -1000.0
"""What padding counts as in a maximum over tokens: beneath every hidden state, and within fixed point."""


def classify(config: Architecture, hidden: Array, mask: Array, deterministic: bool) -> Array:
    """Dropout, then the linear classifier: (..., hidden) to (..., num_labels)."""
    rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    return dense(config, config.num_labels, "classifier")(nn.Dropout(rate)(hidden, deterministic=deterministic))


def mark_span(config: Architecture, hidden: Array, mask: Array, deterministic: bool) -> Array:
    """Logits of start and end for every token: (batch, length, 2)."""
    return dense(config, 2, "qa_outputs")(hidden)


def embed(config: Architecture, hidden: Array, mask: Array, deterministic: bool) -> Array:
    """The model's own pooling, dense layers and normalisation: (batch, width)."""
    if config.pooling.normalize:
        return _unit(_direction(config, hidden, mask))
    return _densely(config, _pooled(config, hidden, mask))


def compare(config: Architecture, hidden: Array, mask: Array, deterministic: bool) -> Array:
    """Cosines (batch / 2,) of the vectors of the texts in rows 2i and 2i+1 of the batch.

    One rsqrt for each text, not one of the product, whose range would be the square of that.
    """
    units = _unit(_direction(config, hidden, mask))
    pairs = units.reshape(-1, 2, units.shape[1])
    first, second = (jax.lax.index_in_dim(pairs, i, axis=1, keepdims=False) for i in (0, 1))
    return jnp.sum(first * second, axis=1)


def _direction(config: Architecture, hidden: Array, mask: Array) -> Array:
    """The vector up to its length.

    A sum over the tokens needs no division by their number then. It is divided by the public sqrt(length), so that its
    squared norm (count^2 / length times the mean's own) keeps well inside fixed point at both ends.
    """
    if config.pooling.mode == "mean" and not config.pooling.dense:
        mask = mask.astype(hidden.dtype) * (1 / math.sqrt(hidden.shape[1]))
        return jnp.einsum("bn,bnh->bh", mask, hidden)
    return _densely(config, _pooled(config, hidden, mask))


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=1))[:, None]


def _pooled(config: Architecture, hidden: Array, mask: Array) -> Array:
    """One vector a text: the first token's, or the mean or the greatest over the text's tokens."""
    if config.pooling.mode == "cls":
        return jax.lax.index_in_dim(hidden, 0, axis=1, keepdims=False)
    mask = mask.astype(hidden.dtype)
    if config.pooling.mode == "max":
        # In every format of numbers padding falls to LEAST_SCORE exactly.
        return jnp.max(hidden * mask[..., None] + (1 - mask)[..., None] * LEAST_SCORE, axis=1)
    return jnp.einsum("bn,bnh->bh", mask, hidden) * (1 / mask.sum(axis=1))[:, None]


def _densely(config: Architecture, x: Array) -> Array:
    for i, layer in enumerate(config.pooling.dense):
        kernel_init = nn.initializers.normal(config.initializer_range)
        linear = nn.Dense(layer.features, use_bias=layer.bias, kernel_init=kernel_init, name=f"dense_{i}")
        x = activation(layer.activation)(linear(x))
    return x


def activation(name: str) -> Callable[[Array], Array]:
    """One of `architecture.HEAD_ACTIVATIONS`, on whatever arithmetic runs it."""
    return _ACTIVATIONS[name]


def _identity(x: Array) -> Array:
    return x


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "gelu": gelu_exact,
    "relu": jax.nn.relu,
    "identity": _identity,
}

_OTHERS: Mapping[str, Compute] = {"question": mark_span, "embedding": embed, "similarity": compare}
COMPUTE: Mapping[str, Compute] = {name: _OTHERS.get(name, classify) for name in HEADS}
"""By the head's name."""
