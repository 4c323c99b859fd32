"""2Quad attention for all heads at once, by openings: scores, squares with the mask inside, and the context."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..mpc.dealer import Material, Randomness
from ..mpc.fixed import Fixed, TruncationPair, opened, truncated
from ..mpc.products import ProductMasks
from . import scales
from .block import Block, row_series
from .plan import SHIFT, LayerPlan


class MaskedSquare(Material):
    """Masks for w x^2, x an array and w a small integer for each of its columns (the attention mask).

    With e = x - a and d = w - b open, w x^2 = (e^2 + 2 e a + a^2)(d + b): four masks a value, one opening.
    """

    a: jax.Array
    square: jax.Array
    b: jax.Array
    ab: jax.Array
    square_b: jax.Array

    @classmethod
    def abstract(cls, x: tuple[int, ...], w: tuple[int, ...]) -> MaskedSquare:
        """Shapes for x and w."""
        zeros = jnp.zeros(x, jnp.int64)
        return cls(zeros, zeros, jnp.zeros(w, jnp.int64), zeros, zeros)

    def deal(self, randomness: Randomness, resident) -> MaskedSquare:
        """Fresh masks; see Material."""
        a, b = randomness.bits(self.a.shape), randomness.bits(self.b.shape)
        square = np.square(a)
        return self.replace(a=a, square=square, b=b, ab=a * b, square_b=square * b)

    def finish(self, e: jax.Array, d: jax.Array) -> jax.Array:
        """w x^2 from the two opened differences, untruncated; no message."""
        return (e * e) * (d + self.b) + (2 * e) * (d * self.a + self.ab) + (d * self.square + self.square_b)


def two_quad_context(
    block: Block, query: Fixed, key: Fixed, value: Fixed, weights: jax.Array, plan: LayerPlan
) -> Fixed:
    """sum_j w_j (s_j + c)^2 v_j / sum_j w_j (s_j + c)^2, s = query key^T. 7 messages.

    Args:
        block: the module that holds the material.
        query, key, value: (batch, heads, length, head_dim).
        weights: secret integers (batch, 1, 1, length): 0 for padding, else the same number near length / keys, so
            that the row sums have the same range for any number of keys; it cancels.
        plan: public constants.
    """
    rows, keys = query.shape[:-1], value.shape[-2]
    square_shape, row = (*rows, keys), (*rows, 1)
    scores = block.material("scores", lambda: ProductMasks.abstract("scores", query.shape, key.shape))
    square = block.material("square", lambda: MaskedSquare.abstract(square_shape, weights.shape))
    context = block.material("context", lambda: ProductMasks.abstract("context", square_shape, value.shape))
    scaling = block.material("scaling", lambda: ProductMasks.abstract("elementwise", value.shape, row))
    sum_bits = 2 * scales.SCORE + plan.sum_bits
    series = block.material("series", lambda: row_series(plan.reciprocal, row, sum_bits, plan.reciprocal_bits))
    row_pair = block.material("row_pair", lambda: TruncationPair.abstract(row, scales.ROW_TRUNCATION))
    bits = sum_bits + scales.VALUE + plan.reciprocal_bits
    pair = block.material("pair", lambda: TruncationPair.abstract(value.shape, bits - scales.CONTEXT))

    query_e, key_e, value_e = opened([query.ring - scores.a, key.ring - scores.b, value.ring - context.b])
    product = Fixed(scores.times(query_e, key.ring, key_e), query.bits + key.bits)
    [score] = truncated([product], scales.TRUNCATION)
    with jax.named_scope("softmax"):
        shifted = score.ring + round(SHIFT * 2**score.bits)
        e, d = opened([shifted - square.a, weights - square.b])
        numerators = square.finish(e, d)
        # In units of 2^plan.sum_bits: a change of scale, not an operation.
        total = Fixed(jnp.sum(numerators, axis=-1, keepdims=True), sum_bits)
        numerators_e, total_opening = opened([numerators - context.a, series.masked(total)])
        reciprocal = series.finish(total_opening)
        [row_opening] = opened([row_pair.masked(reciprocal)])
        reciprocal = row_pair.finish(row_opening, reciprocal)
    sums = context.times(numerators_e, value.ring, value_e)
    sums_e, reciprocal_e = opened([sums - scaling.a, reciprocal.ring - scaling.b])
    result = Fixed(scaling.times(sums_e, reciprocal.ring, reciprocal_e), bits)
    [opening] = opened([pair.masked(result)])
    return pair.finish(opening, result)
