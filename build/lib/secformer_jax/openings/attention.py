"""Attention for all heads at once, by openings: scores, 2Quad with the mask inside, and the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.softmax import SHIFT
from secformer_jax.mpc.material import Leaf, Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, open_together, ring_of_multiples
from secformer_jax.mpc.primitives.products import ProductMasks
from secformer_jax.mpc.primitives.scaled import ScaledPair
from secformer_jax.openings import scales
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.constants import SoftmaxPlan


class MaskedSquare(Material):
    """Masks for w x^2, x an array and w a small integer for each of its columns (the attention mask).

    With e = x - a and d = w - b open, w x^2 = (e^2 + 2 e a + a^2)(d + b): four masks a value, one opening.
    """

    a: Leaf
    square: Leaf
    b: Leaf
    ab: Leaf
    square_b: Leaf
    width: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, x: tuple[int, ...], w: tuple[int, ...], width: int) -> MaskedSquare:
        """Shapes for x and w, and the bits of their ring."""
        zeros = jnp.zeros(x, jnp.int64)
        return cls(zeros, zeros, jnp.zeros(w, jnp.int64), zeros, zeros, width=width)

    def deal(self, randomness: Randomness, masks) -> MaskedSquare:
        """Fresh masks; see Material."""
        a, b = (randomness.uniform(x.shape, self.width) for x in (self.a, self.b))
        square = a.ring * a.ring
        return self.replace(
            a=a,
            square=randomness.derived(square, self.width),
            b=b,
            ab=randomness.derived(a.ring * b.ring, ring_of_multiples(self.width, 1)),
            square_b=randomness.derived(square * b.ring, self.width),
        )

    def finish(self, e: jax.Array, d: jax.Array) -> jax.Array:
        """w x^2 from the two opened differences, untruncated; no message."""
        return (e * e) * (d + self.b) + (2 * e) * (d * self.a + self.ab) + (d * self.square + self.square_b)


class Keys(NamedTuple):
    """What attention needs to know about which keys are real.

    Attributes:
        weights: integers (batch, length): 0 for padding, else one number near length / tokens, so that a sum over the
            keys has the same range for any number of them; it cancels in every softmax.
        means: (batch, length): 0 for padding, else 1 / tokens with scales.MEAN fraction bits.
    """

    weights: jax.Array
    means: jax.Array

    @classmethod
    def of(cls, counts: jax.Array) -> Keys:
        """From how many tokens each text has, see `at_tokens`."""
        length = counts.shape[-1]
        tokens = np.arange(1, length + 1)
        weights, means = np.rint(length / tokens), np.rint(2.0**scales.MEAN / tokens)
        return cls(at_tokens(counts, weights), at_tokens(counts, means))


def at_tokens(counts: jax.Array, values: np.ndarray) -> jax.Array:
    """A number at every token, and 0 at padding: int64 (batch, length), sums of shares and no message.

    Args:
        counts: one-hot rows (batch, length), whose element n - 1 stands for n tokens.
        values: the number that a text of 1, 2, .. tokens has.
    """
    length = counts.shape[-1]
    longer = jnp.arange(length)[None, :] >= jnp.arange(length)[:, None]
    return jnp.sum(counts[:, None, :] * jnp.where(longer, jnp.asarray(values, jnp.int64), 0), axis=-1)


Softmax = Callable[[Block, Fixed, Fixed, "jax.Array | None", Keys, Masked, SoftmaxPlan], tuple[Fixed, jax.Array]]
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
    plan: SoftmaxPlan,
    width: int,
) -> Fixed:
    """The normalised context, (batch, heads, length, head_dim) with CONTEXT fraction bits, modulo 2^width.

    The row sums are divided out after the product with the values: head_dim numbers a row and not length. 3 messages
    and the softmax's own.
    """
    row, square = (*query.shape[:-1], 1), (*query.shape[:-1], value.shape[-2])
    context = block.material("context", lambda: ProductMasks.abstract("context", square, value.shape, plan.sums_width))
    numerators, value_e = softmax(block, query, key, bias, keys, value.masked(context.b, context.width), plan)
    with jax.named_scope("softmax"):
        # In units of 2^plan.sum_bits: a change of scale, not an operation.
        sum_bits = numerators.bits + plan.sum_bits
        series = block.material("series", lambda: row_series(plan.reciprocal, row, sum_bits, plan.reciprocal_bits))
        total = Fixed(jnp.sum(numerators.ring, axis=-1, keepdims=True), sum_bits, numerators.width)
        numerators = numerators.rounded(plan.numerator_bits)
        numerators_e, total_opening = open_together([numerators.masked(context.a, context.width), series.masked(total)])
    sums = Fixed(context.times(numerators_e, value.ring, value_e), numerators.bits + value.bits, plan.sums_width)
    # What the division drops at its end, the ring has until then.
    result = width + plan.sums_bits + plan.sum_bits + plan.reciprocal_bits - scales.CONTEXT
    scaling = block.material(
        "scaling", lambda: ScaledPair.abstract(sums.shape, sums.bits - plan.sums_bits, sums.width, result)
    )
    untruncated = series.finish(total_opening)
    pair = block.material(
        "row_pair",
        lambda: TruncationPair.abstract(row, untruncated.bits - plan.reciprocal_bits, untruncated.width, result),
    )
    sums_opening, pair_opening = open_together([scaling.pair.masked(sums), pair.masked(untruncated)])
    # The sum was read in units of 2^sum_bits, and its inverse is: fraction bits of the product.
    reciprocal = pair.finish(pair_opening, untruncated)
    [reciprocal_e] = open_together([reciprocal.masked(scaling.b, scaling.pair.result)])
    product = scaling.times(sums_opening, sums, reciprocal, reciprocal_e)
    return product.replace(bits=product.bits + plan.sum_bits).rounded(scales.CONTEXT)


def two_quad(
    block: Block, query: Fixed, key: Fixed, bias: jax.Array | None, keys: Keys, extra: Masked, plan: SoftmaxPlan
) -> tuple[Fixed, jax.Array]:
    """w (s + c)^2 for the scores s: 3 messages; see `Softmax`."""
    shape, weights = (*query.shape[:-1], key.shape[-2]), keys.weights[:, None, None, :]
    scores = block.material("scores", lambda: ProductMasks.abstract("scores", query.shape, key.shape, plan.score_width))
    width = plan.sums_width + 2 * scales.SCORE - plan.numerator_bits
    square = block.material("square", lambda: MaskedSquare.abstract(shape, weights.shape, width))
    query_e, key_e, extra_e = open_together(
        [query.masked(scores.a, scores.width), key.masked(scores.b, scores.width), extra]
    )
    product = Fixed(scores.times(query_e, key.ring, key_e), query.bits + key.bits, plan.score_width)
    if bias is not None:
        product = product.replace(ring=product.ring + bias)
    with jax.named_scope("softmax"):
        score = narrowed(block, "score_pair", product, scales.SCORE, width)
        shifted = score.replace(ring=score.ring + round(SHIFT * 2**score.bits))
        e, d = open_together([shifted.masked(square.a, square.width), Masked(weights - square.b, square.width)])
        return Fixed(square.finish(e, d), 2 * score.bits, width), extra_e
