"""An encoder by masked openings: what `transformer.Transformer` computes, in few messages.

Every nonlinear function is a series or a product of openings; nothing is compared. A value that serves several
products is opened once. Values carry explicit scales (`scales`) and rings (`plan`); weights come folded (`fold`).
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
from flax import linen as nn

from secformer_jax.functions.series import Series
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.head_layers import COMPUTE, activation
from secformer_jax.models.heads import Head
from secformer_jax.models.layers import Pooler, spread_relative
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, fixed, open_together
from secformer_jax.mpc.primitives.products import WeightProducts
from secformer_jax.mpc.primitives.scaled import NormPair
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys, Softmax, at_tokens, attend
from secformer_jax.openings.block import Block, narrowed, project, row_series
from secformer_jax.openings.constants import HEAD_WIDTH, LayerPlan, NormPlan, Plan


class LayerNorm(Block):
    """x (var x)^(-1/2) for x without its mean; gamma and beta are the readers' part. 4 messages."""

    plan: NormPlan
    width: int

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """Normalise the last axis: x untruncated, the result with HIDDEN fraction bits modulo 2^width."""
        with jax.named_scope("layer_norm"):
            plan, row = self.plan, (*x.shape[:-1], 1)
            # The sum of squares is read as a number between one and two variances: a change of scale.
            bits = 2 * plan.centred + x.shape[-1].bit_length() - 1
            # Two bits finer than it is kept: an error of the inverse deviation is one of a whole row.
            series = self.material("series", lambda: row_series(plan.series, row, bits, plan.inverse + 2))
            result = self.width + plan.centred + plan.inverse - scales.HIDDEN
            masks = self.material(
                "masks",
                lambda: NormPair.abstract(x.shape, x.bits - plan.centred, x.width, result, series.modulus_bits),
            )
            [opening] = open_together([masks.scaled.pair.masked(x)])
            [squares] = open_together([series.masked(masks.square_sum(opening, bits))])
            inverse = narrowed(self, "pair", series.finish(squares), plan.inverse, result)
            [inverse_e] = open_together([inverse.masked(masks.scaled.b, masks.scaled.pair.result)])
            return masks.scaled.times(opening, x, inverse, inverse_e).rounded(scales.HIDDEN)


class Attention(Block):
    """Attention and the residual sum: hidden states to the input of the next LayerNorm. 9 messages with 2Quad."""

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
                x.shape,
                x.width,
                qkv=("matmul", self.mask_name("qkv_kernel"), (read, 3 * width)),
                **residual.products(read),
            ),
        )
        [e] = open_together([x.masked(masks.a, masks.width)])
        summed = residual(e, masks)
        raw = masks.times("qkv", e, qkv) + qkv_bias.ring
        softmax = self.plan.softmax
        parts = {"query": scales.QUERY, "key": scales.KEY, "value": scales.VALUE}
        rings = dict.fromkeys(parts, softmax.score_width) | {"value": softmax.sums_width}
        before, pairs = {}, {}
        for index, (name, bits) in enumerate(parts.items()):
            part = raw[..., index * width : (index + 1) * width].reshape(batch, length, -1, c.head_dim)
            before[name] = Fixed(part.transpose(0, 2, 1, 3), scales.SUM, x.width)
            make = functools.partial(
                TruncationPair.abstract, before[name].shape, scales.SUM - bits, x.width, rings[name]
            )
            pairs[name] = self.material(f"{name}_pair", make)
        openings = open_together([pairs[name].masked(before[name]) for name in parts])
        query, key, value = (
            pairs[name].finish(opening, before[name]) for name, opening in zip(parts, openings, strict=True)
        )
        context = attend(self.softmax, self, query, key, value, bias, keys, softmax, x.width)
        merged = context.replace(ring=context.ring.transpose(0, 2, 1, 3).reshape(batch, length, width))
        return summed + project(self, merged, width, scales.SUM)


class FeedForward(Block):
    """gelu(x W + b) W + b and the residual sum, to the input of the next LayerNorm. 3 messages.

    With gelu(u) = u/2 + tail(u), the half is linear in x, and so part of the residual's kernel (`fold`).
    """

    config: Architecture
    plan: LayerPlan

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """x (batch, length, hidden) normalised."""
        width, inner = self.config.hidden_size, self.config.intermediate_size
        kernel, bias = self.weight("in_kernel", width, inner), self.weight("in_bias", inner)
        residual = Residual(width, projected=True, name="residual")
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(
                x.shape,
                x.width,
                inner=("matmul", self.mask_name("in_kernel"), (width, inner)),
                **residual.products(width),
            ),
        )
        [e] = open_together([x.masked(masks.a, masks.width)])
        summed = residual(e, masks)
        before = Fixed(masks.times("inner", e, kernel) + bias.ring, scales.SUM, x.width)
        after = gelu_tail(self, before, self.plan.gelu, x.width).rounded(scales.FEED)
        return summed + project(self, after, width, scales.SUM)


def gelu_tail(block: Block, x: Fixed, tail: Series, width: int) -> Fixed:
    """tail(x), which leaves FEED fraction bits modulo 2^width when it is rounded: one opening."""
    bits = scales.GELU_PUBLIC + scales.GELU_MASK
    with jax.named_scope("gelu"):
        masks = block.material(
            "gelu",
            lambda: OpenedSeries.abstract(
                tail,
                x.shape,
                bits=scales.GELU_OPENED - round(math.log2(tail.period)),
                mask_bits=scales.GELU_MASK,
                public_bits=scales.GELU_PUBLIC,
                width=width + bits - scales.FEED,
                coarse=True,
            ),
        )
        [opening] = open_together([masks.masked(x)])
        return masks.finish(opening)


class Residual(Block):
    """gamma x + beta without its mean, and the block's own bias: from the same opening as the block's matmul.

    Where more than gamma is linear in x (half of GeLU, or ELECTRA's projection of embeddings), a kernel has all of it.
    """

    width: int
    projected: bool = False

    @nn.compact
    def __call__(self, e: jax.Array, masks: WeightProducts) -> Fixed:
        """At SUM fraction bits, untruncated."""
        bias = self.weight("bias", self.width)
        if self.projected:
            kernel = self.weight("kernel", e.shape[-1], self.width)
            return Fixed(masks.times("kernel", e, kernel) + bias.ring, scales.SUM, masks.width)
        gamma, mean = self.weight("gamma", self.width), self.weight("mean", self.width, 1)
        ring = masks.times("gamma", e, gamma) - masks.times("mean", e, mean) + bias.ring
        return Fixed(ring, scales.SUM, masks.width)

    def products(self, read: int) -> dict[str, tuple[str, str, tuple[int, ...]]]:
        """What the mask of the input, `read` wide, has to be multiplied with."""
        if self.projected:
            return {"kernel": ("matmul", self.mask_name("kernel"), (read, self.width))}
        return {
            "gamma": ("scale", self.mask_name("gamma"), (read,)),
            "mean": ("matmul", self.mask_name("mean"), (read, 1)),
        }


class Embeddings(Block):
    """Rows of the word and token type tables, and positions, without their mean, untruncated. 1 message."""

    config: Architecture
    bits: int
    width: int

    @nn.compact
    def __call__(self, one_hot: jax.Array) -> Fixed:
        """one_hot (batch, length, vocab_size + type_vocab_size): integers modulo 2^width."""
        c, rows = self.config, one_hot.shape[-1]
        table, positions = (
            self.weight("table", rows, c.embedding_width),
            self.weight("positions", c.max_position_embeddings, c.embedding_width),
        )
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(
                one_hot.shape, self.width, table=("matmul", self.mask_name("table"), (rows, c.embedding_width))
            ),
        )
        [e] = open_together([Fixed(one_hot, 0, self.width).masked(masks.a, masks.width)])
        read = slice(c.position_offset, c.position_offset + one_hot.shape[1])
        return Fixed(masks.times("table", e, table) + positions.ring[read], self.bits, self.width)


class OpenedModel(Block):
    """The whole model, with one of `HEADS` on SPU's own arithmetic."""

    config: Architecture
    plan: Plan
    head: Head
    softmax: Softmax
    fraction_bits: int = 18

    @nn.compact
    def __call__(self, one_hot: jax.Array, counts: jax.Array) -> jax.Array:
        """What the head gives, as in `transformer.ModelWithHead`.

        Args:
            one_hot: int64 (batch, length, vocab_size + type_vocab_size).
            counts: int64 (batch, length), one-hot: how many tokens each text has, see `Keys`.
        """
        c, plan = self.config, self.plan
        with jax.named_scope("embeddings"):
            x = Embeddings(c, plan.table_bits, plan.table_width, name="embeddings")(one_hot)
            x = LayerNorm(plan.embeddings_norm, plan.layers[0].width, name="embeddings_norm")(x)
        keys, bias = Keys.of(counts), None
        if c.relative_buckets:
            table = self.weight("relative_bias", c.relative_buckets, c.num_attention_heads)
            with jax.named_scope("attention"):
                bias = spread_relative(table.ring, one_hot.shape[1])
        with jax.named_scope("encoder"):
            widths = [layer.width for layer in plan.layers[1:]] + [HEAD_WIDTH]
            for i, (layer, width) in enumerate(zip(plan.layers, widths, strict=True)):
                with jax.named_scope("attention"):
                    x = Attention(c, layer, self.softmax, name=f"layer_{i}_attention")(x, bias, keys)
                x = LayerNorm(layer.attention_norm, layer.feed_width, name=f"layer_{i}_attention_norm")(x)
                x = FeedForward(c, layer, name=f"layer_{i}_feed_forward")(x)
                x = LayerNorm(layer.output_norm, width, name=f"layer_{i}_output_norm")(x)
        with jax.named_scope("head"):
            gamma, beta = self.weight("gamma", c.hidden_size), self.weight("beta", c.hidden_size)
            if self.head.first_token(c):
                x = x.replace(ring=x.ring[:, :1])
            masks = self.material(
                "last",
                lambda: WeightProducts.abstract(
                    x.shape, x.width, gamma=("scale", self.mask_name("gamma"), gamma.ring.shape)
                ),
            )
            [e] = open_together([x.masked(masks.a, masks.width)])
            hidden = Fixed(masks.times("gamma", e, gamma) + beta.ring, scales.SUM, x.width)
            values = narrowed(self, "last_pair", hidden, self.fraction_bits).real(self.fraction_bits)
            if self.head.pooled:
                values = Pooler(c, self._pooler_activation, name="pooler")(values)
            mask = Fixed(at_tokens(counts, np.ones(counts.shape[-1])), 0).real(self.fraction_bits)
            return COMPUTE[self.head.name](c, values, mask, True)

    def _pooler_activation(self, x: jax.Array) -> jax.Array:
        series = self.plan.pooler
        if series is None:
            return activation(self.config.pooler_act)(x)
        if self.config.pooler_act == "tanh":
            return self._series("tanh", series, x)
        return x / 2 + self._series("pooler_gelu", series, x)

    def _series(self, name: str, series: Series, x: jax.Array) -> jax.Array:
        """A series of SPU's own numbers: one opening, and one for the scale."""
        masks = self.material(name, lambda: row_series(series, x.shape, self.fraction_bits, scales.HEAD))
        [opening] = open_together([masks.masked(fixed(x, self.fraction_bits))])
        return narrowed(self, f"{name}_pair", masks.finish(opening), scales.HEAD).real(self.fraction_bits)
