"""The layers of BERT as Flax modules, down to the places where a nonlinear function is applied."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
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


class Place(nn.Module):
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
        return Place(self.function, name="layer_norm")(x, gamma, beta)


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
        if length > c.max_position_embeddings:
            raise UserError(
                f"sequence of {length} tokens, and the model has {c.max_position_embeddings} positions: "
                f"pass --max-length {c.max_position_embeddings} or less"
            )

        def table(rows: int, name: str) -> Array:
            return Table(rows, c.hidden_size, c.initializer_range, name=name)()

        def embed(rows: Array, table: Array) -> Array:
            return self.lookup(rows, table) if rows.ndim == 2 else rows.astype(table.dtype) @ table

        words = embed(tokens, table(c.vocab_size, "word_embeddings"))
        types = embed(token_types, table(c.type_vocab_size, "token_type_embeddings"))
        x = words + types + table(c.max_position_embeddings, "position_embeddings")[:length]
        hidden = LayerNorm(self.layer_norm, name="LayerNorm")(x)
        hidden = nn.Dropout(c.hidden_dropout_prob)(hidden, deterministic=deterministic)
        return hidden, {"embeddings.pre_layer_norm": x}


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(head_dim), mask) V for all heads; also returns the scores before the softmax."""

    config: Architecture
    softmax: Callable[..., Array]

    @nn.compact
    def __call__(self, hidden: Array, mask: Array, deterministic: bool = True) -> tuple[Array, Array]:
        """Attend: hidden (batch, length, hidden), mask (batch, length) of 0 and 1."""
        c = self.config
        split = (*hidden.shape[:2], c.num_attention_heads, c.head_dim)
        query = dense(c, c.hidden_size, "query")(hidden).reshape(split) * (1 / math.sqrt(c.head_dim))
        key = dense(c, c.hidden_size, "key")(hidden).reshape(split)
        value = dense(c, c.hidden_size, "value")(hidden).reshape(split)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        probabilities = Place(self.softmax, name="softmax")(scores, mask[:, None, None, :].astype(scores.dtype))
        probabilities = nn.Dropout(c.attention_probs_dropout_prob)(probabilities, deterministic=deterministic)
        context = jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)
        return context.reshape(hidden.shape), scores


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
    """Self-attention and its output; also returns the scores and the sum before LayerNorm."""

    config: Architecture
    functions: LayerFunctions

    @nn.compact
    def __call__(self, hidden: Array, mask: Array, deterministic: bool = True) -> tuple[Array, Array, Array]:
        """Attend and add to the residual stream."""
        context, scores = SelfAttention(self.config, self.functions.softmax, name="self")(hidden, mask, deterministic)
        output = Output(self.config, self.functions.attention_layer_norm, name="output")
        return *output(context, hidden, deterministic), scores


class Intermediate(nn.Module):
    """Dense, then GeLU; also returns the values before GeLU."""

    config: Architecture
    gelu: Callable[..., Array]

    @nn.compact
    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """gelu(dense(hidden))."""
        x = dense(self.config, self.config.intermediate_size, "dense")(hidden)
        return Place(self.gelu, name="gelu")(x), x


class Layer(nn.Module):
    """One encoder layer: attention, then the feed-forward part."""

    config: Architecture
    functions: LayerFunctions

    @nn.compact
    def __call__(self, hidden: Array, mask: Array, deterministic: bool = True) -> tuple[Array, Intermediates]:
        """Run the layer; intermediates are keyed without the layer's own prefix."""
        f = self.functions
        hidden, attention_sum, scores = Attention(self.config, f, name="attention")(hidden, mask, deterministic)
        x, pre_gelu = Intermediate(self.config, f.gelu, name="intermediate")(hidden)
        hidden, output_sum = Output(self.config, f.output_layer_norm, name="output")(x, hidden, deterministic)
        return hidden, {
            "attention_scores": scores,
            "attention.pre_layer_norm": attention_sum,
            "pre_gelu": pre_gelu,
            "output.pre_layer_norm": output_sum,
        }


class Layers(nn.Module):
    """All encoder layers, named 0, 1, ..."""

    config: Architecture
    functions: tuple[LayerFunctions, ...]

    @nn.compact
    def __call__(self, hidden: Array, mask: Array, deterministic: bool = True) -> tuple[Array, Intermediates]:
        """Run every layer in turn."""
        kept = {"hidden_states.0": hidden}
        for i, functions in enumerate(self.functions):
            hidden, parts = Layer(self.config, functions, name=str(i))(hidden, mask, deterministic)
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
        return Layers(self.config, self.functions, name="layer")(hidden, mask, deterministic)


class Pooler(nn.Module):
    """tanh(dense(first token))."""

    config: Architecture
    tanh: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """Pool hidden (batch, length, hidden) to (batch, hidden)."""
        first = jax.lax.index_in_dim(hidden, 0, axis=1, keepdims=False)
        return self.tanh(dense(self.config, self.config.hidden_size, "dense")(first))
