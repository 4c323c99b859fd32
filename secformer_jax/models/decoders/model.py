"""A decoder in Flax Linen, with a cache of keys and values, and its nonlinear functions passed as values.

A pass takes some new tokens: a whole prompt, or the one token that came last. Which of the cache's places a token
may look at, and where its own keys go, is public (`Places`); how many tokens a text has is not hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.rotary import angles, rotated
from secformer_jax.models.layers import Lookup, Site, Table, gather

Array = jax.Array
Kept = dict[str, Array]
"""What was computed, by place."""


class Functions(NamedTuple):
    """softmax(scores, mask), activation(x) and norm(x, scale, bias); no bias for RMSNorm."""

    softmax: Callable[..., Array]
    activation: Callable[[Array], Array]
    norm: Callable[..., Array]


class Cache(NamedTuple):
    """Keys (already turned) and values of every layer: (layers, batch, key_value_heads, capacity, head_dim)."""

    keys: Array
    values: Array

    @classmethod
    def empty(cls, config: DecoderArchitecture, batch: int, capacity: int) -> Cache:
        """Zeros, which no token looks at."""
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


class Places(NamedTuple):
    """What is public about the new tokens of a pass.

    Attributes:
        start: the first one's place in the cache.
        positions: of each, (new,).
        cosines, sines: of these positions, (new, head_dim) each.
        visible: 1 where a new token looks at a place of the cache, (new, capacity).
        last: which of them gives the logits.
    """

    start: Array
    positions: Array
    cosines: Array
    sines: Array
    visible: Array
    last: Array


def places(
    config: DecoderArchitecture,
    capacity: int,
    filled: np.ndarray,
    new: int,
    *,
    start: int,
    position: int,
    real: int | None = None,
) -> Places:
    """For `new` tokens in a row, of which the first `real` are (by default all), padding behind them.

    Args:
        config: the model.
        capacity: places of the cache.
        filled: bool (capacity,), which of them hold a token already.
        new: how many tokens.
        start: the first one's place.
        position: the first one's position in the text.
        real: how many are no padding.
    """
    real = new if real is None else real
    positions, own = position + np.arange(new), np.arange(capacity)[None, :] - start
    causal = (own >= 0) & (own <= np.arange(new)[:, None]) & (own < real)
    cosines = sines = np.zeros((new, config.head_dim), np.float32)
    if config.rotary is not None:
        cosines, sines = angles(config.rotary, config.head_dim, positions)
    visible = causal | filled[None, :]
    found = np.int32(start), positions.astype(np.int32), cosines, sines, visible.astype(np.float32), np.int32(real - 1)
    return Places(*map(jnp.asarray, found))


class Norm(nn.Module):
    """Holds scale and bias; ``function(x, scale, bias)`` does the work."""

    config: DecoderArchitecture
    function: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        affine = [scale]
        if not self.config.rms_norm:
            affine.append(self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32))
        return Site(self.function, name="layer_norm")(x, *affine)


class Attention(nn.Module):
    """Causal attention with fewer heads of keys than of queries, over what the cache holds."""

    config: DecoderArchitecture
    softmax: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array, at: Places, keys: Array, values: Array) -> tuple[Array, Array, Array, Kept]:
        """x (batch, new, hidden) to the same, with the cache's keys and values of this layer before and after."""
        c = self.config
        batch, new = x.shape[:2]

        def heads(name: str, count: int) -> Array:
            found = linear(c, count * c.head_dim, name, c.attention_bias)(x)
            return found.reshape(batch, new, count, c.head_dim).transpose(0, 2, 1, 3)

        query, key, value = (
            heads(name, count)
            for name, count in (
                ("query", c.num_attention_heads),
                ("key", c.num_key_value_heads),
                ("value", c.num_key_value_heads),
            )
        )
        query = query * (1 / math.sqrt(c.head_dim))
        if c.rotary is not None:
            query, key = (rotated(part, at.cosines, at.sines) for part in (query, key))
        zero = jnp.zeros((), jnp.int32)
        keys, values = (
            jax.lax.dynamic_update_slice(cached, rows.astype(cached.dtype), (zero, zero, at.start, zero))
            for cached, rows in ((keys, key), (values, value))
        )
        grouped = query.reshape(batch, c.num_key_value_heads, c.queries_per_key, new, c.head_dim)
        scores = jnp.einsum("bkgqd,bktd->bkgqt", grouped, keys)
        weights = Site(self.softmax, name="softmax")(scores, at.visible.astype(scores.dtype))
        context = jnp.einsum("bkgqt,bktd->bkgqd", weights, values)
        context = context.reshape(batch, c.num_attention_heads, new, c.head_dim).transpose(0, 2, 1, 3)
        merged = context.reshape(batch, new, c.num_attention_heads * c.head_dim)
        kept = {"query": query, "key": key, "value": value, "softmax": scores}
        return linear(c, c.hidden_size, "output", c.attention_bias)(merged), keys, values, kept


class FeedForward(nn.Module):
    """down(act(gate x) up x), or down(act(up x))."""

    config: DecoderArchitecture
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Kept]:
        """x (batch, new, hidden) to the same; also what goes into the activation, and what comes of the product."""
        c = self.config
        before = linear(c, c.intermediate_size, "gate" if c.gated else "up", c.feed_forward_bias)(x)
        after, kept = Site(self.activation, name="gelu")(before), {"activation": before}
        if c.gated:
            up = linear(c, c.intermediate_size, "up", c.feed_forward_bias)(x)
            after = after * up
            kept |= {"up": up, "product": after}
        return linear(c, c.hidden_size, "down", c.feed_forward_bias)(after), kept


def linear(config: DecoderArchitecture, features: int, name: str, bias: bool) -> nn.Dense:
    """A linear layer."""
    start = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, use_bias=bias, kernel_init=start, name=name)


class Layer(nn.Module):
    """x + attention(norm(x)), then that and feed_forward(norm(..))."""

    config: DecoderArchitecture
    functions: Functions

    @nn.compact
    def __call__(self, x: Array, at: Places, keys: Array, values: Array) -> tuple[Array, Array, Array, Kept]:
        """See `Attention`; what is kept is keyed without the layer's own prefix."""
        c, f = self.config, self.functions
        normed = Norm(c, f.norm, name="attention_norm")(x)
        change, keys, values, kept = Attention(c, f.softmax, name="attention")(normed, at, keys, values)
        middle = x + change
        normed = Norm(c, f.norm, name="feed_forward_norm")(middle)
        change, more = FeedForward(c, f.activation, name="feed_forward")(normed)
        return middle + change, keys, values, {"attention_norm": x, "feed_forward_norm": middle, **kept, **more}


class Layers(nn.Module):
    """All layers, named 0, 1, ..."""

    config: DecoderArchitecture
    functions: Functions

    @nn.compact
    def __call__(self, x: Array, at: Places, cache: Cache) -> tuple[Array, Cache, Kept]:
        """Run every layer in turn."""
        keys, values = [], []
        kept: Kept = {}
        for i in range(self.config.num_hidden_layers):
            layer = Layer(self.config, self.functions, name=str(i))
            x, key, value, parts = layer(x, at, cache.keys[i], cache.values[i])
            keys.append(key)
            values.append(value)
            kept |= {f"layer.{i}.{name}": part for name, part in parts.items()}
        return x, Cache(jnp.stack(keys), jnp.stack(values)), kept


class Decoder(nn.Module):
    """The whole model; called as ``model.apply({"params": params}, tokens, at, cache)``."""

    config: DecoderArchitecture
    functions: Functions
    lookup: Lookup = gather

    @nn.compact
    def __call__(self, tokens: Array, at: Places, cache: Cache, every: bool = False) -> tuple[Array, Cache, Kept]:
        """Logits of the new token `at.last` (batch, vocab_size), the cache with the new tokens, and what was computed.

        Args:
            tokens: ids (batch, new), or one-hot rows (batch, new, vocab_size).
            at: see `Places`.
            cache: see `Cache`.
            every: the logits of all new tokens, (batch, new, vocab_size).
        """
        c = self.config
        table = Table(c.vocab_size, c.hidden_size, c.initializer_range, name="embeddings")()
        x = self.lookup(tokens, table) if tokens.ndim == 2 else tokens.astype(table.dtype) @ table
        if c.rotary is None:
            positions = Table(c.max_position_embeddings, c.hidden_size, c.initializer_range, name="positions")()
            x = x + jnp.take(positions, at.positions, axis=0)
        x, cache, kept = Layers(c, self.functions, name="layers")(x, at, cache)
        kept["norm"] = x
        if not every:
            x = jax.lax.dynamic_slice_in_dim(x, at.last, 1, axis=1)
        x = Norm(c, self.functions.norm, name="norm")(x)
        with jax.named_scope("head"):
            logits = x @ table.T if c.tied else linear(c, c.vocab_size, "head", False)(x)
        return (logits if every else logits[:, 0]), cache, kept


def parameter_shapes(config: DecoderArchitecture) -> dict[str, Any]:
    """The parameter tree as shapes, nothing allocated."""

    def first(x: Array, *_: Any) -> Array:
        return x

    model = Decoder(config, Functions(first, first, first))
    at = places(config, 1, np.zeros(1, bool), 1, start=0, position=0)
    make = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32), at, Cache.empty(config, 1, 1))
    return make["params"]
