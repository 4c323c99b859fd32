"""Products that the opening of a truncation serves: of the very number T that the truncation gives, in every ring."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from rings import RNG, elements, signed, sizes, width_bytes

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, open_together
from secformer_jax.mpc.primitives.scaled import NormPair, PairProduct, ScaledPair, SquareSumPair
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.openings.squares import SquaredPair, SquareTimesPair, WeightedSquaredPair

RINGS = [(64, 40, 64), (40, 12, 40), (41, 14, 64), (48, 30, 24), (40, 20, 33), (25, 4, 50)]
"""(width, dropped, result): of a truncation."""

FEW_DROPPED = 48, 12, 48


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def values(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every size below 2^(width-2), with what has no meaning above the ring; and a number for each row."""
    x = RNG.permutation(sizes(width - 2))
    x = x[: x.size // 7 * 7].reshape(-1, 1, 7)
    return x, elements(x.shape[0], 1, 1)


def above(x: np.ndarray, width: int) -> np.ndarray:
    return x if width == 64 else x + (elements(*x.shape) << width)


def check_truncated(found: np.ndarray, x: np.ndarray, dropped: int, result: int) -> None:
    difference = signed(found - (x >> dropped), result)
    assert difference.min() >= 0 and difference.max() <= 1


def check_sent(engine: Engine, result, *messages: tuple[int, int]) -> None:
    """That the openings, a message each, are all that was sent."""
    total = result.profile.total
    sent = sum(size * width_bytes(width) for size, width in messages), len(messages)
    assert (total.send_bytes, total.send_actions) == ((0, 0) if engine.config.world_size == 1 else sent)


def check_pair(engine: Engine, make, ring: tuple[int, int, int], outputs) -> tuple[np.ndarray, np.ndarray, list]:
    """Truncate values by their pair; return the results T, a number for each row, and `outputs`.

    Args:
        engine: of the protocol.
        make: (shape) -> material.
        ring: (width, dropped, result).
        outputs: (masks, opening, x, open_row) -> arrays; `open_row(mask)` gives the row's number and what is opened of
            it.
    """
    width, dropped, result = ring
    x, row = values(width)

    def function(masks, x, row):
        x, row = Fixed(x, 50, width), Fixed(row, 9, result)
        pair = getattr(masks, "scaled", masks).pair
        [opening] = open_together([pair.masked(x)])
        arrays = outputs(masks, opening, x, lambda mask: (row, *open_together([row.masked(mask, result)])))
        return pair.finish(opening, x).ring, *arrays

    found = run(engine, function, abstract(lambda: make(x.shape)), above(x, width), row)
    truncated, *others = found.value
    check_truncated(truncated, x, dropped, result)
    check_sent(engine, found, (x.size, width), (row.size, result))
    return truncated, row, others


def assert_equal(found: np.ndarray, expected: np.ndarray, width: int) -> None:
    """Modulo 2^width."""
    np.testing.assert_array_equal(signed(found, width), signed(expected, width))


@pytest.mark.parametrize("ring", [*RINGS, FEW_DROPPED])
def test_scaled_pair(engine, ring):
    width, dropped, result = ring

    def outputs(masks, opening, x, open_row):
        scaled = masks.times(opening, x, *open_row(masks.b))
        assert (scaled.bits, scaled.width) == (50 - dropped + 9, result)
        return [scaled.ring]

    make = functools.partial(ScaledPair.abstract, dropped=dropped, width=width, result=result)
    truncated, row, [scaled] = check_pair(engine, make, ring, outputs)
    assert_equal(scaled, truncated * row, result)


@pytest.mark.parametrize("squares", ["whole", "narrow"])
@pytest.mark.parametrize("ring", [*RINGS, FEW_DROPPED])
def test_norm_pair(engine, ring, squares):
    """The sum of squares too, modulo a ring of its own."""
    width, dropped, result = ring
    squares = result if squares == "whole" else result - 11

    def outputs(masks, opening, x, open_row):
        total = masks.square_sum(opening, 37)
        assert (total.bits, total.width) == (37, squares)
        return masks.scaled.times(opening, x, *open_row(masks.scaled.b)).ring, total.ring

    make = functools.partial(NormPair.abstract, dropped=dropped, width=width, result=result, squares=squares)
    truncated, row, [scaled, total] = check_pair(engine, make, ring, outputs)
    assert_equal(scaled, truncated * row, result)
    assert_equal(total, np.sum(truncated * truncated, axis=-1, keepdims=True), squares)


@pytest.mark.parametrize("ring", [*RINGS, FEW_DROPPED])
def test_squared_pair(engine, ring):
    """T^2, and T^2 r with r opened after it."""
    width, dropped, result = ring

    def outputs(masks, opening, x, open_row):
        square, with_c = masks.squares(opening)
        _, row_e = open_row(masks.c)
        return square, row_e * square + with_c, jnp.sum(square, axis=-1)

    make = functools.partial(SquaredPair.abstract, dropped=dropped, width=width, result=result)
    truncated, row, [square, scaled, total] = check_pair(engine, make, ring, outputs)
    assert_equal(square, truncated * truncated, result)
    assert_equal(scaled, truncated * truncated * row, result)
    assert_equal(total, np.sum(truncated * truncated, axis=-1), result)


@pytest.mark.parametrize("ring", [*RINGS, FEW_DROPPED, (23, 0, 44)])
def test_square_times_pair(engine, ring):
    """T^2 r with r truncated later, by a pair of its own, and no opening but the two."""
    width, dropped, result = ring
    x, _ = values(width)
    row = RNG.integers(-(1 << 46), 1 << 46, (x.shape[0], 1, 1))

    def make():
        pairs = (
            TruncationPair.abstract(x.shape, dropped, width, result),
            TruncationPair.abstract(row.shape, 20, 48, result),
        )
        return SquareTimesPair.abstract(*pairs)

    def function(masks, x, row):
        x, row, square = Fixed(x, 50, width), Fixed(row, 45, 48), masks.square
        [opening] = open_together([square.pair.masked(x)])
        [row_opening] = open_together([masks.row.masked(row)])
        truncated, inverse = square.pair.finish(opening, x), masks.row.finish(row_opening, row)
        return truncated.ring, inverse.ring, square.square(opening), masks.times(opening, row_opening)

    found = run(engine, function, abstract(make), above(x, width), above(row, 48))
    truncated, rows, square, product = found.value
    check_truncated(truncated, x, dropped, result)
    check_truncated(rows, row, 20, result)
    assert_equal(square, truncated * truncated, result)
    assert_equal(product, truncated * truncated * rows, result)
    check_sent(engine, found, (x.size, width), (row.size, 48))


@pytest.mark.parametrize("ring", [*RINGS, FEW_DROPPED, (28, 0, 53)])
def test_square_sum_pair(engine, ring):
    width, dropped, result = ring
    x, _ = values(width)

    def function(masks, x):
        x = Fixed(x, 50, width)
        [opening] = open_together([masks.pair.masked(x)])
        total = masks.square_sum(opening, 37)
        assert (total.bits, total.width) == (37, result)
        return masks.pair.finish(opening, x).ring, total.ring

    material = abstract(lambda: SquareSumPair.abstract(TruncationPair.abstract(x.shape, dropped, width, result)))
    found = run(engine, function, material, above(x, width))
    truncated, total = found.value
    check_truncated(truncated, x, dropped, result)
    assert_equal(total, np.sum(truncated * truncated, axis=-1, keepdims=True), result)
    check_sent(engine, found, (x.size, width))


@pytest.mark.parametrize("ring", [*RINGS, FEW_DROPPED])
def test_weighted_squared_pair(engine, ring):
    """w T^2, w a number for each column, and w T^2 r; a column whose weight is 0 is exactly 0."""
    width, dropped, result = ring
    x, row = values(width)
    weights = np.array([0, 1, 3, 0, 512, -5, 2**40 + 1])
    material = abstract(lambda: WeightedSquaredPair.abstract(x.shape, weights.shape, dropped, width, result))

    def function(masks, x, weights, row):
        x, plain = Fixed(x, 50, width), masks.plain
        opening, d = open_together([plain.pair.masked(x), Masked(weights - masks.b, result)])
        [row_e] = open_together([Masked(row - plain.c, result)])
        square, with_c = masks.squares(opening, d)
        return plain.pair.finish(opening, x).ring, square, row_e * square + with_c

    found = run(engine, function, material, above(x, width), weights, row)
    truncated, square, scaled = found.value
    check_truncated(truncated, x, dropped, result)
    assert_equal(square, weights * truncated * truncated, result)
    assert_equal(scaled, weights * truncated * truncated * row, result)
    total = found.profile.total
    sent = (x.size * width_bytes(width) + (weights.size + row.size) * width_bytes(result), 2)
    assert (total.send_bytes, total.send_actions) == ((0, 0) if engine.config.world_size == 1 else sent)


def test_squares_in_a_wider_ring_are_refused():
    with pytest.raises(ValueError, match=r"squares modulo 2\^41 of values modulo 2\^40"):
        NormPair.abstract((2, 3), 12, 40, 40, 41)


@pytest.mark.parametrize("second", [(48, 20), (64, 41), (20, 4)])
@pytest.mark.parametrize("ring", RINGS)
def test_pair_product(engine, ring, second):
    """One message, whatever the two rings are; a number for each row multiplies all of it."""
    (width, dropped, result), (row_width, row_dropped) = ring, second
    x, _ = values(width)
    row = RNG.integers(-(1 << (row_width - 2)), 1 << (row_width - 2), (x.shape[0], 1, 1))

    def make():
        pairs = (
            TruncationPair.abstract(x.shape, dropped, width, result),
            TruncationPair.abstract(row.shape, row_dropped, row_width, result),
        )
        return PairProduct.abstract(*pairs)

    def function(masks, x, row):
        x, row = Fixed(x, 50, width), Fixed(row, 45, row_width)
        openings = open_together([masks.x.masked(x), masks.y.masked(row)])
        product = masks.times(x, openings[0], row, openings[1])
        assert product.bits == 50 - dropped + 45 - row_dropped and product.width == result
        return masks.x.finish(openings[0], x).ring, masks.y.finish(openings[1], row).ring, product.ring

    found = run(engine, function, abstract(make), above(x, width), above(row, row_width))
    truncated, rows, product = found.value
    check_truncated(truncated, x, dropped, result)
    check_truncated(rows, row, row_dropped, result)
    assert_equal(product, truncated * rows, result)
    if engine.config.world_size > 1:
        assert found.profile.total.send_actions == 1
