"""Softmax itself, with no maximum, no comparison and no retraining: repeated squaring with normalisation.

With z = s - mean(s) over the real keys, v = exp(z/2^k), and k times v <- v^2 / mean(v^2): then v is n softmax(s). By
Jensen every mean is at least 1, and v stays in [0, n], so nothing overflows and nothing is lost to rounding. Only the
last normalisation, after the product with the values, has to be accurate; an error of the earlier ones cancels.
"""

from __future__ import annotations

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Array, Leaf, Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, open_together, ring_of_multiples
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.ring import ring_matmul
from secformer_jax.mpc.runtime.operations import product
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.constants import SoftmaxPlan


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


class Squared(Material):
    """Masks for x^2 r, r one number for each row: x is opened once, r, which is computed from the square, later.

    Opened: e = x - a, and then h = r - c. From these, with the dealer's products,

        x^2   = e^2 + 2 e a + a^2
        x^2 c = e^2 c + 2 e (a c) + a^2 c
        x^2 r = h x^2 + x^2 c
    """

    a: Leaf
    aa: Leaf
    c: Leaf
    ac: Leaf
    aac: Leaf
    width: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, shape: tuple[int, ...], width: int) -> Squared:
        """Shapes for x, and the bits of its ring."""
        x, r = jnp.zeros(shape, jnp.int64), jnp.zeros((*shape[:-1], 1), jnp.int64)
        return cls(x, x, r, x, x, width)

    def deal(self, randomness: Randomness, masks) -> Squared:
        """Fresh masks; see Material."""
        a, c = (randomness.uniform(x.shape, self.width) for x in (self.a, self.c))
        return self.products(randomness, a, c, 1)

    def products(self, randomness: Randomness, a: Array, c: Array, factor: np.ndarray | int) -> Squared:
        """All leaves from the two masks, each times a factor but a mask that is uniform itself."""
        x, y = a.ring, c.ring
        if not isinstance(factor, int):
            a, c = (randomness.derived(mask * factor, self.width) for mask in (x, y))
        aa, ac, aac = (randomness.derived(each * factor, self.width) for each in (x * x, x * y, x * x * y))
        return self.replace(a=a, aa=aa, c=c, ac=ac, aac=aac)

    def square(self, e: jax.Array) -> jax.Array:
        """x^2 from e = x - a."""
        return e * (e + 2 * self.a) + self.aa

    def masked(self, e: jax.Array) -> jax.Array:
        """x^2 c: what x^2 r needs besides (r - c) x^2."""
        return (e * e) * self.c + (2 * e) * self.ac + self.aac


class WeightedSquared(Material):
    """The same for w x^2 r, w one number for each column: masks for x, and for x times w's own mask b.

    Opened besides: d = w - b. From these, with the dealer's products,

        w x^2   = d x^2   + e^2 b + 2 e (a b) + a^2 b
        w x^2 c = d x^2 c + e^2 (c b) + 2 e (a c b) + a^2 c b
    """

    plain: Squared
    b: Leaf
    weighted: Squared

    @classmethod
    def abstract(cls, shape: tuple[int, ...], columns: tuple[int, ...], width: int) -> WeightedSquared:
        """Shapes for x and w; `weighted` holds the products with b, its c is b c."""
        plain = Squared.abstract(shape, width)
        return cls(
            plain, jnp.zeros(columns, jnp.int64), plain.replace(c=jnp.zeros((*shape[:-1], columns[-1]), jnp.int64))
        )

    def deal(self, randomness: Randomness, masks) -> WeightedSquared:
        """Fresh masks; see Material."""
        plain, b = self.plain.deal(randomness, masks), randomness.uniform(self.b.shape, self.plain.width)
        return self.replace(plain=plain, b=b, weighted=self.weighted.products(randomness, plain.a, plain.c, b.ring))

    def square(self, e: jax.Array, d: jax.Array) -> jax.Array:
        """w x^2 from e = x - a and d = w - b."""
        return d * self.plain.square(e) + (e * e) * self.b + (2 * e) * self.weighted.a + self.weighted.aa

    def masked(self, e: jax.Array, d: jax.Array) -> jax.Array:
        """w x^2 c."""
        return d * self.plain.masked(e) + self.weighted.masked(e)


class SquaredPair(Material):
    """A truncation to T = P - high + q msb (`fixed.TruncationPair`), and T^2 r, r one number for each row.

    r is computed from the square and opened later, as h = r - c. With the dealer's products, and the same times c,

        T^2   = P^2 - 2 P high + (2 P q + q^2) msb + high^2 - 2 q high msb
        T^2 r = h T^2 + T^2 c
    """

    pair: TruncationPair
    high_squared: Leaf
    high_msb: Leaf
    c: Leaf
    high_c: Leaf
    msb_c: Leaf
    high_squared_c: Leaf
    high_msb_c: Leaf

    @classmethod
    def abstract(cls, shape: tuple[int, ...], dropped: int, width: int, result: int) -> SquaredPair:
        """Shapes for values of this shape; as for TruncationPair."""
        pair, x = TruncationPair.abstract(shape, dropped, width, result), jnp.zeros(shape, jnp.int64)
        return cls(pair, x, x, jnp.zeros((*shape[:-1], 1), jnp.int64), x, x, x, x)

    def deal(self, randomness: Randomness, masks) -> SquaredPair:
        """Fresh masks; see Material."""
        pair = self.pair.deal(randomness, masks)
        c, bits = randomness.uniform(self.c.shape, pair.result), pair.result
        high, msb, both = pair.high.ring, pair.msb.ring, ring_of_multiples(bits, pair.turn_bits + 1)
        return self.replace(
            pair=pair,
            high_squared=randomness.derived(high * high, bits),
            high_msb=randomness.derived(high * msb, both),
            c=c,
            high_c=randomness.derived(high * c.ring, bits),
            msb_c=randomness.derived(msb * c.ring, pair.msb.bits),
            high_squared_c=randomness.derived(high * high * c.ring, bits),
            high_msb_c=randomness.derived(high * msb * c.ring, both),
        )

    def squares(self, opening: jax.Array) -> tuple[jax.Array, jax.Array]:
        """T^2 and T^2 c, from the opened value."""
        known, sign = self.pair.public(opening)
        with_msb = 2 * known * sign + sign * sign

        def square(one, high, msb, high_squared, high_msb):
            return known * known * one - 2 * known * high + with_msb * msb + high_squared - 2 * sign * high_msb

        return (
            square(1, self.pair.high, self.pair.msb, self.high_squared, self.high_msb),
            square(self.c, self.high_c, self.msb_c, self.high_squared_c, self.high_msb_c),
        )


def exact_softmax(
    block: Block, query: Fixed, key: Fixed, bias: jax.Array | None, keys: Keys, extra: Masked, plan: SoftmaxPlan
) -> tuple[Fixed, jax.Array]:
    """n softmax(s) up to a factor for each row: 5 messages and 4 a squaring; see `attention.Softmax`."""
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
        width = constants.square_width
        v = narrowed(block, "exponential_pair", exponential.finish(opening), scales.EXPONENTIAL, width)
        first = block.material("square_0", lambda: WeightedSquared.abstract(shape, weights.shape, width))
        e, d = open_together([v.masked(first.plain.a, first.plain.width), Masked(weights - first.b, first.plain.width)])
        squares, c = (first.square(e, d), first.masked(e, d)), first.plain.c
        v = _normalised(block, "mean_0", squares, c, constants.first_mean, width)
        for step in range(1, constants.squarings):
            dropped = v.bits - scales.EXPONENTIAL
            make = functools.partial(SquaredPair.abstract, shape, dropped, width, width)
            later = block.material(f"square_{step}", make)
            [opening] = open_together([later.pair.masked(v)])
            v = _normalised(block, f"mean_{step}", later.squares(opening), later.c, constants.later_mean, width)
        return narrowed(block, "numerators_pair", v, plan.numerator_bits, plan.sums_width), extra_e


def _normalised(
    block: Block, name: str, squares: tuple[jax.Array, jax.Array], c: jax.Array, inverse_mean: Series, width: int
) -> Fixed:
    """Squares over their mean along the last axis, padding (where they are 0) included, untruncated: 3 messages.

    Args:
        block: the module that holds the material.
        name: of the material.
        squares: of values with EXPONENTIAL fraction bits, and the same times c.
        c: the mask of the rows' inverse means.
        inverse_mean: 1/x.
        width: of the ring.
    """
    square, with_c = squares
    bits = 2 * scales.EXPONENTIAL + int(math.log2(square.shape[-1]))
    series = block.material(name, lambda: row_series(inverse_mean, (*square.shape[:-1], 1), bits, scales.ROUGH))
    [opening] = open_together([series.masked(Fixed(jnp.sum(square, axis=-1, keepdims=True), bits, width))])
    inverse = narrowed(block, f"{name}_pair", series.finish(opening), scales.ROUGH, width)
    [inverse_e] = open_together([inverse.masked(c, width)])
    return Fixed(inverse_e * square + with_c, 2 * scales.EXPONENTIAL + scales.ROUGH, width)


def _mean(u: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.sum(jnp.swapaxes(u, -1, -2) * k, axis=-2, keepdims=True)
