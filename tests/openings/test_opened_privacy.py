"""Every kind of opening is uniform whatever the secret, in all its bits, and two of one place together."""

import contextlib
import itertools
import operator
from collections.abc import Callable, Iterator
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from uniformity import OPENINGS, accepted, alike, jointly, uniform

pytest.importorskip("spu")

from noted import noted
from programs import abstract

from secformer_jax.functions.fitting import fit_gelu_tail, fit_rsqrt
from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Dealer, Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import ProductMasks, WeightProducts
from secformer_jax.mpc.primitives.scaled import NormPair, PairProduct, ScaledPair, SquareSumPair
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.parties import Parties
from secformer_jax.mpc.runtime.shares import packed_bytes, unpack
from secformer_jax.openings.attention import MaskedSquare
from secformer_jax.openings.softmax_exact import CentredScores
from secformer_jax.openings.squares import SquaredPair, SquarePair, SquareTimesPair, WeightedSquaredPair

GELU, RSQRT = fit_gelu_tail(12.5), fit_rsqrt(0.003, 0.04)
MANY = (OPENINGS, 1)
EACH = (OPENINGS, 1, 1, 1)


class Link:
    """A party's link that keeps what it sends."""

    def __init__(self, link) -> None:
        self._link, self.sent = link, []

    def __getattr__(self, name: str):
        return getattr(self._link, name)

    def send_async(self, rank: int, data: bytes) -> None:
        self.sent.append(data)
        self._link.send_async(rank, data)


@contextlib.contextmanager
def overheard(parties: Parties) -> Iterator[list[list[bytes]]]:
    """What each party sends in openings."""
    links = [party._link for party in parties._parties]
    for party in parties._parties:
        party._link = Link(party._link)
    try:
        yield [party._link.sent for party in parties._parties]
    finally:
        for party, link in zip(parties._parties, links, strict=True):
            party._link = link


def same_ring(make: Callable[[], Material], width: int, *masks: str):
    """Values of one ring, each less one of the material's masks."""
    find = [operator.attrgetter(mask) for mask in masks]
    return make, lambda m, x: [Masked(x - mask(m), width) for mask in find], [width] * len(masks)


def and_factor(make: Callable[[], Material], bits: int, width: int, pair: str, factor: str, result: int):
    """A truncation, and a number for each row that multiplies the result."""
    of, mask = operator.attrgetter(pair), operator.attrgetter(factor)
    return make, lambda m, x: [of(m).masked(Fixed(x, bits, width)), Masked(x - mask(m), result)], [width, result]


def series(fitted: Series, bits: int, more: int, width: int):
    """A series of a value with `more` fraction bits than are opened."""
    make = lambda: OpenedSeries.abstract(fitted, MANY, bits=bits, mask_bits=14, public_bits=14)  # noqa: E731
    return make, lambda m, x: [m.masked(Fixed(x, bits + more, width))], [bits + int(np.log2(fitted.period))]


def truncation(dropped: int, width: int, result: int, *, signed: bool = True):
    make = lambda: TruncationPair.abstract(MANY, dropped, width, result, signed=signed)  # noqa: E731
    return make, lambda m, x: [m.masked(Fixed(x, dropped, width))], [width]


def pair(dropped: int, width: int, result: int, shape: tuple[int, ...] = MANY) -> TruncationPair:
    return TruncationPair.abstract(shape, dropped, width, result)


def pairs(make: Callable[[], Material], **widths: int):
    """Truncations of one place, each with its own pair; 15 bits of those that lose some."""
    find = {operator.attrgetter(name): width for name, width in widths.items()}
    return make, lambda m, x: [of(m).masked(Fixed(x, 20, width)) for of, width in find.items()], [*widths.values()]


# Material, what is opened of it, and the bits of each array.
KINDS = {
    # A linear layer's input, at a ring of whole bytes and at others.
    "input": same_ring(lambda: WeightProducts.abstract(MANY, 40), 40, "a"),
    "narrow input": same_ring(lambda: WeightProducts.abstract(MANY, 35), 35, "a"),
    "product": same_ring(lambda: ProductMasks.abstract("elementwise", MANY, MANY, 31), 31, "a", "b"),
    "scores": same_ring(lambda: ProductMasks.abstract("scores", EACH, EACH, 36), 36, "a", "b"),
    "square of a score, key weight": same_ring(lambda: MaskedSquare.abstract(MANY, MANY, 44), 44, "a", "b"),
    "context and its inverse sum": and_factor(lambda: ScaledPair.abstract(MANY, 12, 36, 54), 20, 36, "pair", "b", 54),
    "LayerNorm's input and inverse deviation": and_factor(
        lambda: NormPair.abstract(MANY, 15, 35, 51, 36), 28, 35, "scaled.pair", "scaled.b", 51
    ),
    "exponential before its square, key weight, inverse mean": (
        lambda: WeightedSquaredPair.abstract(MANY, MANY, 25, 44, 48),
        lambda m, x: [m.plain.pair.masked(Fixed(x, 38, 44)), Masked(x - m.b, 48), Masked(x - m.plain.c, 48)],
        [44, 48, 48],
    ),
    "later square and inverse mean": and_factor(
        lambda: SquaredPair.abstract(MANY, 26, 48, 48, signed=False), 40, 48, "pair", "c", 48
    ),
    "truncation of what is not negative": truncation(15, 36, 64, signed=False),
    # Queries, keys, the weights of the mean, the mean key.
    "centred scores": same_ring(lambda: CentredScores.abstract(EACH, EACH, 41), 41, "a", "b", "u", "c"),
    # GeLU's input modulo the period, whole and without its low bits; a variance, of which the period is below 1.
    "series": series(GELU, 19, 0, 64),
    "rounded series": series(GELU, 19, 9, 35),
    "row series": series(RSQRT, 38, 0, 48),
    # What a decoder has besides.
    "lift into a wider ring": truncation(0, 36, 64),
    "row whose squares are summed": pairs(lambda: SquareSumPair.abstract(pair(0, 36, 51)), pair=36),
    "square of a numerator": pairs(lambda: SquarePair.abstract(pair(0, 30, 57)), pair=30),
    "square and the inverse of its mean": pairs(
        lambda: SquareTimesPair.abstract(pair(0, 30, 57), pair(15, 48, 57)), **{"square.pair": 30, "row": 48}
    ),
    "gate and what it gates, raw product and inverse root, sums and inverse sum": pairs(
        lambda: PairProduct.abstract(pair(0, 30, 60), pair(15, 44, 60)), x=30, y=44
    ),
    "truncation": truncation(15, 36, 64),
    "truncation to a narrower ring": truncation(30, 64, 51),
}
SECRETS = (0, 12345, -(2**61) + 7)


@pytest.fixture(scope="module")
def engine():
    with Engine(config.load("2pc_semi2k")) as engine:
        engine.publish({})
        yield engine


def opener(engine: Engine, kind: str):
    """What opens one ring element many times over, each time with its own masks: an array for each opening."""
    make, masked, bits = KINDS[kind]
    material = abstract(make)
    shape = np.zeros(EACH if kind in ("scores", "centred scores") else MANY, np.int64)
    program = engine.compile(lambda _, m, x: sum(open_together(masked(m, x)), x), material, shape)

    def open_constant(secret: int) -> list[np.ndarray]:
        with noted() as parties, overheard(engine._parties) as sent:
            engine.run(program, Dealer().deal(material), shape + secret)
        assert len(parties) == 2
        for ours, theirs in zip(*(itertools.chain(*messages) for messages in parties), strict=True):
            np.testing.assert_array_equal(ours.values, theirs.values)
        [message] = parties[0]
        assert [each.bits for each in message] == bits
        assert [each.values.size for each in message] == [OPENINGS] * len(bits)
        for [own] in sent:
            check_sent(own, bits)
        return [each.values for each in message]

    return open_constant, bits


def check_sent(data: bytes, bits: list[int]) -> None:
    """Whole bytes of each value, and no bit above its ring's: a party's share says nothing more than the opening."""
    assert len(data) == sum(packed_bytes(OPENINGS, width) for width in bits)
    start = 0
    for width in bits:
        size = packed_bytes(OPENINGS, width)
        if width < 64:
            assert np.all(unpack(data[start : start + size], (OPENINGS,), width).view(np.uint64) >> width == 0)
        start += size


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_opening_is_uniform_and_alike_for_all_secrets(engine, kind):
    """Each array by itself, and each with each: the openings of one place say no more together."""
    open_constant, bits = opener(engine, kind)
    for index, width in enumerate(bits):
        for secret in SECRETS:
            assert accepted(lambda i=index, s=secret, w=width: uniform(open_constant(s)[i], w))
        for secret in SECRETS[1:]:
            assert accepted(
                lambda i=index, s=secret, w=width: alike((open_constant(SECRETS[0])[i], open_constant(s)[i]), w)
            )
    for one, other in itertools.combinations(range(len(bits)), 2):

        def together(secret: int, one: int = one, other: int = other) -> list[float]:
            found = open_constant(secret)
            return jointly((found[one], found[other]), (bits[one], bits[other]))

        assert all(accepted(lambda s=secret: together(s)) for secret in SECRETS)


def test_a_bare_value_would_be_noticed():
    bare = np.random.default_rng(0).normal(size=OPENINGS) * 2.0**28
    assert not accepted(lambda: uniform(bare.astype(np.int64), 64))


def test_one_bit_would_be_noticed():
    """A bit that is one in 52 of 100 openings, wherever it is."""
    rng = np.random.default_rng(0)
    for bit in (0, 20, 40):
        opened = rng.integers(0, 2**41, OPENINGS)
        opened |= (rng.random(OPENINGS) < 0.04).astype(np.int64) << bit
        assert not accepted(lambda x=opened: uniform(x, 41))


def test_a_mask_that_serves_twice_would_be_noticed():
    mask = np.random.default_rng(0).integers(0, 2**41, OPENINGS)
    assert accepted(lambda: uniform(12345 - mask, 41))
    assert not accepted(lambda: jointly((12345 - mask, 54321 - mask), (41, 41)))


def test_a_mask_that_is_narrower_than_its_ring_would_be_noticed(engine):
    """Fewer bits than are opened: the secret's own high bits would stand in the opening."""
    drawn = Randomness.uniform

    def narrower(self, shape, bits=64):
        array = drawn(self, shape, bits)
        ring = (array.ring & ((1 << bits) - 1)) >> 2
        return self.derived(ring, bits)

    open_constant, [width] = opener(engine, "input")
    with mock.patch.object(Randomness, "uniform", narrower):
        assert not accepted(lambda: uniform(open_constant(SECRETS[1])[0], width))


def test_jnp_is_64_bit_only_while_tracing():
    """The engine's int64 comes from a context, so that importing the package changes nothing for others."""
    assert jnp.zeros(1, jnp.float32).dtype == jnp.float32 and jnp.arange(3).dtype == jnp.int32
