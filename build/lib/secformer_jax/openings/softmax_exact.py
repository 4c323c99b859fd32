"""Softmax itself, with no maximum, no comparison and no retraining: repeated squaring with normalisation.

With z = s - mean(s) over the real keys, v = exp(z/2^k), and k times v <- c v^2 / mean(v^2), c near 0.6: then v is
c n softmax(s). By Jensen no mean is small, and v stays in [0, n], so nothing overflows and nothing is lost to rounding.
Only the last normalisation, after the product with the values, has to be accurate; an error of the earlier ones is part
of c, and cancels.
"""

from __future__ import annotations

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Leaf, Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, open_together
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.ring import ring_matmul
from secformer_jax.mpc.runtime.operations import product
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.constants import ExactPlan, SoftmaxPlan
from secformer_jax.openings.squares import SquaredPair, WeightedSquaredPair


class CentredScores(Material):
    """Masks for the scores less their mean over the keys, s = q k^T - q m^T with m = w k, w the keys' secret weights.

    Opened: e = q - a, f = k - b, d = w - u and then g = m - c. From these, with the dealer's products,

        q k^T = e k^T + a f^T + a b^T
        m     = d k   + u f   + u b
        q m^T = e m^T + a g^T + a c^T
    """

    a: Leaf
    b: Leaf
    ab: Leaf
    u: Leaf
    ub: Leaf
    c: Leaf
    ac: Leaf
    width: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, query: tuple[int, ...], key: tuple[int, ...], width: int) -> CentredScores:
        """Shapes for query and key (batch, heads, length, head_dim), and the bits of their ring."""
        batch, heads, length, head_dim = key
        square, row, mean = (*query[:-1], length), (*query[:-1], 1), (batch, heads, 1, head_dim)
        shapes = (query, key, square, (batch, 1, 1, length), mean, mean, row)
        leaves: list[Leaf] = [jnp.zeros(shape, jnp.int64) for shape in shapes]
        return cls(*leaves, width=width)  # type: ignore[misc]

    def deal(self, randomness: Randomness, masks) -> CentredScores:
        """Fresh masks; see Material."""
        a, b, u, c = (randomness.uniform(x.shape, self.width) for x in (self.a, self.b, self.u, self.c))
        ab, ac = (ring_matmul(a.ring, np.swapaxes(x.ring, -1, -2), self.width) for x in (b, c))
        ub = np.sum(np.swapaxes(u.ring, -1, -2) * b.ring, axis=-2, keepdims=True)
        dealt = {"ab": ab, "ub": ub, "ac": ac}
        return self.replace(
            a=a, b=b, u=u, c=c, **{name: randomness.derived(x, self.width) for name, x in dealt.items()}
        )


def exact_softmax(
    block: Block, query: Fixed, key: Fixed, bias: jax.Array | None, keys: Keys, extra: Masked, plan: SoftmaxPlan
) -> tuple[Fixed, jax.Array]:
    """n softmax(s) up to a factor for each row: 4 messages and 4 a squaring; see `attention.Softmax`."""
    length, ring = key.shape[-2], plan.score_width
    shape, weights, means = (*query.shape[:-1], length), keys.weights[:, None, None, :], keys.means[:, None, None, :]
    constants = plan.exact
    assert constants is not None
    masks = block.material("scores", lambda: CentredScores.abstract(query.shape, key.shape, ring))
    query_e, key_e, mean_d, extra_e = open_together(
        [
            query.masked(masks.a, masks.width),
            key.masked(masks.b, masks.width),
            Masked(means - masks.u, masks.width),
            extra,
        ]
    )

    def scores(q: jax.Array, k: jax.Array) -> jax.Array:
        return product(q, jnp.swapaxes(k, -1, -2), ring)

    mean_key = _mean(mean_d, key.ring) + _mean(masks.u, key_e) + masks.ub
    [mean_e] = open_together([Masked(mean_key - masks.c, masks.width)])
    offset = scores(query_e, mean_key) + scores(masks.a, mean_e) + masks.ac
    centred = scores(query_e, key.ring) + scores(masks.a, key_e) + masks.ab
    if bias is not None:
        # Not centred itself, which would take products: its mean over a row is small, and cancels.
        centred = centred + bias
    bits = query.bits + key.bits + scales.MEAN
    centred = Fixed((centred << scales.MEAN) - offset - round(constants.offset * 2**bits), bits, ring)
    with jax.named_scope("softmax"):
        period = round(math.log2(constants.exponential.period))
        exponential = block.material(
            "exponential",
            lambda: OpenedSeries.abstract(
                constants.exponential,
                shape,
                bits=scales.EXPONENT_OPENED - period,
                mask_bits=scales.EXPONENTIAL + 2,
                public_bits=scales.EXPONENTIAL + 4,
                width=constants.exponential_width,
            ),
        )
        [opening] = open_together([exponential.masked(centred)])
        v, roots, width = exponential.finish(opening), constants.root_bits, constants.square_width
        first = block.material(
            "square_0",
            lambda: WeightedSquaredPair.abstract(shape, weights.shape, v.bits - roots, v.width, width),
        )
        v_opening, d = open_together([first.plain.pair.masked(v), Masked(weights - first.b, width)])
        v = _normalised(block, "mean_0", first.squares(v_opening, d), first.plain.c, constants.first_mean, constants)
        for step in range(1, constants.squarings):
            make = functools.partial(SquaredPair.abstract, shape, v.bits - roots, width, width, signed=False)
            later = block.material(f"square_{step}", make)
            [opening] = open_together([later.pair.masked(v)])
            v = _normalised(block, f"mean_{step}", later.squares(opening), later.c, constants.later_mean, constants)
        return narrowed(block, "numerators_pair", v, plan.numerator_bits, plan.sums_width, signed=False), extra_e


def _normalised(
    block: Block, name: str, squares: tuple[jax.Array, jax.Array], c: jax.Array, inverse_mean: Series, plan: ExactPlan
) -> Fixed:
    """Squares over their mean along the last axis, padding (where they are 0) included, untruncated: 3 messages.

    Args:
        block: the module that holds the material.
        name: of the material.
        squares: of values with plan.root_bits fraction bits, and the same times c.
        c: the mask of the rows' inverse means.
        inverse_mean: 1/x, up to a factor.
        plan: the constants.
    """
    (square, with_c), bits, width = squares, 2 * plan.root_bits, plan.square_width
    sum_bits = bits + int(math.log2(square.shape[-1]))
    row = (*square.shape[:-1], 1)
    # Two bits finer than it is kept: a unit is much of an inverse mean near 1/n, and more than that leaves the domain.
    series = block.material(name, lambda: row_series(inverse_mean, row, sum_bits, scales.ROUGH + 2))
    [opening] = open_together([series.masked(Fixed(jnp.sum(square, axis=-1, keepdims=True), sum_bits, width))])
    inverse = narrowed(block, f"{name}_pair", series.finish(opening), scales.ROUGH, width)
    [inverse_e] = open_together([inverse.masked(c, width)])
    return Fixed(inverse_e * square + with_c, bits + scales.ROUGH, width)


def _mean(u: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.sum(jnp.swapaxes(u, -1, -2) * k, axis=-2, keepdims=True)
