"""An encoder in Flax Linen, with its nonlinear functions passed as values: one for all families.

The parameter tree is Hugging Face Flax's own for BERT (bert/encoder/layer/0/attention/self/query/kernel, ...), as it
is. Softmax, GeLU and LayerNorm come in as a ``presets.ModelFunctions`` and are applied through `Site`, which also
holds the dealer material of functions that need some. Module names, and so JAX name stacks, tell the part of the model:
embeddings, attention, intermediate, output, pooler, head, classifier, and inside them softmax, gelu, layer_norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from secformer_jax.models.architecture import SHAPES, Architecture
from secformer_jax.models.head_layers import COMPUTE, activation
from secformer_jax.models.heads import HEADS, Head
from secformer_jax.models.layers import (
    Array,
    Embeddings,
    Encoder,
    Intermediates,
    Lookup,
    Pooler,
    Site,
    dense,
    gather,
    one_hot_inside,
)

if TYPE_CHECKING:
    from secformer_jax.functions.presets import ModelFunctions

__all__ = [
    "HEADS",
    "SHAPES",
    "Architecture",
    "Head",
    "ModelWithHead",
    "Site",
    "Transformer",
    "build_model",
    "gather",
    "init_params",
    "one_hot_inside",
    "parameter_count",
    "parameter_shapes",
    "part_of",
    "select_params",
]


class Transformer(nn.Module):
    """Embeddings, encoder and, where asked for, the pooler: last hidden states and all intermediates."""

    config: Architecture
    functions: ModelFunctions
    lookup: Lookup = gather
    pooler: bool = True

    @nn.compact
    def __call__(
        self, tokens: Array, token_types: Array, attention_mask: Array, deterministic: bool = True
    ) -> tuple[Array, Intermediates]:
        """Run the model; see `ModelWithHead` for the inputs."""
        c, f = self.config, self.functions
        if len(f.layers) != c.num_hidden_layers:
            raise ValueError(f"functions for {len(f.layers)} layers, and the model has {c.num_hidden_layers}")
        embeddings = Embeddings(c, f.embeddings_layer_norm, self.lookup, name="embeddings")
        hidden, kept = embeddings(tokens, token_types, deterministic)
        if c.embedding_size:
            with jax.named_scope("embeddings"):
                hidden = dense(c, c.hidden_size, "embeddings_project")(hidden)
        hidden, parts = Encoder(c, f.layers, name="encoder")(hidden, attention_mask, deterministic)
        kept |= parts
        if self.pooler:
            kept["pooled"] = Pooler(c, activation(c.pooler_act), name="pooler")(hidden)
        return hidden, kept


class ModelWithHead(nn.Module):
    """An encoder and a head; called as ``model.apply({"params": params}, tokens, token_types, attention_mask)``.

    ``tokens`` are ids (batch, length) or one-hot (batch, length, vocab_size); ``token_types`` ids or one-hot (batch,
    length, type_vocab_size); ``attention_mask`` (batch, length) of 0 and 1. With ``output_intermediates`` the result is
    (output, dict): hidden_states.{0..N}, embeddings.layer_norm, layer.{i}.softmax (before the mask),
    layer.{i}.attention.layer_norm, layer.{i}.gelu, layer.{i}.output.layer_norm, attention_bias where there
    is one, and pooled where the head has a pooler. With ``deterministic=False`` there is dropout, and
    ``rngs={"dropout": key}`` is needed; otherwise no key is drawn.
    """

    config: Architecture
    functions: ModelFunctions
    head: Head
    lookup: Lookup = gather

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        token_types: Array,
        attention_mask: Array,
        output_intermediates: bool = False,
        deterministic: bool = True,
    ) -> Array | tuple[Array, Intermediates]:
        """Run the model and its head."""
        bert = Transformer(self.config, self.functions, self.lookup, self.head.pooled, name="bert")
        hidden, kept = bert(tokens, token_types, attention_mask, deterministic)
        with jax.named_scope("head"):
            read = kept["pooled"] if self.head.pooled else hidden
            output = COMPUTE[self.head.name](self.config, read, attention_mask, deterministic)
        return (output, kept) if output_intermediates else output


def build_model(config: Architecture, functions: ModelFunctions, head: str, lookup: Lookup = gather) -> ModelWithHead:
    """The model with one of `HEADS`."""
    if head in ("regression", "cross_encoder") and config.num_labels != 1:
        raise ValueError(f"a {head} head has one label, and the config names {config.num_labels}")
    return ModelWithHead(config, functions, HEADS[head], lookup)


def _initializer(config: Architecture, head: str | None) -> Callable[[Array], Any]:
    """rng -> parameters. These don't depend on the functions, so the ones here do nothing."""

    def first(x: Array, *_: Array) -> Array:
        return x

    layer = SimpleNamespace(softmax=first, attention_layer_norm=first, gelu=first, output_layer_norm=first)
    functions: Any = SimpleNamespace(embeddings_layer_norm=first, layers=(layer,) * config.num_hidden_layers)
    model = Transformer(config, functions) if head is None else build_model(config, functions, head)
    ids = jnp.zeros((2, 2), jnp.int32)
    return lambda rng: model.init(rng, ids, ids, jnp.ones((2, 2), jnp.float32))["params"]


def part_of(name_stack: str) -> str:
    """The part of the model that pays for an equation with this JAX name stack."""
    scopes = name_stack.split("/")
    for part in ("softmax", "gelu", "layer_norm"):
        if part in scopes:
            return part
    if "embeddings" in scopes:
        return "embedding"
    if "attention" in scopes:
        return "attention"
    return "feed_forward" if "encoder" in scopes else "head"


def init_params(config: Architecture, head: str, rng: Array) -> dict[str, Any]:
    """Random parameters: kernels and tables normal with ``config.initializer_range``, biases 0, LayerNorm scales 1."""
    return _initializer(config, head)(rng)


def parameter_shapes(config: Architecture, head: str | None) -> dict[str, Any]:
    """The parameter tree as shapes, nothing allocated; with head None that of `Transformer`, pooler included."""
    return jax.eval_shape(_initializer(config, head), jax.random.key(0))


def parameter_count(config: Architecture, head: str | None = None) -> int:
    """Number of parameters; with head None that of `Transformer`, pooler included."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameter_shapes(config, head)))


def select_params(params: Mapping[str, Any], config: Architecture, head: str) -> dict[str, Any]:
    """The part of a parameter tree that the head reads: a sentence head has no use for a checkpoint's pooler."""

    def pick(tree: Any, like: Any) -> Any:
        return {name: pick(tree[name], like[name]) for name in like} if isinstance(like, Mapping) else tree

    return pick(params, parameter_shapes(config, head))
