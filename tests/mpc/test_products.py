"""Products of opened differences are exact modulo 2^64, whatever the values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.mpc.material import Dealer, Randomness
from secformer_jax.mpc.primitives.fixed import open_together
from secformer_jax.mpc.primitives.products import ProductMasks, Weight, WeightProducts
from secformer_jax.mpc.primitives.ring import ring_matmul
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.openings.attention import MaskedSquare
from secformer_jax.openings.model import SquareAndScale
from secformer_jax.openings.softmax_exact import CentredScores, Squared, WeightedSquared

RANDOMNESS = Randomness()
LOW, HIGH = -(2**63), 2**63 - 1


def elements(*shape: int) -> np.ndarray:
    """Uniform in the whole ring: every product below wraps."""
    return RANDOMNESS.bits(shape)


def exactly(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A matrix product by Python's integers, modulo 2^64."""
    total = x.astype(object) @ y.astype(object)
    return np.vectorize(lambda v: (v + 2**63) % 2**64 - 2**63, otypes=[np.int64])(total)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((1, 1), (1, 1)),
        ((3, 5), (5, 2)),
        ((2, 2049), (2049, 3)),
        ((3, 5000), (5000, 2)),
        ((2, 3, 4, 50), (2, 3, 50, 6)),
    ],
)
def test_ring_matmul(x, y):
    left, right = elements(*x), elements(*y)
    np.testing.assert_array_equal(ring_matmul(left, right), exactly(left, right))


@pytest.mark.parametrize("inner", [1, 2048, 2049, 6000])
def test_ring_matmul_of_extremes(inner):
    """The largest digits at once, of one sign and of both: sums reach 2^53."""
    digit = 2**21 | 2**43
    for value in (LOW, HIGH, -1, digit, -digit, digit - 1, 2**21 - 1, -(2**21)):
        for other in (value, HIGH, LOW, digit):
            x, y = np.full((2, inner), value), np.full((inner, 2), other)
            expected = (value * other * inner + 2**63) % 2**64 - 2**63
            np.testing.assert_array_equal(ring_matmul(x, y), np.full((2, 2), expected))


def test_ring_matmul_broadcasts_a_matrix():
    x, y = elements(2, 3, 7), elements(7, 4)
    np.testing.assert_array_equal(ring_matmul(x, y), exactly(x, y))


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def check(engine: Engine, function, material, inputs: list[np.ndarray], expected: list[np.ndarray], opened: int):
    """The function's results are the expected ring elements, and it sends the openings and nothing else."""
    result = run(engine, function, material, *inputs)
    for found, truth in zip(result.value, expected, strict=True):
        np.testing.assert_array_equal(found, truth)
    # On ABY3 each sum by jnp.sum sends an element besides.
    total = result.profile.total
    assert result.profile.by_operation["custom_call: spu.reveal"].send_bytes == 8 * opened
    assert total.send_bytes - 8 * opened <= 8 * (engine.config.protocol == "ABY3")


def test_weight_products(engine):
    """A value that meets three resident weights is opened once."""
    x, kernel, scale, column = elements(2, 3, 5), elements(5, 4), elements(5), elements(5, 1)
    weights = {"kernel": kernel, "scale": scale, "column": column}
    dealer = Dealer()
    masks = dealer.mask_weights({f"block/{name}": weight.shape for name, weight in weights.items()})
    kinds = {"kernel": "matmul", "scale": "scale", "column": "matmul"}
    spec = {name: (kinds[name], f"block/{name}", weight.shape) for name, weight in weights.items()}
    material = abstract(lambda: WeightProducts.abstract(x.shape, **spec))
    published = {name: Weight(masks[f"block/{name}"], weights[name] - masks[f"block/{name}"]) for name in weights}
    with Engine(engine.config) as own:
        own.publish(published, public=lambda path: path.endswith(".opened"))

        def function(weights, masks, x):
            [e] = open_together([x - masks.a])
            return {name: masks.times(name, e, weights[name]) for name in weights}

        program = own.compile(function, material, x)
        expected = {"kernel": exactly(x, kernel), "scale": x * scale, "column": exactly(x, column)}
        for _ in range(2):  # the weights' masks serve every request, the value's own mask one
            result = own.run(program, dealer.deal(material), x)
            for name, found in result.value.items():
                np.testing.assert_array_equal(found, expected[name])
            total = result.profile.total
            assert (total.send_bytes, total.send_actions) == (8 * x.size, 1)


PRODUCTS = {
    "scores": ((2, 3, 4, 5), (2, 3, 6, 5), lambda q, k: exactly(q, np.swapaxes(k, -1, -2))),
    "context": ((2, 3, 4, 6), (2, 3, 6, 5), exactly),
    "elementwise": ((2, 3, 4, 5), (2, 3, 4, 1), np.multiply),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_masks(engine, name):
    x_shape, y_shape, product = PRODUCTS[name]
    x, y = elements(*x_shape), elements(*y_shape)

    def function(masks, x, y):
        x_e, y_e = open_together([x - masks.a, y - masks.b])
        return [masks.times(x_e, y, y_e)]

    material = abstract(lambda: ProductMasks.abstract(name, x_shape, y_shape))
    check(engine, function, material, [x, y], [product(x, y)], x.size + y.size)


def test_masked_square(engine):
    x, w = elements(2, 3, 4, 5), elements(2, 1, 1, 5)

    def function(masks, x, w):
        e, d = open_together([x - masks.a, w - masks.b])
        return [masks.finish(e, d)]

    material = abstract(lambda: MaskedSquare.abstract(x.shape, w.shape))
    check(engine, function, material, [x, w], [w * x * x], x.size + w.size)
    w = np.zeros_like(w)  # a masked key weighs exactly nothing, whatever its score
    check(engine, function, material, [x, w], [np.zeros_like(x)], x.size + w.size)


def test_square_and_scale(engine):
    x, row = elements(2, 3, 8), elements(2, 3, 1)

    def function(masks, x, row):
        [e] = open_together([x - masks.a])
        [row_e] = open_together([row - masks.b])
        return [masks.square_sum(e), masks.scaled(e, row, row_e)]

    material = abstract(lambda: SquareAndScale.abstract(x.shape))
    expected = [np.sum(x * x, axis=-1, keepdims=True), x * row]
    check(engine, function, material, [x, row], expected, x.size + row.size)


def test_squared(engine):
    """x^2 r with r opened after x."""
    x, r = elements(2, 3, 4, 5), elements(2, 3, 4, 1)

    def function(masks, x, r):
        [e] = open_together([x - masks.a])
        [r_e] = open_together([r - masks.c])
        return [masks.square(e), r_e * masks.square(e) + masks.masked(e)]

    material = abstract(lambda: Squared.abstract(x.shape))
    check(engine, function, material, [x, r], [x * x, x * x * r], x.size + r.size)


def test_weighted_squared(engine):
    x, w, r = elements(2, 3, 4, 5), elements(2, 1, 1, 5), elements(2, 3, 4, 1)

    def function(masks, x, w, r):
        e, d = open_together([x - masks.plain.a, w - masks.b])
        [r_e] = open_together([r - masks.plain.c])
        square = masks.square(e, d)
        return [square, r_e * square + masks.masked(e, d)]

    material = abstract(lambda: WeightedSquared.abstract(x.shape, w.shape))
    check(engine, function, material, [x, w, r], [w * x * x, w * x * x * r], x.size + w.size + r.size)


def test_centred_scores(engine):
    """q k^T and q (u k)^T, u the secret weights of a mean over the keys."""
    query, key, u = elements(2, 3, 4, 5), elements(2, 3, 6, 5), elements(2, 1, 1, 6)

    def function(masks, query, key, u):
        def scores(q, k):
            return jnp.einsum("bhqd,bhkd->bhqk", q, k)

        def mean(u, k):
            return jnp.sum(jnp.swapaxes(u, -1, -2) * k, axis=-2, keepdims=True)

        query_e, key_e, d = open_together([query - masks.a, key - masks.b, u - masks.u])
        product = scores(query_e, key) + scores(masks.a, key_e) + masks.ab
        mean_key = mean(d, key) + mean(masks.u, key_e) + masks.ub
        [mean_e] = open_together([mean_key - masks.c])
        return [product, mean_key, scores(query_e, mean_key) + scores(masks.a, mean_e) + masks.ac]

    mean_key = exactly(np.broadcast_to(u, (2, 3, 1, 6)), key)
    expected = [exactly(query, np.swapaxes(key, -1, -2)), mean_key, exactly(query, np.swapaxes(mean_key, -1, -2))]
    material = abstract(lambda: CentredScores.abstract(query.shape, key.shape))
    result = run(engine, function, material, query, key, u)
    for found, truth in zip(result.value, expected, strict=True):
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SquareAndScale.abstract((3, 4)),
        lambda: Squared.abstract((3, 4)),
        lambda: WeightedSquared.abstract((3, 4), (1, 4)),
        lambda: MaskedSquare.abstract((3, 4), (1, 4)),
        lambda: CentredScores.abstract((1, 2, 4, 3), (1, 2, 4, 3)),
        lambda: ProductMasks.abstract("context", (1, 2, 4, 4), (1, 2, 4, 3)),
    ],
)
def test_material_has_the_shapes_that_it_declares(make):
    spec = abstract(make)
    dealt = Dealer().deal(spec)
    for i, leaf in enumerate(jax.tree.leaves(spec)):
        filled = dealt.take(i)
        assert (filled.shape, filled.dtype) == (leaf.shape, np.int64)
