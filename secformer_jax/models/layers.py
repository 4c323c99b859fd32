"""The layers of an encoder as Flax modules, down to the places where a nonlinear function is applied."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from secformer_jax.errors import UserError

if TYPE_CHECKING:
    from secformer_jax.functions.presets import LayerFunctions
    from secformer_jax.models.architecture import Architecture

Array = jax.Array
Lookup = Callable[[Array, Array], Array]
Intermediates = dict[str, Array]


def gather(ids: Array, table: Array) -> Array:
    """Rows of the table by index: for plaintext, where the ids are known."""
    return jnp.take(table, ids, axis=0)


def one_hot_inside(ids: Array, table: Array) -> Array:
    """Rows of the table as (ids == 0..rows-1) @ table: for secret ids, one comparison for each id and row."""
    rows = jax.lax.iota(ids.dtype, table.shape[0])
    return (ids[..., None] == rows).astype(table.dtype) @ table


class Site(nn.Module):
    """One place in the model where a nonlinear function is applied.

    A function with an attribute ``material`` (argument shapes -> pytree) reads dealer material, which lives here, in
    the variable collection "dealer", under the place's own path; it is called as ``function(*args, material=...)``.
    """

    function: Callable[..., Array]

    @nn.compact
    def __call__(self, *args: Array) -> Array:
        """Apply the function, with this place's own material where it needs some."""
        make_material = getattr(self.function, "material", None)
        if make_material is None:
            return self.function(*args)
        material = self.variable("dealer", "material", lambda: make_material(*(arg.shape for arg in args)))
        return self.function(*args, material=material.value)


class Table(nn.Module):
    """An embedding table (rows, features), as a parameter alone."""

    rows: int
    features: int
    stddev: float

    @nn.compact
    def __call__(self) -> Array:
        """Return the table."""
        shape = (self.rows, self.features)
        return self.param("embedding", nn.initializers.normal(self.stddev), shape, jnp.float32)


class LayerNorm(nn.Module):
    """Holds scale and bias; ``function(x, gamma, beta)`` does the work."""

    function: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise the last axis."""
        gamma = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        beta = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return Site(self.function, name="layer_norm")(x, gamma, beta)


def dense(config: Architecture, features: int, name: str) -> nn.Dense:
    """A linear layer with BERT's initial values."""
    return nn.Dense(features, kernel_init=nn.initializers.normal(config.initializer_range), name=name)


class Embeddings(nn.Module):
    """Word, position and token type embeddings, then LayerNorm."""

    config: Architecture
    layer_norm: Callable[..., Array]
    lookup: Lookup = gather

    @nn.compact
    def __call__(self, tokens: Array, token_types: Array, deterministic: bool = True) -> tuple[Array, Intermediates]:
        """Embed ids (batch, length) through ``lookup``, or one-hot rows (batch, length, rows) by one matmul."""
        c = self.config
        length = tokens.shape[1]
        if length > c.positions:
            raise UserError(
                f"sequence of {length} tokens, and the model has {c.positions} positions: "
                f"pass --max-length {c.positions} or less"
            )

        def table(rows: int, name: str) -> Array:
            return Table(rows, c.embedding_width, c.initializer_range, name=name)()

        def embed(rows: Array, table: Array) -> Array:
            return self.lookup(rows, table) if rows.ndim == 2 else rows.astype(table.dtype) @ table

        words = embed(tokens, table(c.vocab_size, "word_embeddings"))
        types = embed(token_types, table(c.type_vocab_size, "token_type_embeddings"))
        positions = table(c.max_position_embeddings, "position_embeddings")
        x = words + types + positions[c.position_offset : c.position_offset + length]
        hidden = LayerNorm(self.layer_norm, name="LayerNorm")(x)
        hidden = nn.Dropout(c.hidden_dropout_prob)(hidden, deterministic=deterministic)
        return hidden, {"embeddings.layer_norm": x}


def spread_relative(table: Array, length: int) -> Array:
    """What attention adds to its scores (MPNet): a table's rows by the relative position of query and key.

    From (buckets, heads) to (heads, length, length).
    Concatenation, broadcasting and reshaping alone, which cost nothing under MPC: each row is repeated over the
    distances of its bucket, and the band so made is skewed into a matrix.
    """
    distances = relative_bucket(np.arange(1 - length, length), table.shape[0])
    starts = [0, *(np.flatnonzero(np.diff(distances)) + 1), 2 * length - 1]
    runs = itertools.pairwise(starts)
    rows = [jnp.broadcast_to(table[distances[low]], (high - low, table.shape[1])) for low, high in runs]
    # Row q of the matrix is band[length - 1 - q:][:length]. In a band of 2 length, repeated and cut by one, each row
    # begins one place earlier than the one before.
    band = jnp.concatenate([*rows, rows[-1][:1]])
    rolled = jnp.concatenate([band[length - 1 :], band[: length - 1]])
    repeated = jnp.broadcast_to(rolled, (length, *rolled.shape)).reshape(-1, rolled.shape[1])
    skewed = repeated[: length * (2 * length - 1)].reshape(length, 2 * length - 1, -1)
    return skewed[:, :length].transpose(2, 0, 1)


def relative_bucket(distance: np.ndarray, buckets: int, farthest: int = 128) -> np.ndarray:
    """The bucket of key position minus query position, as in T5 (Raffel et al. 2020), which MPNet follows.

    Half of the buckets are for keys that come later. In each half the first half are single distances, the others
    grow by a constant factor up to `farthest`.
    """
    half, single, away = buckets // 2, buckets // 4, np.abs(distance)
    growing = half - single

    def reached(far: int, step: int) -> bool:
        # far/single >= (farthest/single)^(step/growing), in integers: on every processor the same.
        return far**growing * single**step >= farthest**step * single**growing

    begins = [next(far for far in range(single, farthest + 1) if reached(far, step)) for step in range(1, growing)]
    far = single + np.searchsorted(begins, away, side="right")
    return np.where(distance > 0, half, 0) + np.where(away < single, away, far)


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(head_dim) + bias, mask) V for all heads; also returns Q, K, V and the scores."""

    config: Architecture
    softmax: Callable[..., Array]

    @nn.compact
    def __call__(
        self, hidden: Array, mask: Array, bias: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Intermediates]:
        """Attend: hidden (batch, length, hidden), mask (batch, length) of 0 and 1, bias (heads, length, length)."""
        c = self.config
        split = (*hidden.shape[:2], c.num_attention_heads, c.head_dim)
        query = dense(c, c.hidden_size, "query")(hidden).reshape(split) * (1 / math.sqrt(c.head_dim))
        key = dense(c, c.hidden_size, "key")(hidden).reshape(split)
        value = dense(c, c.hidden_size, "value")(hidden).reshape(split)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        if bias is not None:
            scores = scores + bias
        probabilities = Site(self.softmax, name="softmax")(scores, mask[:, None, None, :].astype(scores.dtype))
        probabilities = nn.Dropout(c.attention_probs_dropout_prob)(probabilities, deterministic=deterministic)
        context = jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)
        return context.reshape(hidden.shape), {"query": query, "key": key, "value": value, "softmax": scores}


class Output(nn.Module):
    """Dense, dropout, residual sum, LayerNorm: the end of attention and feed-forward; also returns the sum."""

    config: Architecture
    layer_norm: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array, residual: Array, deterministic: bool = True) -> tuple[Array, Array]:
        """LayerNorm(dense(x) + residual)."""
        x = dense(self.config, self.config.hidden_size, "dense")(x)
        x = nn.Dropout(self.config.hidden_dropout_prob)(x, deterministic=deterministic) + residual
        return LayerNorm(self.layer_norm, name="LayerNorm")(x), x


class Attention(nn.Module):
    """Self-attention and its output; also returns the sum before LayerNorm, and what self-attention returns."""

    config: Architecture
    functions: LayerFunctions

    @nn.compact
    def __call__(
        self, hidden: Array, mask: Array, bias: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Array, Intermediates]:
        """Attend and add to the residual stream."""
        attention = SelfAttention(self.config, self.functions.softmax, name="self")
        context, kept = attention(hidden, mask, bias, deterministic)
        output = Output(self.config, self.functions.attention_layer_norm, name="output")
        return *output(context, hidden, deterministic), kept


class Intermediate(nn.Module):
    """Dense, then GeLU; also returns the values before GeLU."""

    config: Architecture
    gelu: Callable[..., Array]

    @nn.compact
    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """gelu(dense(hidden))."""
        x = dense(self.config, self.config.intermediate_size, "dense")(hidden)
        return Site(self.gelu, name="gelu")(x), x


class Layer(nn.Module):
    """One encoder layer: attention, then the feed-forward part."""

    config: Architecture
    functions: LayerFunctions

    @nn.compact
    def __call__(
        self, hidden: Array, mask: Array, bias: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Intermediates]:
        """Run the layer; intermediates are keyed without the layer's own prefix."""
        f = self.functions
        hidden, attention_sum, kept = Attention(self.config, f, name="attention")(hidden, mask, bias, deterministic)
        x, pre_gelu = Intermediate(self.config, f.gelu, name="intermediate")(hidden)
        hidden, output_sum = Output(self.config, f.output_layer_norm, name="output")(x, hidden, deterministic)
        return hidden, {
            **kept,
            "attention.layer_norm": attention_sum,
            "gelu": pre_gelu,
            "output.layer_norm": output_sum,
        }


class Layers(nn.Module):
    """All encoder layers, named 0, 1, ..."""

    config: Architecture
    functions: tuple[LayerFunctions, ...]

    @nn.compact
    def __call__(
        self, hidden: Array, mask: Array, bias: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Intermediates]:
        """Run every layer in turn."""
        kept = {"hidden_states.0": hidden}
        for i, functions in enumerate(self.functions):
            hidden, parts = Layer(self.config, functions, name=str(i))(hidden, mask, bias, deterministic)
            kept |= {f"layer.{i}.{name}": value for name, value in parts.items()}
            kept[f"hidden_states.{i + 1}"] = hidden
        return hidden, kept


class Encoder(nn.Module):
    """The level of the tree between "bert" and "layer"."""

    config: Architecture
    functions: tuple[LayerFunctions, ...]

    @nn.compact
    def __call__(self, hidden: Array, mask: Array, deterministic: bool = True) -> tuple[Array, Intermediates]:
        """Run the layers."""
        c, bias, kept = self.config, None, {}
        if c.relative_buckets:
            sizes = c.relative_buckets, c.num_attention_heads
            table = Table(*sizes, c.initializer_range, name="relative_attention_bias")
            with jax.named_scope("attention"):
                bias = spread_relative(table(), hidden.shape[1])
            kept = {"attention_bias": bias}
        hidden, parts = Layers(c, self.functions, name="layer")(hidden, mask, bias, deterministic)
        return hidden, kept | parts


class Pooler(nn.Module):
    """activation(dense(first token))."""

    config: Architecture
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """Pool hidden (batch, length, hidden) to (batch, hidden)."""
        first = jax.lax.index_in_dim(hidden, 0, axis=1, keepdims=False)
        return self.activation(dense(self.config, self.config.hidden_size, "dense")(first))
