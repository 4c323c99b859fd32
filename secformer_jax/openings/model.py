"""An encoder by masked openings: what `transformer.Transformer` computes, in few messages.

Every nonlinear function is a series or a product of openings; nothing is compared. A value that serves several
products is opened once. Values carry explicit scales (`scales`); weights come folded (`fold`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from secformer_jax.functions.series import Series, fit_gelu_tail, fit_tanh
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.heads import Head, activation
from secformer_jax.models.layers import Pooler, spread_relative
from secformer_jax.mpc.material import Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, fixed, open_together, truncated
from secformer_jax.mpc.primitives.products import WeightProducts
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys, Softmax, attend
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.plan import LayerPlan, Plan


class SquareAndScale(Material):
    """Masks for the sum of x's squares over the last axis, and for the product of x with one number a row."""

    a: jax.Array
    squares: jax.Array
    b: jax.Array
    ab: jax.Array

    @classmethod
    def abstract(cls, shape: tuple[int, ...]) -> SquareAndScale:
        """Shapes for x."""
        zeros, row = jnp.zeros(shape, jnp.int64), jnp.zeros((*shape[:-1], 1), jnp.int64)
        return cls(zeros, row, row, zeros)

    def deal(self, randomness: Randomness, resident) -> SquareAndScale:
        """Fresh masks; see Material."""
        a, b = randomness.bits(self.a.shape), randomness.bits(self.b.shape)
        return self.replace(a=a, squares=np.sum(a * a, axis=-1, keepdims=True), b=b, ab=a * b)

    def square_sum(self, e: jax.Array) -> jax.Array:
        """The sum of squares, from x - a opened."""
        return jnp.sum(e * (e + 2 * self.a), axis=-1, keepdims=True) + self.squares

    def scaled(self, e: jax.Array, row: jax.Array, row_e: jax.Array) -> jax.Array:
        """x times the row's number, from both openings."""
        return e * row + (self.a * row_e + self.ab)


class LayerNorm(Block):
    """x (var x)^(-1/2) for x without its mean; gamma and beta are the readers' part. 5 messages."""

    inverse_deviation: Series

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """Normalise the last axis: from CENTRED to HIDDEN fraction bits."""
        with jax.named_scope("layer_norm"):
            row = (*x.shape[:-1], 1)
            # The sum of squares is read as a number between one and two variances: a change of scale.
            bits = 2 * x.bits + x.shape[-1].bit_length() - 1
            masks = self.material("masks", lambda: SquareAndScale.abstract(x.shape))
            series = self.material("series", lambda: row_series(self.inverse_deviation, row, bits, scales.RSQRT))
            [e] = open_together([x.ring - masks.a])
            [opening] = open_together([series.masked(Fixed(masks.square_sum(e), bits))])
            inverse = narrowed(self, "pair", series.finish(opening), scales.ROW_TRUNCATION)
            [inverse_e] = open_together([inverse.ring - masks.b])
            product = Fixed(masks.scaled(e, inverse.ring, inverse_e), x.bits + inverse.bits)
            return truncated([product], scales.TRUNCATION)[0]


class Attention(Block):
    """Attention and the residual sum: hidden states to the input of the next LayerNorm. 11 messages with 2Quad."""

    config: Architecture
    plan: LayerPlan
    softmax: Softmax

    @nn.compact
    def __call__(self, x: Fixed, bias: jax.Array | None, keys: Keys) -> Fixed:
        """x (batch, length, hidden) normalised, or embeddings before their projection; bias: see `Softmax`."""
        c, (batch, length, read), width = self.config, x.shape, self.config.hidden_size
        qkv, qkv_bias = self.weight("qkv_kernel", read, 3 * width), self.weight("qkv_bias", 3 * width)
        residual = Residual(width, projected=read != width, name="residual")
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(
                x.shape, qkv=("matmul", self.mask_name("qkv_kernel"), (read, 3 * width)), **residual.products(read)
            ),
        )
        [e] = open_together([x.ring - masks.a])
        summed = residual(e, masks)
        raw = masks.times("qkv", e, qkv) + qkv_bias.ring
        [raw_truncated] = truncated([Fixed(raw, scales.TRUNCATION)], scales.TRUNCATION)

        def heads(index: int, bits: int) -> Fixed:
            part = raw_truncated.ring[..., index * width : (index + 1) * width]
            return Fixed(part.reshape(batch, length, -1, c.head_dim).transpose(0, 2, 1, 3), bits)

        query, key, value = heads(0, scales.QUERY), heads(1, scales.KEY), heads(2, scales.VALUE)
        context = attend(self.softmax, self, query, key, value, bias, keys, self.plan)
        merged = Fixed(context.ring.transpose(0, 2, 1, 3).reshape(batch, length, width), context.bits)
        return truncated([summed + project(self, merged, width, scales.SUM)], scales.TRUNCATION)[0]


class FeedForward(Block):
    """gelu(x W + b) W + b and the residual sum, to the input of the next LayerNorm. 4 messages."""

    config: Architecture
    plan: LayerPlan

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """x (batch, length, hidden) normalised."""
        width, inner = self.config.hidden_size, self.config.intermediate_size
        kernel, bias = self.weight("in_kernel", width, inner), self.weight("in_bias", inner)
        residual = Residual(width, name="residual")
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(
                x.shape, inner=("matmul", self.mask_name("in_kernel"), (width, inner)), **residual.products(width)
            ),
        )
        [e] = open_together([x.ring - masks.a])
        summed = residual(e, masks)
        before = Fixed(masks.times("inner", e, kernel) + bias.ring, scales.FEED_IN)
        after = gelu(self, before, self.plan.gelu)
        total = summed + project(self, after, width, scales.FEED_OUT)
        return narrowed(self, "pair", total, scales.FEED_OUT - scales.CENTRED)


def gelu(block: Block, x: Fixed, tail: Series) -> Fixed:
    """x/2 + tail(x), from FEED_IN to GELU fraction bits: one opening.

    x/2 is x's own ring element read with one fraction bit more.
    """
    with jax.named_scope("gelu"):
        masks = block.material(
            "gelu",
            lambda: OpenedSeries.abstract(
                tail,
                x.shape,
                bits=scales.FEED_IN,
                mask_bits=scales.GELU - scales.GELU_PUBLIC,
                public_bits=scales.GELU_PUBLIC,
                trigonometry_bits=scales.GELU_PUBLIC,
            ),
        )
        [opening] = open_together([masks.masked(x)])
        return masks.finish(opening) + Fixed(x.ring, scales.FEED_IN + 1)


class Residual(Block):
    """gamma x + beta without its mean, and the block's own bias: from the same opening as the block's matmul.

    Where x is projected first (ELECTRA's embeddings), the projection takes the place of gamma and of the mean.
    """

    width: int
    projected: bool = False

    @nn.compact
    def __call__(self, e: jax.Array, masks: WeightProducts) -> Fixed:
        """At SUM fraction bits, untruncated."""
        bias = self.weight("bias", self.width)
        if self.projected:
            kernel = self.weight("kernel", e.shape[-1], self.width)
            return Fixed(masks.times("kernel", e, kernel) + bias.ring, scales.SUM)
        gamma, mean = self.weight("gamma", self.width), self.weight("mean", self.width, 1)
        return Fixed(masks.times("gamma", e, gamma) - masks.times("mean", e, mean) + bias.ring, scales.SUM)

    def products(self, read: int) -> dict[str, tuple[str, str, tuple[int, ...]]]:
        """What the mask of the input, `read` wide, has to be multiplied with."""
        if self.projected:
            return {"kernel": ("matmul", self.mask_name("kernel"), (read, self.width))}
        return {
            "gamma": ("scale", self.mask_name("gamma"), (read,)),
            "mean": ("matmul", self.mask_name("mean"), (read, 1)),
        }


def project(block: Block, x: Fixed, width: int, bits: int) -> Fixed:
    """x times the output kernel, untruncated: one opening."""
    kernel = block.weight("out_kernel", x.shape[-1], width)
    masks = block.material(
        "output",
        lambda: WeightProducts.abstract(x.shape, out=("matmul", block.mask_name("out_kernel"), (x.shape[-1], width))),
    )
    [e] = open_together([x.ring - masks.a])
    return Fixed(masks.times("out", e, kernel), bits)


class Embeddings(Block):
    """Rows of the word and token type tables, and positions, without their mean. 2 messages."""

    config: Architecture

    @nn.compact
    def __call__(self, one_hot: jax.Array) -> Fixed:
        """one_hot (batch, length, vocab_size + type_vocab_size): integers."""
        c, rows = self.config, one_hot.shape[-1]
        table, positions = (
            self.weight("table", rows, c.embedding_width),
            self.weight("positions", c.max_position_embeddings, c.embedding_width),
        )
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(
                one_hot.shape, table=("matmul", self.mask_name("table"), (rows, c.embedding_width))
            ),
        )
        [e] = open_together([one_hot - masks.a])
        read = slice(c.position_offset, c.position_offset + one_hot.shape[1])
        total = Fixed(masks.times("table", e, table) + positions.ring[read], scales.SUM)
        return truncated([total], scales.TRUNCATION)[0]


class OpenedModel(Block):
    """The whole model, with one of `HEADS` on SPU's own arithmetic."""

    config: Architecture
    plan: Plan
    head: Head
    softmax: Softmax
    fraction_bits: int = 18

    @nn.compact
    def __call__(
        self, one_hot: jax.Array, key_weights: jax.Array, key_means: jax.Array, attention_mask: jax.Array
    ) -> jax.Array:
        """What the head gives, as in `transformer.ModelWithHead`.

        Args:
            one_hot: int64 (batch, length, vocab_size + type_vocab_size).
            key_weights, key_means: int64 (batch, length), see `Keys`.
            attention_mask: float (batch, length) of 0 and 1.
        """
        c, plan = self.config, self.plan
        with jax.named_scope("embeddings"):
            x = Embeddings(c, name="embeddings")(one_hot)
            x = LayerNorm(plan.embeddings_norm, name="embeddings_norm")(x)
        keys, bias = Keys(key_weights, key_means), None
        if c.relative_buckets:
            table = self.weight("relative_bias", c.relative_buckets, c.num_attention_heads)
            with jax.named_scope("attention"):
                bias = spread_relative(table.ring, one_hot.shape[1])
        with jax.named_scope("encoder"):
            for i, layer in enumerate(plan.layers):
                with jax.named_scope("attention"):
                    x = Attention(c, layer, self.softmax, name=f"layer_{i}_attention")(x, bias, keys)
                x = LayerNorm(layer.attention_norm, name=f"layer_{i}_attention_norm")(x)
                x = FeedForward(c, layer, name=f"layer_{i}_feed_forward")(x)
                x = LayerNorm(layer.output_norm, name=f"layer_{i}_output_norm")(x)
        with jax.named_scope("head"):
            gamma, beta = self.weight("gamma", c.hidden_size), self.weight("beta", c.hidden_size)
            if self.head.first_token(c):
                x = Fixed(x.ring[:, :1], x.bits)
            masks = self.material(
                "last",
                lambda: WeightProducts.abstract(x.shape, gamma=("scale", self.mask_name("gamma"), gamma.mask.shape)),
            )
            [e] = open_together([x.ring - masks.a])
            [hidden] = truncated([Fixed(masks.times("gamma", e, gamma) + beta.ring, scales.SUM)], scales.TRUNCATION)
            values = hidden.real(self.fraction_bits)
            if self.head.pooled:
                values = Pooler(c, self._pooler_activation, name="pooler")(values)
            return self.head.compute(c, values, attention_mask, True)

    def _pooler_activation(self, x: jax.Array) -> jax.Array:
        if self.config.pooler_act == "tanh":
            return self._series("tanh", fit_tanh(), x)
        if self.config.pooler_act == "gelu":
            return x / 2 + self._series("pooler_gelu", fit_gelu_tail(fit_tanh().high), x)
        return activation(self.config.pooler_act)(x)

    def _series(self, name: str, series: Series, x: jax.Array) -> jax.Array:
        """A series of SPU's own numbers: one opening, and one for the scale."""
        masks = self.material(name, lambda: row_series(series, x.shape, self.fraction_bits, scales.RSQRT))
        [opening] = open_together([masks.masked(fixed(x, self.fraction_bits))])
        return narrowed(self, f"{name}_pair", masks.finish(opening), scales.ROW_TRUNCATION).real(self.fraction_bits)
