"""Products that the opening of a truncation serves: of the very number T that the truncation gives, in every ring."""

import jax.numpy as jnp
import numpy as np
import pytest
from rings import RNG, elements, signed, sizes, width_bytes

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.mpc.primitives.fixed import Fixed, open_together
from secformer_jax.mpc.primitives.scaled import NormPair, ScaledPair
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.openings.softmax_exact import SquaredPair

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


@pytest.mark.parametrize(("width", "dropped", "result"), [*RINGS, (48, 12, 48)])
def test_scaled_pair(engine, width, dropped, result):
    x, row = values(width)
    material = abstract(lambda: ScaledPair.abstract(x.shape, dropped, width, result))

    def function(masks, x, row):
        x, row = Fixed(x, 50, width), Fixed(row, 9, result)
        [opening] = open_together([masks.pair.masked(x)])
        [row_e] = open_together([row.masked(masks.b, result)])
        scaled = masks.times(opening, x, row, row_e)
        assert (scaled.bits, scaled.width) == (50 - dropped + 9, result)
        return masks.pair.finish(opening, x).ring, scaled.ring

    found = run(engine, function, material, above(x, width), row)
    truncated, scaled = found.value
    check_truncated(truncated, x, dropped, result)
    np.testing.assert_array_equal(signed(scaled, result), signed(truncated * row, result))
    check_sent(engine, found, (x.size, width), (row.size, result))


@pytest.mark.parametrize("squares", ["whole", "narrow"])
@pytest.mark.parametrize(("width", "dropped", "result"), [*RINGS, FEW_DROPPED])
def test_norm_pair(engine, width, dropped, result, squares):
    """The sum of squares too, modulo a ring of its own."""
    x, row = values(width)
    squares = result if squares == "whole" else result - 11
    material = abstract(lambda: NormPair.abstract(x.shape, dropped, width, result, squares))

    def function(masks, x, row):
        x, row = Fixed(x, 50, width), Fixed(row, 9, result)
        [opening] = open_together([masks.scaled.pair.masked(x)])
        total = masks.square_sum(opening, 37)
        assert (total.bits, total.width) == (37, squares)
        [row_e] = open_together([row.masked(masks.scaled.b, result)])
        truncated = masks.scaled.pair.finish(opening, x)
        return truncated.ring, masks.scaled.times(opening, x, row, row_e).ring, total.ring

    found = run(engine, function, material, above(x, width), row)
    truncated, scaled, total = found.value
    check_truncated(truncated, x, dropped, result)
    np.testing.assert_array_equal(signed(scaled, result), signed(truncated * row, result))
    expected = np.sum(truncated * truncated, axis=-1, keepdims=True)
    np.testing.assert_array_equal(signed(total, squares), signed(expected, squares))
    check_sent(engine, found, (x.size, width), (row.size, result))


@pytest.mark.parametrize(("width", "dropped", "result"), [*RINGS, FEW_DROPPED])
def test_squared_pair(engine, width, dropped, result):
    """T^2, and T^2 r with r opened after it."""
    x, row = values(width)
    material = abstract(lambda: SquaredPair.abstract(x.shape, dropped, width, result))

    def function(masks, x, row):
        x, row = Fixed(x, 50, width), Fixed(row, 9, result)
        [opening] = open_together([masks.pair.masked(x)])
        square, with_c = masks.squares(opening)
        [row_e] = open_together([row.masked(masks.c, result)])
        return masks.pair.finish(opening, x).ring, square, row_e * square + with_c, jnp.sum(square, axis=-1)

    found = run(engine, function, material, above(x, width), row)
    truncated, square, scaled, total = found.value
    check_truncated(truncated, x, dropped, result)
    expected = truncated * truncated
    np.testing.assert_array_equal(signed(square, result), signed(expected, result))
    np.testing.assert_array_equal(signed(scaled, result), signed(expected * row, result))
    np.testing.assert_array_equal(signed(total, result), signed(expected.sum(axis=-1), result))
    check_sent(engine, found, (x.size, width), (row.size, result))


def test_squares_in_a_wider_ring_are_refused():
    with pytest.raises(ValueError, match=r"squares modulo 2\^41 of values modulo 2\^40"):
        NormPair.abstract((2, 3), 12, 40, 40, 41)
