"""Products of opened differences are exact modulo 2^width, whatever the values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rings import elements, exactly, signed, unsigned, whole, width_bytes

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.mpc.material import Dealer, Material
from secformer_jax.mpc.primitives.fixed import Masked, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import ProductMasks, Weight, WeightProducts
from secformer_jax.mpc.primitives.scaled import NormPair, ScaledPair, SquareSumPair
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.operations import product
from secformer_jax.openings.attention import MaskedSquare
from secformer_jax.openings.softmax_exact import CentredScores
from secformer_jax.openings.squares import SquaredPair, SquareTimesPair, WeightedSquaredPair

WIDTHS = [24, 40, 64]


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def check(engine: Engine, function, material, inputs, expected, width: int, messages: int = 1) -> None:
    """The function's results are the expected ring elements; it opens each input once, and sends nothing else."""
    result = run(engine, function, material, *inputs)
    for found, truth in zip(result.value, expected, strict=True):
        np.testing.assert_array_equal(signed(found, width), signed(truth, width))
    opened = sum(x.size for x in inputs) * width_bytes(width)
    sent = (0, 0) if engine.config.world_size == 1 else (opened, messages)
    opening, total = result.profile.by_operation["opening"], result.profile.total
    assert (opening.send_bytes, opening.send_actions) == (total.send_bytes, total.send_actions) == sent


def openings(width: int, *values: jax.Array) -> list[jax.Array]:
    return open_together([Masked(value, width) for value in values])


@pytest.mark.parametrize("width", WIDTHS)
def test_weight_products(engine, width):
    """A value that meets three resident weights is opened once."""
    x, kernel, scale, column = elements(2, 3, 5), elements(5, 4), elements(5), elements(5, 1)
    weights = {"kernel": kernel, "scale": scale, "column": column}
    dealer = Dealer()
    masks = dealer.mask_weights({f"block/{name}": weight.shape for name, weight in weights.items()})
    kinds = {"kernel": "matmul", "scale": "scale", "column": "matmul"}
    spec = {name: (kinds[name], f"block/{name}", weight.shape) for name, weight in weights.items()}
    material = abstract(lambda: WeightProducts.abstract(x.shape, width, **spec))
    published = {name: Weight(weights[name], weights[name] - masks.array(f"block/{name}")) for name in weights}
    with Engine(engine.config) as own:
        own.publish(published, public=lambda path: path.endswith(".opened"))

        def function(weights, masks, x):
            [e] = openings(width, x - masks.a)
            return {name: masks.times(name, e, weights[name]) for name in weights}

        program = own.compile(function, material, x)
        expected = {"kernel": exactly(x, kernel), "scale": x * scale, "column": exactly(x, column)}
        for _ in range(2):  # the weights' masks serve every request, the value's own mask one
            result = own.run(program, dealer.deal(material), x)
            for name, found in result.value.items():
                np.testing.assert_array_equal(signed(found, width), signed(expected[name], width))
            total, sent = result.profile.total, (width_bytes(width) * x.size, 1)
            assert (total.send_bytes, total.send_actions) == (sent if own.config.world_size > 1 else (0, 0))
            # The products of the mask with what is known of the weights run ahead of the input.
            assert result.ahead.by_operation["product"].seconds > 0 == result.ahead.total.send_bytes


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_request_opens_once_serves_its_later_values(engine, width):
    """Masks of a request's own beside those of the weights: a value meets both, by head and from either side."""
    fixed, own, x = elements(2, 3, 5), elements(2, 4, 5), elements(2, 6, 5)
    dealer = Dealer(cut_once=False)
    weights = dealer.mask_weights({"fixed": fixed.shape})
    masks = dealer.mask_more({"own": own.shape}, engine.config.world_size)
    np.testing.assert_array_equal(masks.array("fixed"), weights.array("fixed"))
    sides = {"fixed": (fixed, masks.array("fixed")), "own": (own, masks.array("own"))}

    def function(material, fixed, fixed_opened, own, own_opened, x):
        [e] = openings(width, x - material.a)
        known = (jnp.asarray(opened) for opened in (fixed_opened, own_opened))
        pairs = {name: Weight(ring, opened) for name, ring, opened in zip(sides, (fixed, own), known, strict=True)}
        return [material.times(name, e, weight) for name, weight in pairs.items()]

    spec = {name: ("scores", name, value.shape) for name, (value, _) in sides.items()}
    material = abstract(lambda: WeightProducts.abstract(x.shape, width, **spec))
    opened = {name: value - mask for name, (value, mask) in sides.items()}
    program = engine.compile(
        lambda _, material, fixed, own, x: function(material, fixed, opened["fixed"], own, opened["own"], x),
        material, fixed, own, x,
    )  # fmt: skip
    result = engine.run(program, dealer.deal(material, masks), fixed, own, x)
    for found, value in zip(result.value, (fixed, own), strict=True):
        np.testing.assert_array_equal(signed(found, width), signed(exactly(x, np.swapaxes(value, -1, -2)), width))
    assert not np.array_equal(masks.array("own"), dealer.mask_more({"own": own.shape}, 1).array("own"))


PRODUCTS = {
    "scores": ((2, 3, 4, 5), (2, 3, 6, 5), lambda q, k: exactly(q, np.swapaxes(k, -1, -2))),
    "context": ((2, 3, 4, 6), (2, 3, 6, 5), exactly),
    "elementwise": ((2, 3, 4, 5), (2, 3, 4, 1), np.multiply),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_product_masks(engine, name, width):
    x_shape, y_shape, of = PRODUCTS[name]
    x, y = elements(*x_shape), elements(*y_shape)

    def function(masks, x, y):
        x_e, y_e = openings(width, x - masks.a, y - masks.b)
        return [masks.times(x_e, y, y_e)]

    material = abstract(lambda: ProductMasks.abstract(name, x_shape, y_shape, width))
    check(engine, function, material, [x, y], [of(x, y)], width)


@pytest.mark.parametrize("width", WIDTHS)
def test_masked_square(engine, width):
    x, w = elements(2, 3, 4, 5), elements(2, 1, 1, 5)

    def function(masks, x, w):
        e, d = openings(width, x - masks.a, w - masks.b)
        return [masks.finish(e, d)]

    material = abstract(lambda: MaskedSquare.abstract(x.shape, w.shape, width))
    check(engine, function, material, [x, w], [w * x * x], width)
    w = np.zeros_like(w)  # a masked key weighs exactly nothing, whatever its score
    check(engine, function, material, [x, w], [np.zeros_like(x)], width)


@pytest.mark.parametrize("width", WIDTHS)
def test_centred_scores(engine, width):
    """q k^T and q (u k)^T, u the secret weights of a mean over the keys."""
    query, key, u = elements(2, 3, 4, 5), elements(2, 3, 6, 5), elements(2, 1, 1, 6)
    material = abstract(lambda: CentredScores.abstract(query.shape, key.shape, width))
    assert material.width == width  # or the masks would hide less than the values' ring

    def function(masks, query, key, u):
        def scores(q, k):
            return product(q, jnp.swapaxes(k, -1, -2), width)

        def mean(u, k):
            return jnp.sum(jnp.swapaxes(u, -1, -2) * k, axis=-2, keepdims=True)

        query_e, key_e, d = openings(width, query - masks.a, key - masks.b, u - masks.u)
        mean_key = mean(d, key) + mean(masks.u, key_e) + masks.ub
        [mean_e] = openings(width, mean_key - masks.c)
        found = scores(query_e, key) + scores(masks.a, key_e) + masks.ab
        return [found, mean_key, scores(query_e, mean_key) + scores(masks.a, mean_e) + masks.ac]

    mean_key = exactly(np.broadcast_to(u, (2, 3, 1, 6)), key)
    expected = [exactly(query, np.swapaxes(key, -1, -2)), mean_key, exactly(query, np.swapaxes(mean_key, -1, -2))]
    result = run(engine, function, material, query, key, u)
    for found, truth in zip(result.value, expected, strict=True):
        np.testing.assert_array_equal(signed(found, width), signed(truth, width))
    opened = (query.size + key.size + u.size + mean_key.size) * width_bytes(width)
    total, sent = result.profile.total, (0, 0) if engine.config.world_size == 1 else (opened, 2)
    assert (total.send_bytes, total.send_actions) == sent


MATERIAL = {
    "scaled": lambda: ScaledPair.abstract((3, 4), 12, 40, 33),
    "norm": lambda: NormPair.abstract((3, 4), 12, 40, 33, 28),
    "squared pair": lambda: SquaredPair.abstract((3, 4), 12, 40, 33),
    "weighted squared pair": lambda: WeightedSquaredPair.abstract((3, 4), (1, 4), 12, 40, 33),
    "square times pair": lambda: SquareTimesPair.abstract(
        TruncationPair.abstract((3, 4), 0, 24, 33), TruncationPair.abstract((3, 1), 12, 40, 33)
    ),
    "square sum pair": lambda: SquareSumPair.abstract(TruncationPair.abstract((3, 4), 12, 40, 33)),
    "masked": lambda: MaskedSquare.abstract((3, 4), (1, 4), 40),
    "centred": lambda: CentredScores.abstract((1, 2, 4, 3), (1, 2, 5, 3), 40),
    "products": lambda: ProductMasks.abstract("context", (1, 2, 4, 5), (1, 2, 5, 3), 40),
    "scores": lambda: ProductMasks.abstract("scores", (1, 2, 4, 3), (1, 2, 5, 3), 40),
    "elementwise": lambda: ProductMasks.abstract("elementwise", (2, 4), (2, 1), 40),
}


@pytest.mark.parametrize("name", MATERIAL)
def test_material_has_the_shapes_that_it_declares(name):
    spec = abstract(MATERIAL[name])
    assert isinstance(spec, Material)
    arrays = Dealer().deal(spec).take(3)
    for leaf, array in zip(jax.tree.leaves(spec), arrays, strict=True):
        assert (array.shape, len(array.components)) == (leaf.shape, 3)
        assert 1 <= array.bits <= 40
        # No share of anything has a bit more than its ring.
        np.testing.assert_array_equal(whole(array), unsigned(whole(array), array.bits))
        assert whole(array).shape == leaf.shape
