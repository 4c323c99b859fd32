"""The feed-forward part: an activation by its series, and what it gates."""

from __future__ import annotations

import math

import jax
from flax import linen as nn

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.scaled import PairProduct
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.openings.block import Block, project
from secformer_jax.openings.decoder import scales
from secformer_jax.openings.decoder.constants import FeedForwardPlan
from secformer_jax.openings.decoder.norm import Normed


class FeedForward(Block):
    """down(act(gate x) up x), or down(act(up x)), and the residual sum: 6 messages.

    act(u) = u/2 + tail(u), tail an even series. What gates is lifted in the message that opens the series.
    """

    config: DecoderArchitecture
    plan: FeedForwardPlan

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """x (new, hidden) of the residual stream."""
        c, plan = self.config, self.plan
        features = c.intermediate_size * (2 if c.gated else 1)
        read = Normed(plan.norm, features, c.feed_forward_bias, name="read")(x)
        gate = read.replace(ring=read.ring[:, : c.intermediate_size])
        with jax.named_scope("gelu"):
            if c.gated:
                up = read.replace(ring=read.ring[:, c.intermediate_size :]).rounded(scales.GATE)
                inner = self._gated(gate, up.within(plan.gate_width))
            else:
                inner = self._lifted(gate)
        out = project(self, inner.rounded(scales.CONTEXT), c.hidden_size, scales.STREAM)
        if c.feed_forward_bias:
            out = out.replace(ring=out.ring + self.weight("out_bias", c.hidden_size).ring)
        return x + out

    def _lifted(self, x: Fixed) -> Fixed:
        """act(x), in the ring that it is multiplied in: 2 messages."""
        plan, series = self.plan, self._series(x.shape)
        pair = self.material("lift", lambda: TruncationPair.abstract(x.shape, 0, plan.gate_width, plan.product_width))
        [opening] = open_together([series.masked(x)])
        activated = self._activated(x, series.finish(opening))
        [opening] = open_together([pair.masked(activated)])
        return pair.finish(opening, activated)

    def _gated(self, gate: Fixed, up: Fixed) -> Fixed:
        """act(gate) up, untruncated: 2 messages."""
        plan, series = self.plan, self._series(gate.shape)
        pair = TruncationPair.abstract(up.shape, 0, plan.gate_width, plan.product_width)
        product = self.material("gate", lambda: PairProduct.abstract(pair, pair))
        opening, up_opening = open_together([series.masked(gate), product.y.masked(up)])
        activated = self._activated(gate, series.finish(opening))
        [activated_opening] = open_together([product.x.masked(activated)])
        return product.times(activated, activated_opening, up, up_opening)

    def _series(self, shape: tuple[int, ...]) -> OpenedSeries:
        plan, bits = self.plan, scales.GATE_MASK + scales.GATE_PUBLIC
        return self.material(
            "activation",
            lambda: OpenedSeries.abstract(
                plan.tail,
                shape,
                bits=scales.GATE_OPENED - round(math.log2(plan.tail.period)),
                mask_bits=scales.GATE_MASK,
                public_bits=scales.GATE_PUBLIC,
                width=plan.gate_width + bits - scales.GATE,
                coarse=True,
            ),
        )

    def _activated(self, x: Fixed, tail: Fixed) -> Fixed:
        """x/2 + tail(x) with GATE fraction bits: half of a number is it with one fraction bit more."""
        half = Fixed(x.ring, x.bits + 1, x.width).rounded(tail.bits)
        return (half + tail).rounded(scales.GATE).within(self.plan.gate_width)
