"""RMSNorm and the kernel that reads it, in three messages: the root divides what the kernel gives."""

from __future__ import annotations

import jax
from flax import linen as nn

from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import WeightProducts
from secformer_jax.mpc.primitives.scaled import PairProduct, SquareSumPair
from secformer_jax.openings.block import Block, row_series
from secformer_jax.openings.decoder import scales
from secformer_jax.openings.decoder.constants import NormPlan


class Normed(Block):
    """(x W) (mean x^2 + epsilon)^(-1/2) + b; LayerNorm, where x comes without its mean. See `Root` for x alone.

    1. x is lifted into the ring of the product: its opening gives the sum of squares, too.
    2. x - a, for x W, and the series of the inverse root.
    3. Both are truncated, and their product comes of the two openings.
    """

    plan: NormPlan
    features: int
    biased: bool = False

    @nn.compact
    def __call__(self, x: Fixed) -> Fixed:
        """x (tokens, hidden) of the residual stream to (tokens, features), with NORMED fraction bits."""
        plan, shape = self.plan, (x.shape[-1], self.features)
        kernel = self.weight("kernel", *shape)
        root = Root(plan, name="root")
        wide, series, squares = root(x)
        masks = self.material(
            "input",
            lambda: WeightProducts.abstract(x.shape, plan.width, kernel=("matmul", self.mask_name("kernel"), shape)),
        )
        e, opening = open_together([wide.masked(masks.a, plan.width), series.masked(squares)])
        raw = Fixed(masks.times("kernel", e, kernel), wide.bits + scales.READ, plan.width)
        found = quotient(self, raw.rounded(plan.raw_bits).within(plan.raw_width), series.finish(opening), plan)
        if not self.biased:
            return found
        return found.replace(ring=found.ring + self.weight("bias", self.features).ring)


class Root(Block):
    """The first message of a norm: x in a wider ring, and what the series of the inverse root reads."""

    plan: NormPlan

    @nn.compact
    def __call__(self, x: Fixed):
        """x modulo 2^plan.width; the series' masks; the sum of squares."""
        plan = self.plan
        bits = 2 * plan.bits + x.shape[-1].bit_length() - 1
        # Two bits finer than it is kept: an error of the inverse root is one of a whole row.
        series = self.material(
            "series", lambda: row_series(plan.series, (*x.shape[:-1], 1), bits, plan.inverse_bits + 2)
        )
        rounded, ring = x.rounded(plan.bits), max(plan.width, series.modulus_bits)
        masks = self.material(
            "squares", lambda: SquareSumPair.abstract(TruncationPair.abstract(x.shape, 0, rounded.width, ring))
        )
        [opening] = open_together([masks.pair.masked(rounded)])
        return masks.pair.finish(opening, rounded).within(plan.width), series, masks.square_sum(opening, bits)


def quotient(block: Block, raw: Fixed, inverse: Fixed, plan: NormPlan) -> Fixed:
    """raw times an inverse root that a series gives, one a row: one message."""
    product = block.material(
        "product",
        lambda: PairProduct.abstract(
            TruncationPair.abstract(raw.shape, 0, raw.width, plan.result),
            TruncationPair.abstract(inverse.shape, inverse.bits - plan.inverse_bits, inverse.width, plan.result),
        ),
    )
    openings: list[jax.Array] = open_together([product.x.masked(raw), product.y.masked(inverse)])
    return product.times(raw, openings[0], inverse, openings[1])
