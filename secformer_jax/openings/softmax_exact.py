"""Softmax itself, with no maximum, no comparison and no retraining: repeated squaring with normalisation.

With z = s - mean(s) over the real keys, v = exp(z/2^k), and k times v <- v^2 / mean(v^2): then v is n softmax(s). By
Jensen every mean is at least 1, and v stays in [0, n], so nothing overflows and nothing is lost to rounding. Only the
last normalisation, after the product with the values, has to be accurate; an error of the earlier ones cancels.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, open_together, truncated
from secformer_jax.mpc.primitives.ring import ring_matmul
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.plan import LayerPlan


class CentredScores(Material):
    """Masks for the scores less their mean over the keys, s = q k^T - q m^T with m = w k, w the keys' secret weights.

    Opened: e = q - a, f = k - b, d = w - u and then g = m - c. From these, with the dealer's products,

        q k^T = e k^T + a f^T + a b^T
        m     = d k   + u f   + u b
        q m^T = e m^T + a g^T + a c^T
    """

    a: jax.Array
    b: jax.Array
    ab: jax.Array
    u: jax.Array
    ub: jax.Array
    c: jax.Array
    ac: jax.Array

    @classmethod
    def abstract(cls, query: tuple[int, ...], key: tuple[int, ...]) -> CentredScores:
        """Shapes for query and key (batch, heads, length, head_dim)."""
        batch, heads, length, width = key
        square, row, mean = (*query[:-1], length), (*query[:-1], 1), (batch, heads, 1, width)
        shapes = (query, key, square, (batch, 1, 1, length), mean, mean, row)
        return cls(*(jnp.zeros(shape, jnp.int64) for shape in shapes))

    def deal(self, randomness: Randomness, resident) -> CentredScores:
        """Fresh masks; see Material."""
        a, b, u, c = (randomness.bits(x.shape) for x in (self.a, self.b, self.u, self.c))
        ab, ac = ring_matmul(a, np.swapaxes(b, -1, -2)), ring_matmul(a, np.swapaxes(c, -1, -2))
        ub = np.sum(np.swapaxes(u, -1, -2) * b, axis=-2, keepdims=True)
        return self.replace(a=a, b=b, ab=ab, u=u, ub=ub, c=c, ac=ac)


class Squared(Material):
    """Masks for x^2 r, r one number for each row: x is opened once, r, which is computed from the square, later.

    Opened: e = x - a, and then h = r - c. From these, with the dealer's products,

        x^2   = e^2 + 2 e a + a^2
        x^2 c = e^2 c + 2 e (a c) + a^2 c
        x^2 r = h x^2 + x^2 c
    """

    a: jax.Array
    aa: jax.Array
    c: jax.Array
    ac: jax.Array
    aac: jax.Array

    @classmethod
    def abstract(cls, shape: tuple[int, ...]) -> Squared:
        """Shapes for x."""
        x, r = jnp.zeros(shape, jnp.int64), jnp.zeros((*shape[:-1], 1), jnp.int64)
        return cls(x, x, r, x, x)

    def deal(self, randomness: Randomness, resident) -> Squared:
        """Fresh masks; see Material."""
        a, c = randomness.bits(self.a.shape), randomness.bits(self.c.shape)
        return self.replace(a=a, aa=a * a, c=c, ac=a * c, aac=a * a * c)

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
    b: jax.Array
    weighted: Squared

    @classmethod
    def abstract(cls, shape: tuple[int, ...], columns: tuple[int, ...]) -> WeightedSquared:
        """Shapes for x and w; `weighted` holds the products with b, its c is b c."""
        plain = Squared.abstract(shape)
        return cls(
            plain, jnp.zeros(columns, jnp.int64), plain.replace(c=jnp.zeros((*shape[:-1], columns[-1]), jnp.int64))
        )

    def deal(self, randomness: Randomness, resident) -> WeightedSquared:
        """Fresh masks; see Material."""
        plain, b = self.plain.deal(randomness, resident), randomness.bits(self.b.shape)
        weighted = Squared(plain.a * b, plain.aa * b, plain.c * b, plain.ac * b, plain.aac * b)
        return self.replace(plain=plain, b=b, weighted=weighted)

    def square(self, e: jax.Array, d: jax.Array) -> jax.Array:
        """w x^2 from e = x - a and d = w - b."""
        return d * self.plain.square(e) + (e * e) * self.b + (2 * e) * self.weighted.a + self.weighted.aa

    def masked(self, e: jax.Array, d: jax.Array) -> jax.Array:
        """w x^2 c."""
        return d * self.plain.masked(e) + self.weighted.masked(e)


def exact_softmax(
    block: Block, query: Fixed, key: Fixed, bias: jax.Array | None, keys: Keys, extra: jax.Array, plan: LayerPlan
) -> tuple[Fixed, jax.Array]:
    """n softmax(s) up to a factor for each row: 4 messages and 5 a squaring; see `attention.Softmax`."""
    length = key.shape[-2]
    shape, weights, means = (*query.shape[:-1], length), keys.weights[:, None, None, :], keys.means[:, None, None, :]
    constants = plan.exact
    assert constants is not None
    masks = block.material("scores", lambda: CentredScores.abstract(query.shape, key.shape))
    query_e, key_e, mean_d, extra_e = open_together([query.ring - masks.a, key.ring - masks.b, means - masks.u, extra])
    product = _scores(query_e, key.ring) + _scores(masks.a, key_e) + masks.ab
    mean_key = _mean(mean_d, key.ring) + _mean(masks.u, key_e) + masks.ub
    [mean_e] = open_together([mean_key - masks.c])
    offset = _scores(query_e, mean_key) + _scores(masks.a, mean_e) + masks.ac
    centred = Fixed((product << scales.MEAN) - offset, query.bits + key.bits + scales.MEAN)
    if bias is not None:
        # Not centred itself, which would take products: its mean over a row is small, and cancels.
        shifted = (bias << scales.MEAN) - round(constants.offset * 2**centred.bits)
        centred = Fixed(centred.ring + shifted, centred.bits)
    with jax.named_scope("softmax"):
        bits = scales.EXPONENTIAL + scales.TRUNCATION
        exponential = block.material(
            "exponential",
            lambda: OpenedSeries.abstract(
                constants.exponential, shape, bits=centred.bits, mask_bits=bits // 2, public_bits=bits - bits // 2
            ),
        )
        [opening] = open_together([exponential.masked(centred)])
        [v] = truncated([exponential.finish(opening)], scales.TRUNCATION)
        first = block.material("square_0", lambda: WeightedSquared.abstract(shape, weights.shape))
        e, d = open_together([v.ring - first.plain.a, weights - first.b])
        v = _normalised(block, 0, v, first.square(e, d), first.masked(e, d), first.plain.c, constants.first_mean)
        for step in range(1, constants.squarings):
            later = block.material(f"square_{step}", lambda: Squared.abstract(shape))
            [e] = open_together([v.ring - later.a])
            v = _normalised(block, step, v, later.square(e), later.masked(e), later.c, constants.later_mean)
    return v, extra_e


def _normalised(
    block: Block, step: int, v: Fixed, square: jax.Array, masked: jax.Array, c: jax.Array, inverse_mean: Series
) -> Fixed:
    """The square over its mean along the last axis, padding (where it is 0) included: 4 messages.

    Args:
        block: the module that holds the material.
        step: which squaring this is.
        v: what was squared.
        square: w v^2, or v^2.
        masked: the same times c.
        c: the mask of the rows' inverse means.
        inverse_mean: 1/x.
    """
    bits = 2 * v.bits + int(math.log2(v.shape[-1]))
    series = block.material(f"mean_{step}", lambda: row_series(inverse_mean, (*v.shape[:-1], 1), bits, scales.ROUGH))
    [opening] = open_together([series.masked(Fixed(jnp.sum(square, axis=-1, keepdims=True), bits))])
    inverse = narrowed(block, f"mean_pair_{step}", series.finish(opening), scales.ROW_TRUNCATION)
    [inverse_e] = open_together([inverse.ring - c])
    result = Fixed(inverse_e * square + masked, 2 * v.bits + scales.ROUGH)
    return narrowed(block, f"pair_{step}", result, result.bits - scales.EXPONENTIAL)


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", q, k)


def _mean(u: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.sum(jnp.swapaxes(u, -1, -2) * k, axis=-2, keepdims=True)
