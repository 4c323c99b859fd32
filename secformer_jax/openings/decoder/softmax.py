"""Softmax by repeated squaring, as in `softmax_exact`, where everybody knows which keys a token looks at.

So the mean of the scores, and padding, cost no message; and a square is normalised by its pair's own opening. The last
square is not normalised: the division after the values have been weighed takes the whole factor.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.openings.block import Block, row_series
from secformer_jax.openings.decoder import scales
from secformer_jax.openings.decoder.constants import SoftmaxPlan
from secformer_jax.openings.decoder.known import Known
from secformer_jax.openings.squares import SquarePair, SquareTimesPair


def numerators(block: Block, scores: Fixed, known: Known, plan: SoftmaxPlan) -> Fixed:
    """n softmax up to a factor a row, and 0 where a token does not look: 1 message, and 3 a squaring but the last's 1.

    Args:
        block: the module that holds the material.
        scores: (key_value_heads, queries_per_key, new, keys).
        known: see `Known`.
        plan: the constants.
    """
    period = round(math.log2(plan.exponential.period))
    series = block.material(
        "exponential",
        lambda: OpenedSeries.abstract(
            plan.exponential,
            scores.shape,
            bits=scales.EXPONENT_OPENED - period,
            mask_bits=scales.EXPONENTIAL + 2,
            public_bits=scales.EXPONENTIAL + 4,
            width=plan.exponential_width,
        ),
    )
    [opening] = open_together([series.masked(_centred(scores, known))])
    v = series.finish(opening)
    v = v.replace(ring=v.ring * known.visible)
    for step in range(plan.squarings - 1):
        v = _squared(block, step, v, known, plan)
    v = v.rounded(plan.root_bits)
    last = block.material("last_square", lambda: SquarePair.abstract(_lift(v, plan.numerator_width)))
    [opening] = open_together([last.pair.masked(v)])
    return Fixed(last.square(opening), 2 * v.bits, plan.numerator_width)


def _squared(block: Block, step: int, v: Fixed, known: Known, plan: SoftmaxPlan) -> Fixed:
    """v^2 over its mean, roughly, untruncated: 3 messages."""
    mean, row, width = plan.later_mean if step else plan.first_mean, (*v.shape[:-1], 1), plan.square_width
    v = v.rounded(plan.root_bits)
    bits, sum_bits = 2 * v.bits, 2 * v.bits + scales.INVERSE_COUNT
    # Two bits finer than it is kept: a unit is much of an inverse mean near 1/n.
    series = block.material(f"mean_{step}", lambda: row_series(mean, row, sum_bits, scales.ROUGH + 2))
    dropped = series.mask_bits + series.public_bits - scales.ROUGH
    pairs = block.material(
        f"square_{step}",
        lambda: SquareTimesPair.abstract(_lift(v, width), TruncationPair.abstract(row, dropped, series.width, width)),
    )
    [v_opening] = open_together([pairs.square.pair.masked(v)])
    squares = Fixed(pairs.square.square(v_opening), bits, width)
    [opening] = open_together([series.masked(mean_over_keys(squares, known))])
    [opening] = open_together([pairs.row.masked(series.finish(opening))])
    return Fixed(pairs.times(v_opening, opening), bits + scales.ROUGH, width)


def mean_over_keys(x: Fixed, known: Known) -> Fixed:
    """The sum over the last axis times the public 1/keys, (.., 1)."""
    total = jnp.sum(x.ring, axis=-1, keepdims=True) * known.inverse_count[:, None]
    return Fixed(total, x.bits + scales.INVERSE_COUNT, x.width)


def _lift(v: Fixed, result: int) -> TruncationPair:
    return TruncationPair.abstract(v.shape, 0, v.width, result)


def _centred(scores: Fixed, known: Known) -> Fixed:
    """Scores less their mean over the keys that a token looks at."""
    mean: jax.Array = jnp.sum(scores.ring * known.shares, axis=-1, keepdims=True)
    return Fixed((scores.ring << scales.SHARE) - mean, scores.bits + scales.SHARE, scores.width)
