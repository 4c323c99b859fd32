"""What the opened model opens: a fixed list, each value uniform whatever the secret; and only the logits come out."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from opened_bert import LENGTH, TINY, calibrate, opened_checkpoint, request
from scipy.stats import chisquare
from uniformity import OPENINGS, accepted, alike, jointly, three_bits, uniform

from secformer_jax.functions import presets

pytest.importorskip("spu")

from programs import abstract

from secformer_jax.functions.series import fit_gelu_tail, fit_rsqrt
from secformer_jax.inference.private import PrivateModel
from secformer_jax.mpc.material import Dealer, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import ProductMasks, WeightProducts
from secformer_jax.mpc.primitives.scaled import NormPair, ScaledPair
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine, Parties
from secformer_jax.mpc.runtime.party import Party
from secformer_jax.mpc.runtime.program import ONLINE, OpeningStage, Stage
from secformer_jax.mpc.runtime.shares import packed_bytes, unpack
from secformer_jax.openings.attention import MaskedSquare
from secformer_jax.openings.softmax_exact import CentredScores, Squared, SquaredPair, WeightedSquared

GELU, RSQRT = fit_gelu_tail(12.5), fit_rsqrt(0.003, 0.04)
MANY = (OPENINGS, 1)
EACH = (OPENINGS, 1, 1, 1)


class Opening(NamedTuple):
    """One array that a party learns: by which part of the model, when, its values and their bits."""

    part: str
    phase: int
    values: np.ndarray
    bits: int


@contextlib.contextmanager
def noted() -> Iterator[list[list[list[Opening]]]]:
    """What every party learns from openings while it runs, message by message; a list for each party."""
    found: dict[int, list[list[Opening]]] = {}

    def step(party: Party, stage) -> None:
        party._run(stage)
        if isinstance(stage, OpeningStage):
            values = [party._held[name].array.ravel() for name in stage.outputs]
            message = [Opening(stage.part, stage.phase, *each) for each in zip(values, stage.bits, strict=True)]
            found.setdefault(id(party), []).append(message)
        else:
            # Nobody learns anything but by an opening.
            assert not isinstance(stage, Stage) or b"spu.reveal" not in stage.code
        party.free(stage.frees)

    parties: list[list[list[Opening]]] = []
    with mock.patch.object(Party, "step", step):
        yield parties
    parties.extend(found.values())


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


def series(fitted, bits: int, more: int, width: int):
    """Material for a series of a value with `more` fraction bits than are opened, and what is opened of it."""
    make = lambda: OpenedSeries.abstract(fitted, MANY, bits=bits, mask_bits=14, public_bits=14)  # noqa: E731
    return make, lambda m, x: [m.masked(Fixed(x, bits + more, width))], [bits + int(np.log2(fitted.period))]


def weighted(width: int):
    make = lambda: WeightProducts.abstract(MANY, width)  # noqa: E731
    return make, lambda m, x: [Fixed(x, 12, width).masked(m.a, m.width)], [width]


def truncation(dropped: int, width: int, result: int):
    make = lambda: TruncationPair.abstract(MANY, dropped, width, result)  # noqa: E731
    return make, lambda m, x: [m.masked(Fixed(x, dropped, width))], [width]


KINDS = {
    # A linear layer's input, at a ring of whole bytes and at others.
    "input": weighted(40),
    "narrow input": weighted(35),
    "product": (
        lambda: ProductMasks.abstract("elementwise", MANY, MANY, 31),
        lambda m, x: [Masked(x - m.a, m.width), Masked(x - m.b, m.width)],
        [31, 31],
    ),
    "scores": (
        lambda: ProductMasks.abstract("scores", EACH, EACH, 36),
        lambda m, x: [Masked(x - m.a, m.width), Masked(x - m.b, m.width)],
        [36, 36],
    ),
    "square of a score, key weight": (
        lambda: MaskedSquare.abstract(MANY, MANY, 44),
        lambda m, x: [Masked(x - m.a, m.width), Masked(x - m.b, m.width)],
        [44, 44],
    ),
    "context and its inverse sum": (
        lambda: ScaledPair.abstract(MANY, 12, 36, 54),
        lambda m, x: [m.pair.masked(Fixed(x, 20, 36)), Masked(x - m.b, m.pair.result)],
        [36, 54],
    ),
    "LayerNorm's input and inverse deviation": (
        lambda: NormPair.abstract(MANY, 15, 35, 51, 36),
        lambda m, x: [m.scaled.pair.masked(Fixed(x, 28, 35)), Masked(x - m.scaled.b, m.scaled.pair.result)],
        [35, 51],
    ),
    "first square of the exponential, key weight, inverse mean": (
        lambda: WeightedSquared.abstract(MANY, MANY, 51),
        lambda m, x: [Masked(x - mask, m.plain.width) for mask in (m.plain.a, m.b, m.plain.c)],
        [51, 51, 51],
    ),
    "squared and inverse mean": (
        lambda: Squared.abstract(MANY, 50),
        lambda m, x: [Masked(x - m.a, m.width), Masked(x - m.c, m.width)],
        [50, 50],
    ),
    "later square and inverse mean": (
        lambda: SquaredPair.abstract(MANY, 28, 51, 50),
        lambda m, x: [m.pair.masked(Fixed(x, 44, 51)), Masked(x - m.c, m.pair.result)],
        [51, 50],
    ),
    # Queries, keys, the weights of the mean, the mean key.
    "centred scores": (
        lambda: CentredScores.abstract(EACH, EACH, 41),
        lambda m, x: [Masked(x - mask, m.width) for mask in (m.a, m.b, m.u, m.c)],
        [41] * 4,
    ),
    # GeLU's input modulo the period, whole and without its low bits; a variance, of which the period is below 1.
    "series": series(GELU, 19, 0, 64),
    "rounded series": series(GELU, 19, 9, 35),
    "row series": series(RSQRT, 38, 0, 48),
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


TEXTS = request(TINY, 0)
ROWS = TEXTS.input_ids.size
REQUESTS = 8


@pytest.fixture(scope="module", params=["fast", "drop-in"])
def emulated(request):
    """Each opening's values over some requests, every one with fresh masks; draws them anew on each call."""
    model = opened_checkpoint(TINY)
    ranges = calibrate(model, request.param)
    with PrivateModel(model, presets.preset(request.param), "1pc_ref2k", calibration=ranges) as private:

        def openings() -> list[Opening]:
            with noted() as parties:
                for _ in range(REQUESTS):
                    private(TEXTS)
            [messages] = parties
            flat = list(itertools.chain(*messages))
            count = len(flat) // REQUESTS
            return [
                each._replace(values=np.concatenate([again.values for again in flat[i::count]]))
                for i, each in enumerate(flat[:count])
            ]

        yield openings


def test_every_opening_of_the_program_is_uniform(emulated):
    """All values that requests reveal, taken out of the real program: the highest three bits and the lowest."""

    def p_values() -> list[float]:
        found = emulated()
        assert len(found) > 30 and min(each.values.size for each in found) >= 64 * REQUESTS
        return [
            chisquare(np.bincount(three_bits(each.values, shift), minlength=8)).pvalue
            for each in found
            for shift in (each.bits - 3, 0)
        ]

    # Some eighty of them: each is asked for p > 0.00001, on a second draw if not on the first.
    assert any(min(p_values()) > 1e-5 for _ in range(2))


def test_no_two_openings_of_the_program_have_to_do_with_each_other(emulated):
    """A mask that serves twice would show in the difference of what it masks."""

    def p_values() -> list[float]:
        pairs = [
            (one, other) for one, other in itertools.combinations(emulated(), 2) if one.values.size == other.values.size
        ]
        assert len(pairs) > 100
        return [p for one, other in pairs for p in jointly((one.values, other.values), (one.bits, other.bits))]

    assert any(min(p_values()) > 1e-6 for _ in range(2))


def expected_openings(preset: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """By message: the part of the model, and the number of values and bits of each array."""
    c, batch, length = TINY, len(TEXTS.input_ids), LENGTH
    width, inner, heads = c.hidden_size, c.intermediate_size, c.num_attention_heads
    hidden, rows, scores = ROWS * width, ROWS * heads, ROWS * heads * length
    one_hot, columns = ROWS * (c.vocab_size + c.type_vocab_size), ROWS

    def layer_norm(values: int, squares: int, result: int, inverse: int) -> list:
        # The values; and of each row: what its variance's series is of, the truncation of the result, the product.
        return [("layer_norm", [each]) for each in ((hidden, values), (ROWS, squares), (ROWS, result), (ROWS, inverse))]

    # Rows of one-hot token ids and types; hidden states into a product with weights.
    found = [("embedding", [(one_hot, 24)]), *layer_norm(24, 37, 48, 52), ("attention", [(hidden, 35)])]
    found += [("attention", [(hidden, 35)] * 3)]  # queries, keys and values before their truncation
    if preset == "fast":
        found += [
            ("attention", [(hidden, 31), (hidden, 31), (hidden, 36)]),
            ("softmax", [(scores, 31)]),
            ("softmax", [(scores, 44), (columns, 44)]),  # scores + c, and the weights of the keys
            ("softmax", [(scores, 36), (rows, 26)]),  # the numerators and their sum
            ("attention", [(hidden, 36), (rows, 49)]),  # the context, and the inverse sum before its truncation
            ("attention", [(rows, 51)]),
        ]
        norms, feed = ((35, 38, 49, 52), (35, 36, 49, 63)), 35
    else:
        found += [
            ("attention", [(hidden, 41), (hidden, 41), (columns, 41), (hidden, 30)]),  # with the mean's weights
            ("attention", [(batch * width, 41)]),  # the mean key
            ("softmax", [(scores, 24)]),  # into the exponential
            ("softmax", [(scores, 42)]),
            ("softmax", [(scores, 51), (columns, 51)]),
        ]
        # The rows' mean, the truncation of its inverse, the product with it, the truncation of that: of each squaring.
        for mean in (39, 41):
            found += [("softmax", [each]) for each in ((rows, mean), (rows, 46), (rows, 51), (scores, 51))]
        found += [
            ("softmax", [(scores, 30), (rows, 11)]),
            ("attention", [(hidden, 30), (rows, 47)]),
            ("attention", [(rows, 49)]),
        ]
        norms, feed = ((35, 38, 49, 53), (36, 37, 49, 63)), 36
    found += [("attention", [(hidden, 35)]), *layer_norm(*norms[0])]  # the context into the output
    found += [
        ("feed_forward", [(hidden, feed)]),
        ("gelu", [(ROWS * inner, 24)]),
        ("feed_forward", [(ROWS * inner, feed)]),
    ]
    found += layer_norm(*norms[1])
    # The first token's last hidden state, and its truncation; tanh's argument, and the truncation of its result.
    return [*found, *(("head", [(batch * width, bits)]) for bits in (46, 46, 24, 48))]


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_nothing_else_is_opened_and_only_the_logits_come_out(preset):
    model = opened_checkpoint(TINY)
    with PrivateModel(model, presets.preset(preset), calibration=calibrate(model, preset)) as private:
        parties = private._engine._parties
        with (
            mock.patch.object(parties, "reconstruct", wraps=parties.reconstruct) as reconstructed,
            mock.patch.object(parties, "run", wraps=parties.run) as ran,
            noted() as learnt,
        ):
            answer = private(TEXTS)
    assert len(learnt) == 2
    for messages in learnt:
        assert {each.phase for message in messages for each in message} == {ONLINE}
        found = [(message[0].part, [(each.values.size, each.bits) for each in message]) for message in messages]
        assert found == expected_openings(preset)
    assert reconstructed.call_count == 1
    assert ran.call_args.args[0].outputs == reconstructed.call_args.args
    assert answer.logits.shape == (len(TEXTS.input_ids), 2)


def test_jnp_is_64_bit_only_while_tracing():
    """The engine's int64 comes from a context, so that importing the package changes nothing for others."""
    assert jnp.zeros(1, jnp.float32).dtype == jnp.float32 and jnp.arange(3).dtype == jnp.int32
