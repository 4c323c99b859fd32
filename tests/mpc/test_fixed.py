"""Fixed point with explicit scales and rings: shifts, rounding, truncation by a dealer's pair, openings together."""

import numpy as np
import pytest
from rings import RNG, elements, signed, sizes, unsigned, whole, width_bytes

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.mpc.material import Dealer, Randomness, WeightMasks
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, fixed, open_together, real, ring
from secformer_jax.mpc.primitives.masked import truncated
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "2pc_cheetah", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def sent(result) -> tuple[int, int]:
    return result.profile.total.send_bytes, result.profile.total.send_actions


def check_opening(engine: Engine, result, *values: tuple[int, int]) -> None:
    """That all that was sent is one message: of values (elements, width) whole bytes."""
    alone = engine.config.world_size == 1
    expected = (0, 0) if alone else (sum(size * width_bytes(width) for size, width in values), 1)
    opening = result.profile.by_operation["opening"]
    assert (opening.send_bytes, opening.send_actions) == expected == sent(result)


def test_truncation_by_spu(engine):
    """Within one unit at any size. Written as a constant, SPU would make it two products: 2^45 would overflow."""
    x = sizes(58)

    def function(_, x):
        after = truncated(Fixed(x, 40), 18)
        assert after.bits == 22
        return after.ring

    result = run(engine, function, {}, x)
    difference = result.value - (x >> 18)
    assert difference.min() >= -1 and difference.max() <= 1
    # On ABY3 the parties take turns at random in the role that sends less.
    costs = {"SEMI2K": [(4 * x.size, 1)], "ABY3": [(12 * x.size, 2), (4 * x.size, 1)], "REF2K": [(0, 0)]}
    assert engine.config.protocol == "CHEETAH" or sent(result) in costs[engine.config.protocol]


WHOLE = [*((64, dropped, 64) for dropped in (1, 2, 9, 18, 27, 36, 50, 62))]
OTHER_RINGS = [(40, 20, 40), (40, 20, 64), (48, 30, 24), (33, 12, 21), (64, 18, 40), (24, 22, 17), (25, 1, 64)]


@pytest.mark.parametrize(("width", "dropped", "result_width"), WHOLE + OTHER_RINGS)
def test_truncation_pair(engine, width, dropped, result_width):
    """By any number of bits, into any ring, at most one unit above the floor for every abs(x) < 2^(width-2)."""
    x = np.concatenate([sizes(width - 2), sizes(min(width - 3, 20)) << (width - 2 - min(width - 3, 20))])
    pair = abstract(lambda: TruncationPair.abstract(x.shape, dropped, width, result_width))

    def function(pair, x):
        value = Fixed(x, 60, width)
        [opening] = open_together([pair.masked(value)])
        after = pair.finish(opening, value)
        assert (after.bits, after.width) == (60 - dropped, result_width)
        return after.ring

    # What the value has above its ring is of no meaning.
    result = run(engine, function, pair, x if width == 64 else x + (elements(*x.shape) << width))
    difference = signed(result.value - (x >> dropped), result_width)
    assert difference.min() >= 0 and difference.max() <= 1
    # What is exact stays exact: a masked key weighs nothing, whatever a padded position holds.
    assert not difference[unsigned(x, dropped) == 0].any()
    check_opening(engine, result, (x.size, width))


@pytest.mark.parametrize(("width", "dropped", "result_width"), OTHER_RINGS)
def test_truncation_pair_of_what_is_not_negative(engine, width, dropped, result_width):
    """The same for every 0 <= x < 2^(width-1)."""
    bits = min(width, 63) - 1
    x = np.abs(sizes(bits))
    pair = abstract(lambda: TruncationPair.abstract(x.shape, dropped, width, result_width, signed=False))

    def function(pair, x):
        value = Fixed(x, 60, width)
        [opening] = open_together([pair.masked(value)])
        return pair.finish(opening, value).ring

    result = run(engine, function, pair, x)
    difference = signed(result.value - (x >> dropped), result_width)
    assert difference.min() >= 0 and difference.max() <= 1
    assert not difference[unsigned(x, dropped) == 0].any()
    check_opening(engine, result, (x.size, width))


def test_a_pair_for_another_ring_is_refused():
    pair = abstract(lambda: TruncationPair.abstract((3,), 20, 40))
    with pytest.raises(ValueError, match="a pair for 40 bits, and a value of 64"):
        pair.masked(Fixed(np.zeros(3, np.int64), 20))


@pytest.mark.parametrize(("width", "dropped", "result"), [(64, 20, 64), (40, 12, 40), (33, 20, 16), (40, 12, 20)])
def test_pair_is_made_of_its_own_bits(width, dropped, result):
    pair = abstract(lambda: TruncationPair.abstract((1000,), dropped, width, result))
    dealt = pair.deal(Randomness(2), WeightMasks.fresh({}))
    r = whole(dealt.r).view(np.uint64)
    assert (dealt.r.bits, dealt.high.bits, dealt.msb.bits) == (width, result, max(1, result - (width - 1 - dropped)))
    np.testing.assert_array_equal(whole(dealt.msb), (r >> np.uint64(width - 1)).astype(np.int64))
    high = (r & np.uint64(2 ** (width - 1) - 1)) >> np.uint64(dropped)
    np.testing.assert_array_equal(whole(dealt.high), unsigned(high.astype(np.int64), result))


def test_scales(engine):
    x, y = (RNG.integers(-(2**30), 2**30, 100) for _ in range(2))

    def function(_, x, y):
        total = Fixed(x, 20) + Fixed(y, 13)
        value = Fixed(x, 10).real(18)
        assert (total.bits, fixed(value, 18).bits, Fixed(x, 10).at(10).bits) == (20, 18, 10)
        assert (Fixed(x, 20, 40) + Fixed(y, 13)).width == 40
        return total.ring, value, ring(value), fixed(value, 18).ring, ring(real(x)), Fixed(x, 20).reshape(4, 25).ring

    found = run(engine, function, {}, x, y)
    np.testing.assert_array_equal(found.value[0], x + (y << 7))
    np.testing.assert_allclose(found.value[1], x / 2.0**10, rtol=1e-6)
    for elements_ in found.value[2:4]:
        np.testing.assert_array_equal(elements_, x << 8)
    np.testing.assert_array_equal(found.value[4], x)
    np.testing.assert_array_equal(found.value[5], x.reshape(4, 25))
    assert sent(found) == (0, 0)


def test_what_a_scale_or_a_ring_cannot_be():
    x = np.arange(4)
    with pytest.raises(ValueError, match="from 20 to 18 fraction bits is a truncation"):
        Fixed(x, 20).at(18)
    with pytest.raises(ValueError, match=r"a value modulo 2\^40 is none of the runtime's"):
        Fixed(x, 10, 40).real(18)
    with pytest.raises(ValueError, match=r"a mask modulo 2\^41 for values modulo 2\^40"):
        Fixed(x, 10, 40).masked(x, 41)


@pytest.mark.parametrize(("width", "bits"), [(64, 18), (64, 39), (40, 12), (40, 20), (33, 38)])
def test_rounded(engine, width, bits):
    """No message; within a unit, modulo a ring that is narrower by as many bits."""
    x, count = elements(5000), max(0, 38 - bits)

    def function(_, x):
        after = Fixed(x, 38, width).rounded(bits)
        assert (after.bits, after.width) == (38 - count, width - count)
        return after.ring

    result = run(engine, function, {}, x)
    error = signed((result.value << count) - x, width)
    unit = {"SEMI2K": 1, "CHEETAH": 1, "ABY3": 1.5, "REF2K": 0.5}[engine.config.protocol]
    assert np.abs(error).max() <= (unit * 2**count if count else 0)
    assert sent(result) == (0, 0)


def test_openings_share_a_message(engine):
    """Each modulo its own ring, in whole bytes; one that nobody reads, too."""
    x, y, z = elements(3, 4), elements(5), elements(2, 1)

    def function(_, x, y, z):
        one, other, _ = open_together([Masked(x, 64), Masked(y, 41), Masked(z, 7)])
        return one + 0 * x, other + 0 * y

    result = run(engine, function, {}, x, y, z)
    np.testing.assert_array_equal(result.value[0], x)
    np.testing.assert_array_equal(result.value[1], signed(y, 41))
    check_opening(engine, result, (12, 64), (5, 41), (2, 7))


@pytest.mark.parametrize("bits", [1, 5, 8, 23, 41, 63, 64])
def test_opened_modulo(engine, bits):
    """Public from then on: what follows is anybody's, and the numbers are in [-2^(bits-1), 2^(bits-1))."""
    x = np.concatenate([elements(200), [0, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]])

    def function(_, x):
        [opening] = open_together([Masked(x, bits)])
        return opening + 0 * x, (opening >> 1) * x

    result = run(engine, function, {}, x)
    found = signed(x, bits)
    np.testing.assert_array_equal(result.value[0], found)
    np.testing.assert_array_equal(result.value[1], (found >> 1) * x)
    check_opening(engine, result, (x.size, bits))


def test_masked_values_open_to_the_difference(engine):
    """In the ring that both have."""
    x = elements(100)
    pair = abstract(lambda: TruncationPair.abstract(x.shape, 8, 40))

    def function(pair, x):
        [opening] = open_together([Fixed(x, 20, 40).masked(pair.r, 40)])
        return opening + pair.r

    program = engine.compile(lambda _, pair, x: function(pair, x), pair, x)
    result = engine.run(program, Dealer().deal(pair), x)
    np.testing.assert_array_equal(signed(result.value, 40), signed(x, 40))
    check_opening(engine, result, (x.size, 40))


@pytest.mark.parametrize("width", [24, 40, 64])
def test_every_bit_of_a_truncations_mask_is_random(width):
    spec = abstract(lambda: TruncationPair.abstract((4000,), 8, width))
    mask = whole(Dealer().deal(spec).take(2)[0])
    ones = [int(((mask >> bit) & 1).sum()) for bit in range(width)]
    assert min(ones) > 1700 and max(ones) < 2300
