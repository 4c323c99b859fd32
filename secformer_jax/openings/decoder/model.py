"""A decoder by masked openings: one pass over new tokens, from their one-hot rows to the logits of one of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import WeightProducts
from secformer_jax.openings.block import Block
from secformer_jax.openings.decoder import scales
from secformer_jax.openings.decoder.attention import Attention
from secformer_jax.openings.decoder.constants import NormPlan, Plan
from secformer_jax.openings.decoder.feed_forward import FeedForward
from secformer_jax.openings.decoder.known import Known, LayerCache
from secformer_jax.openings.decoder.norm import Root, quotient


class OpenedDecoder(Block):
    """All layers. A pass takes 6 messages, and in a layer 13 and 3 for each squaring, whatever number of tokens.

    Attributes:
        every: give the logits of all new tokens, (new, vocab_size), and not of one.
    """

    config: DecoderArchitecture
    plan: Plan
    prefix: int
    every: bool = False

    @nn.compact
    def __call__(
        self, one_hot: jax.Array, known: Known, cache: tuple[LayerCache, ...]
    ) -> tuple[Fixed, tuple[LayerCache, ...]]:
        """Logits (vocab_size,) of the token `known.last`, and the cache with the new tokens.

        Args:
            one_hot: int64 (new, vocab_size), modulo 2^plan.table_width.
            known: see `Known`.
            cache: of every layer.
        """
        c, plan = self.config, self.plan
        with jax.named_scope("embeddings"):
            x = Embeddings(c, plan, name="embeddings")(one_hot, known.positions)
        filled = []
        with jax.named_scope("encoder"):
            for i, (attention, feed_forward) in enumerate(plan.layers):
                with jax.named_scope("attention"):
                    block = Attention(c, attention, self.prefix, name=f"layer_{i}_attention")
                    x, rows = block(x, known, cache[i])
                filled.append(rows)
                with jax.named_scope("intermediate"):
                    x = FeedForward(c, feed_forward, name=f"layer_{i}_feed_forward")(x)
        with jax.named_scope("head"):
            if not self.every:
                x = x.replace(ring=jnp.sum(known.last[:, None] * x.ring, axis=0, keepdims=True))
            logits = Head(c, plan.norm, name="head")(x)
        if not self.every:
            logits = logits.replace(ring=logits.ring[0])
        return logits.within(plan.logits_width), tuple(filled)


class Embeddings(Block):
    """Rows of the table, and of that of positions, in the ring of the residual stream: 2 messages."""

    config: DecoderArchitecture
    plan: Plan

    @nn.compact
    def __call__(self, one_hot: jax.Array, positions: jax.Array) -> Fixed:
        """one_hot and positions as for `OpenedDecoder` and `Known`."""
        c, width = self.config, self.plan.table_width
        shape = c.vocab_size, c.hidden_size
        table = self.weight("table", *shape)
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(one_hot.shape, width, table=("matmul", self.mask_name("table"), shape)),
        )
        [e] = open_together([Fixed(one_hot, 0, width).masked(masks.a, width)])
        x = Fixed(masks.times("table", e, table), scales.TABLE, width)
        if c.rotary is None:
            rows = self.weight("positions", c.max_position_embeddings, c.hidden_size)
            x = x.replace(ring=x.ring + jnp.sum(positions[:, :, None] * rows.ring[None], axis=1))
        pair = self.material("pair", lambda: TruncationPair.abstract(x.shape, 0, width, self.plan.stream_width))
        [opening] = open_together([pair.masked(x)])
        return pair.finish(opening, x).at(scales.STREAM)


class Head(Block):
    """The last norm, and the logits: 4 messages. Here x itself is divided, for it is the smaller."""

    config: DecoderArchitecture
    plan: NormPlan

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """x (tokens, hidden) to (tokens, vocab_size), with STREAM fraction bits, untruncated."""
        c, shape = self.config, (self.config.hidden_size, self.config.vocab_size)
        wide, series, squares = Root(self.plan, name="root")(x)
        [opening] = open_together([series.masked(squares)])
        raw = wide.rounded(self.plan.raw_bits).within(self.plan.raw_width)
        hidden = quotient(self, raw, series.finish(opening), self.plan).rounded(scales.CONTEXT)
        kernel = self.weight("kernel", *shape)
        masks = self.material(
            "output",
            lambda: WeightProducts.abstract(
                hidden.shape, hidden.width, kernel=("matmul", self.mask_name("kernel"), shape)
            ),
        )
        [e] = open_together([hidden.masked(masks.a, hidden.width)])
        logits = Fixed(masks.times("kernel", e, kernel), scales.STREAM, hidden.width)
        if c.rms_norm:
            return logits
        return logits.replace(ring=logits.ring + self.weight("bias", c.vocab_size).ring)
