"""Attention for all heads at once, by openings: scores, 2Quad with the mask inside, and the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.softmax import SHIFT
from secformer_jax.mpc.material import Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, open_together, truncated
from secformer_jax.mpc.primitives.products import ProductMasks
from secformer_jax.openings import scales
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.plan import LayerPlan


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


class Keys(NamedTuple):
    """What the client shares about which keys are real.

    Attributes:
        weights: integers (batch, length): 0 for padding, else one number near length / keys, so that a sum over the
            keys has the same range for any number of them; it cancels in every softmax.
        means: (batch, length): 0 for padding, else 1 / keys with scales.MEAN fraction bits.
    """

    weights: jax.Array
    means: jax.Array


Softmax = Callable[[Block, Fixed, Fixed, "jax.Array | None", Keys, jax.Array, LayerPlan], tuple[Fixed, jax.Array]]
"""(block, query, key, bias, keys, extra, plan) -> (numerators, the opening of `extra`): softmax up to a factor a row.

`bias` (heads, length, length) is added to the scores, at the scale of their product. `extra` is a masked value that is
opened in the first message.
"""


def attend(
    softmax: Softmax,
    block: Block,
    query: Fixed,
    key: Fixed,
    value: Fixed,
    bias: jax.Array | None,
    keys: Keys,
    plan: LayerPlan,
) -> Fixed:
    """The normalised context, (batch, heads, length, head_dim) with CONTEXT fraction bits.

    The row sums are divided out after the product with the values: head_dim numbers a row and not length. 4 messages
    and the softmax's own.
    """
    row, square = (*query.shape[:-1], 1), (*query.shape[:-1], value.shape[-2])
    context = block.material("context", lambda: ProductMasks.abstract("context", square, value.shape))
    scaling = block.material("scaling", lambda: ProductMasks.abstract("elementwise", value.shape, row))
    numerators, value_e = softmax(block, query, key, bias, keys, value.ring - context.b, plan)
    with jax.named_scope("softmax"):
        # In units of 2^plan.sum_bits: a change of scale, not an operation.
        sum_bits = numerators.bits + plan.sum_bits
        series = block.material("series", lambda: row_series(plan.reciprocal, row, sum_bits, plan.reciprocal_bits))
        total = Fixed(jnp.sum(numerators.ring, axis=-1, keepdims=True), sum_bits)
        numerators_e, total_opening = open_together([numerators.ring - context.a, series.masked(total)])
        reciprocal = narrowed(block, "row_pair", series.finish(total_opening), scales.ROW_TRUNCATION)
    sums = context.times(numerators_e, value.ring, value_e)
    sums_e, reciprocal_e = open_together([sums - scaling.a, reciprocal.ring - scaling.b])
    result = Fixed(scaling.times(sums_e, reciprocal.ring, reciprocal_e), sum_bits + scales.VALUE + plan.reciprocal_bits)
    return narrowed(block, "pair", result, result.bits - scales.CONTEXT)


def two_quad(
    block: Block, query: Fixed, key: Fixed, bias: jax.Array | None, keys: Keys, extra: jax.Array, plan: LayerPlan
) -> tuple[Fixed, jax.Array]:
    """w (s + c)^2 for the scores s: 3 messages; see `Softmax`."""
    shape, weights = (*query.shape[:-1], key.shape[-2]), keys.weights[:, None, None, :]
    scores = block.material("scores", lambda: ProductMasks.abstract("scores", query.shape, key.shape))
    square = block.material("square", lambda: MaskedSquare.abstract(shape, weights.shape))
    query_e, key_e, extra_e = open_together([query.ring - scores.a, key.ring - scores.b, extra])
    product = Fixed(scores.times(query_e, key.ring, key_e), query.bits + key.bits)
    if bias is not None:
        product = Fixed(product.ring + bias, product.bits)
    [score] = truncated([product], scales.TRUNCATION)
    with jax.named_scope("softmax"):
        shifted = score.ring + round(SHIFT * 2**score.bits)
        e, d = open_together([shifted - square.a, weights - square.b])
        return Fixed(square.finish(e, d), 2 * score.bits), extra_e
