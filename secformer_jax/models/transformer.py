"""BERT in Flax Linen, with its nonlinear functions passed as values.

The parameter tree is Hugging Face Flax's own (bert/encoder/layer/0/attention/self/query/kernel, ...), as it is.
Softmax, GeLU and LayerNorm come in as a ``presets.ModelFunctions`` and are applied through `Place`, which also
holds the dealer material of functions that need some. Module names, and so JAX name stacks, tell the part of the model:
embeddings, attention, intermediate, output, pooler, head, classifier, and inside them softmax, gelu, layer_norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from secformer_jax.models.architecture import SHAPES, Architecture
from secformer_jax.models.layers import (
    Array,
    Embeddings,
    Encoder,
    Intermediates,
    Lookup,
    Place,
    Pooler,
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
    "ModelWithHead",
    "Place",
    "SentenceEmbedding",
    "SentencePair",
    "SequenceClassification",
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
        hidden, parts = Encoder(c, f.layers, name="encoder")(hidden, attention_mask, deterministic)
        kept |= parts
        if self.pooler:
            kept["pooled"] = Pooler(c, name="pooler")(hidden)
        return hidden, kept


class ModelWithHead(nn.Module):
    """BERT and a head; called as ``model.apply({"params": params}, tokens, token_types, attention_mask)``.

    ``tokens`` are ids (batch, length) or one-hot (batch, length, vocab_size); ``token_types`` ids or one-hot (batch,
    length, type_vocab_size); ``attention_mask`` (batch, length) of 0 and 1. With ``output_intermediates`` the result is
    (output, dict): hidden_states.{0..N}, embeddings.pre_layer_norm, layer.{i}.attention_scores (before the mask),
    layer.{i}.attention.pre_layer_norm, layer.{i}.pre_gelu, layer.{i}.output.pre_layer_norm, and pooled where the head
    has a pooler. With ``deterministic=False`` there is dropout, and ``rngs={"dropout": key}`` is needed; otherwise no
    key is drawn.
    """

    config: Architecture
    functions: ModelFunctions
    lookup: Lookup = gather

    pooler: ClassVar[bool] = False

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
        bert = Transformer(self.config, self.functions, self.lookup, self.pooler, name="bert")
        hidden, kept = bert(tokens, token_types, attention_mask, deterministic)
        with jax.named_scope("head"):
            output = self.head(kept["pooled"] if self.pooler else hidden, attention_mask, deterministic)
        return (output, kept) if output_intermediates else output

    def head(self, hidden: Array, mask: Array, deterministic: bool) -> Array:
        """What the head makes of the pooled output, or of the last hidden states if it has no pooler."""
        raise NotImplementedError


class SequenceClassification(ModelWithHead):
    """Logits (batch, num_labels): classification, or regression with one label."""

    pooler: ClassVar[bool] = True

    def head(self, hidden: Array, mask: Array, deterministic: bool) -> Array:
        """Dropout, then the linear classifier."""
        c = self.config
        rate = c.hidden_dropout_prob if c.classifier_dropout is None else c.classifier_dropout
        return dense(c, c.num_labels, "classifier")(nn.Dropout(rate)(hidden, deterministic=deterministic))


class SentenceEmbedding(ModelWithHead):
    """Mean of the last hidden states over the tokens of the text: (batch, hidden)."""

    def head(self, hidden: Array, mask: Array, deterministic: bool) -> Array:
        """Masked mean, with one reciprocal a text."""
        mask = mask.astype(hidden.dtype)
        return jnp.einsum("bn,bnh->bh", mask, hidden) * (1 / mask.sum(axis=1))[:, None]


def cosine_of_pairs(hidden: Array, mask: Array) -> Array:
    """Cosines (batch / 2,) of the mean-pooled embeddings of the texts in rows 2i and 2i+1 of the batch.

    The sum over the tokens needs no division by their number, which cancels. It is divided by the public sqrt(length),
    so that its squared norm (count^2 / length times the mean's own) keeps well inside fixed point at both
    ends. One rsqrt for each text, not one of the product, whose range would be the square of that.
    """
    mask = mask.astype(hidden.dtype) * (1 / math.sqrt(hidden.shape[1]))
    pooled = jnp.einsum("bn,bnh->bh", mask, hidden)
    units = pooled * jax.lax.rsqrt(jnp.sum(pooled * pooled, axis=1))[:, None]
    pairs = units.reshape(-1, 2, units.shape[1])
    first, second = (jax.lax.index_in_dim(pairs, i, axis=1, keepdims=False) for i in (0, 1))
    return jnp.sum(first * second, axis=1)


class SentencePair(ModelWithHead):
    """`cosine_of_pairs`: the similarity of two texts."""

    def head(self, hidden: Array, mask: Array, deterministic: bool) -> Array:
        """Pool, scale to length 1, inner product."""
        return cosine_of_pairs(hidden, mask)


HEADS: dict[str, type[ModelWithHead]] = {
    "classification": SequenceClassification,
    "regression": SequenceClassification,
    "embedding": SentenceEmbedding,
    "similarity": SentencePair,
}


def build_model(config: Architecture, functions: ModelFunctions, head: str, lookup: Lookup = gather) -> ModelWithHead:
    """The model with one of `HEADS`."""
    if head == "regression" and config.num_labels != 1:
        raise ValueError(f"a regression head has one label, and the config names {config.num_labels}")
    return HEADS[head](config, functions, lookup)


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
