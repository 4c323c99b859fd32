"""Fixed point with explicit scales: shifts, truncations by SPU and by a dealer's pair, openings in one message."""

import numpy as np
import pytest

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.mpc.material import Randomness
from secformer_jax.mpc.primitives.fixed import (
    Fixed,
    TruncationPair,
    fixed,
    open_together,
    opened_modulo,
    ring,
    signed_modulo,
    truncate,
    truncated,
)
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine

RNG = np.random.default_rng(0)
LARGEST = 58


def every_size(count: int = 64) -> np.ndarray:
    """Ring elements of both signs, `count` of each size up to 2^58, and the extremes."""
    sizes = 2 ** np.repeat(np.arange(LARGEST), count)
    values = RNG.integers(sizes, 2 * sizes) * RNG.choice([-1, 1], sizes.shape)
    return np.concatenate([values, [0, 1, -1, 2**LARGEST, -(2**LARGEST)]])


X = every_size()


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def sent(result) -> tuple[int, int]:
    return result.profile.total.send_bytes, result.profile.total.send_actions


def test_truncation_by_spu(engine):
    """Within one unit at any size. Written as a constant, SPU would make it two products: 2^45 would overflow."""
    result = run(engine, lambda _, x: truncate(x), {}, X)
    difference = result.value - (X >> 18)
    assert difference.min() >= -1 and difference.max() <= 1
    # On ABY3 the parties take turns at random in the role that sends less.
    costs = {"SEMI2K": [(4 * X.size, 1)], "ABY3": [(12 * X.size, 2), (4 * X.size, 1)], "REF2K": [(0, 0)]}
    assert sent(result) in costs[engine.config.protocol]


def test_truncations_share_a_message(engine):
    one, other = X[:600].reshape(2, 300), X[-700:].reshape(7, 5, 20)

    def function(_, one, other):
        found = truncated([Fixed(one, 40), Fixed(other, 33)], 18)
        assert [v.bits for v in found] == [22, 15]
        return [v.ring for v in found]

    result = run(engine, function, {}, one, other)
    for found, x in zip(result.value, (one, other), strict=True):
        assert np.abs(found - (x >> 18)).max() <= 1
    assert result.profile.total.send_actions in {"SEMI2K": [1], "ABY3": [1, 2], "REF2K": [0]}[engine.config.protocol]


@pytest.mark.parametrize("dropped", [1, 9, 18, 27, 36, 50])
def test_truncation_pair(engine, dropped):
    """By any number of bits, within one unit, for every abs(x) < 2^62."""
    x = np.concatenate([X, RNG.integers(2**61, 2**62, 500), -RNG.integers(2**61, 2**62, 500)])
    pair = abstract(lambda: TruncationPair.abstract(x.shape, dropped))

    def function(pair, x):
        [opening] = open_together([pair.masked(Fixed(x, 60))])
        after = pair.finish(opening, Fixed(x, 60))
        assert after.bits == 60 - dropped
        return after.ring

    result = run(engine, function, pair, x)
    difference = result.value - (x >> dropped)
    assert difference.min() >= 0 and difference.max() <= 1
    # What is exact stays exact: a masked key weighs nothing, whatever a padded position holds.
    assert not result.value[x == 0].any()
    if engine.config.protocol != "REF2K":
        assert sent(result) == (8 * x.size, 1)


def test_pair_is_made_of_its_own_bits():
    pair = abstract(lambda: TruncationPair.abstract((1000,), 20)).deal(Randomness(), {})
    unsigned = pair.r.view(np.uint64)
    np.testing.assert_array_equal(pair.msb, (unsigned >> 63).astype(np.int64))
    np.testing.assert_array_equal(pair.high, ((unsigned & np.uint64(2**63 - 1)) >> np.uint64(20)).astype(np.int64))


def test_scales(engine):
    x, y = (RNG.integers(-(2**30), 2**30, 100) for _ in range(2))

    def function(_, x, y):
        total = Fixed(x, 20) + Fixed(y, 13)
        value = Fixed(x, 10).real(18)
        assert (total.bits, fixed(value, 18).bits, Fixed(x, 10).at(10).bits) == (20, 18, 10)
        return total.ring, value, ring(value), fixed(value, 18).ring

    found = run(engine, function, {}, x, y)
    np.testing.assert_array_equal(found.value[0], x + (y << 7))
    np.testing.assert_allclose(found.value[1], x / 2.0**10, rtol=1e-6)
    for elements in found.value[2:]:
        np.testing.assert_array_equal(elements, x << 8)
    assert sent(found) == (0, 0)
    with pytest.raises(ValueError, match="from 20 to 18 fraction bits is a truncation"):
        Fixed(x, 20).at(18)


def test_openings_share_a_message(engine):
    x, y = RNG.integers(-(2**62), 2**62, (3, 4)), RNG.integers(-(2**62), 2**62, (5,))
    result = run(engine, lambda _, x, y: open_together([x, y]), {}, x, y)
    for found, expected in zip(result.value, (x, y), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert sent(result) == ((0, 0) if engine.config.protocol == "REF2K" else (8 * 17, 1))


@pytest.mark.parametrize("bits", [5, 23, 41, 64])
def test_opened_modulo(engine, bits):
    x = RNG.integers(-(2**63), 2**63 - 1, 200)

    def function(_, x):
        [opening] = open_together([opened_modulo(x, bits)])
        return signed_modulo(opening, bits)

    found = run(engine, function, {}, x).value
    half = 1 << (bits - 1)
    np.testing.assert_array_equal(found, [(int(v) + half) % (2 * half) - half for v in x])
