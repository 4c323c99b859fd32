"""What the opened model opens: a fixed list, each value uniform whatever the secret; and only the logits come out."""

import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import enable_x64
from opened_bert import LENGTH, TINY, calibrate, opened_checkpoint, request
from scipy.stats import chisquare
from uniformity import OPENINGS, accepted, alike, uniform

from secformer_jax.functions import presets

pytest.importorskip("spu")

from programs import abstract

from secformer_jax.functions.series import fit_gelu_tail, fit_rsqrt
from secformer_jax.inference.private import PrivateModel
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives import fixed
from secformer_jax.mpc.primitives.fixed import Fixed, TruncationPair, open_together
from secformer_jax.mpc.primitives.products import WeightProducts
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.program import ONLINE
from secformer_jax.openings.attention import MaskedSquare
from secformer_jax.openings.model import SquareAndScale
from secformer_jax.openings.softmax_exact import CentredScores, Squared

GELU, RSQRT = fit_gelu_tail(12.5), fit_rsqrt(0.003, 0.04)
MANY = (OPENINGS, 1)


def series(fitted, bits: int):
    """Material for a series, what it opens of a ring element, and the bits that are opened."""
    make = lambda: OpenedSeries.abstract(fitted, MANY, bits=bits, mask_bits=14, public_bits=14)  # noqa: E731
    return make, lambda m, x: m.masked(Fixed(x, bits)), bits + int(np.log2(fitted.period))


KINDS = {
    # A linear layer's input, and the values that LayerNorm and the products of attention square or multiply.
    "input": (lambda: WeightProducts.abstract(MANY), lambda m, x: x - m.a, 64),
    "squared": (lambda: Squared.abstract(MANY), lambda m, x: x - m.a, 64),
    "row value": (lambda: SquareAndScale.abstract(MANY), lambda m, x: x - m.b, 64),
    "row value of a square": (lambda: Squared.abstract(MANY), lambda m, x: x - m.c, 64),
    "key weight": (lambda: MaskedSquare.abstract((1, 1), MANY), lambda m, x: x - m.b, 64),
    "mean key": (lambda: CentredScores.abstract((1, OPENINGS, 1, 1), (1, OPENINGS, 1, 1)),
                 lambda m, x: (x.reshape(m.c.shape) - m.c).reshape(MANY), 64),
    # The untruncated input of GeLU, modulo the period; a row's variance, of which the period is below 1.
    "series": series(GELU, 28),
    "row series": series(RSQRT, 38),
    "truncation": (lambda: TruncationPair.abstract(MANY, 36), lambda m, x: m.masked(Fixed(x, 40)), 64),
}  # fmt: skip
SECRETS = (0, 12345, -(2**61) + 7)


@pytest.fixture(scope="module")
def engine():
    with Engine(config.load("2pc_semi2k")) as engine:
        engine.publish({})
        yield engine


@pytest.fixture(scope="module", params=KINDS)
def open_constant(engine, request):
    """Opens one ring element many times over, each time with its own mask."""
    make, masked, bits = KINDS[request.param]
    material, shape = abstract(make), np.zeros(MANY, np.int64)
    program = engine.compile(lambda _, m, x: open_together([masked(m, x)])[0], material, shape)

    def open_constant(secret: int) -> np.ndarray:
        found = engine.run(program, Dealer().deal(material), shape + secret).value.ravel()
        assert found.size == OPENINGS
        return found >> (64 - bits)  # all the rest is 0

    return open_constant, bits


def test_every_kind_of_opening_is_uniform_and_alike_for_all_secrets(open_constant):
    opener, bits = open_constant
    for secret in SECRETS:
        assert accepted(lambda secret=secret: uniform(opener(secret), bits))
    for secret in SECRETS[1:]:
        assert accepted(lambda secret=secret: alike((opener(SECRETS[0]), opener(secret)), bits))


def test_a_bare_value_would_be_noticed():
    bare = np.random.default_rng(0).normal(size=OPENINGS) * 2.0**28
    assert not accepted(lambda: uniform(bare.astype(np.int64), 64))


TEXTS = request(TINY, 0)
ROWS = TEXTS.input_ids.size


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_every_opening_of_the_program_is_uniform(preset):
    """All values that a request reveals, taken out of the real program: the top bits of each opening are uniform."""
    model = opened_checkpoint(TINY)
    with PrivateModel(model, presets.preset(preset), "1pc_ref2k", calibration=calibrate(model, preset)) as private:
        inner, inputs = private._serving.model(LENGTH), private._serving.inputs(TEXTS)
        with enable_x64():
            material = jax.eval_shape(inner.init, jax.random.key(0), *inputs)["dealer"]
        reveal, revealed = fixed.experimental.reveal, []

        def noted(x):
            revealed.append(reveal(x))
            return revealed[-1]

        def forward(weights, material, *inputs):
            with mock.patch.object(fixed.experimental, "reveal", noted):
                return inner.apply({**weights, "dealer": material}, *inputs), [x.reshape(-1) for x in revealed]

        program = private._engine.compile(forward, material, *inputs)

        def p_values() -> list[float]:
            _, found = private._engine.run(program, private._dealer.deal(material), *inputs).value
            assert len(found) == len(revealed) > 20 and min(values.size for values in found) >= 64
            return [
                chisquare(np.bincount(((values >> 61) & 7).astype(np.int64), minlength=8)).pvalue for values in found
            ]

        # Some thirty openings: each is asked for p > 0.00001, on a second draw if not on the first.
        assert any(min(p_values()) > 1e-5 for _ in range(2))


def expected_openings(preset: str, squarings: list[int]) -> list[tuple[str, int]]:
    """Part of the model and number of values of every opening, in order."""
    c, batch, length = TINY, len(TEXTS.input_ids), LENGTH
    width, inner, heads = c.hidden_size, c.intermediate_size, c.num_attention_heads
    hidden, rows, scores = ROWS * width, ROWS * heads, ROWS * heads * length
    # The values; and of each row: what its variance's series is of, the truncation of the result, the product with it.
    layer_norm = [("layer_norm", n) for n in (hidden, ROWS, ROWS, ROWS)]
    # Rows of one-hot token ids and types.
    found = [("embedding", ROWS * (c.vocab_size + c.type_vocab_size)), *layer_norm]
    for count in squarings:
        found += [("attention", hidden)]
        if preset == "fast":
            found += [("attention", 3 * hidden)]  # queries, keys and values
            found += [("softmax", scores + ROWS)]  # scores + c, and the weights of the keys
        else:
            found += [
                ("attention", 3 * hidden + ROWS),
                ("attention", batch * width),
            ]  # the mean's weights; the mean key
            found += [("softmax", scores), ("softmax", scores + ROWS)]  # into the exponential; its result, and weights
            for step in range(count):
                found += [("softmax", scores)] if step else []
                # The rows' mean, the truncation of its inverse, the product with it, the truncation of that.
                found += [("softmax", n) for n in (rows, rows, rows, scores)]
        found += [("softmax", scores + rows), ("softmax", rows)]  # the numerators and their sum; its inverse
        found += [("attention", n) for n in (hidden + rows, hidden, hidden)]  # the context, truncated, into the output
        found += layer_norm
        found += [("feed_forward", hidden), ("gelu", ROWS * inner), ("feed_forward", ROWS * inner)]
        found += [("feed_forward", hidden), *layer_norm]
    # The first token's last hidden state; tanh's argument, and the truncation of its result.
    return [*found, *[("head", batch * width)] * 3]


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_nothing_else_is_opened_and_only_the_logits_come_out(preset):
    model = opened_checkpoint(TINY)
    with PrivateModel(model, presets.preset(preset), calibration=calibrate(model, preset)) as private:
        parties = private._engine._parties
        with (
            mock.patch.object(parties, "reconstruct", wraps=parties.reconstruct) as reconstructed,
            mock.patch.object(parties, "run", wraps=parties.run) as ran,
        ):
            answer = private(TEXTS)
        plan = private._serving.model(LENGTH).plan
        sizes = openings(ran)
    assert sizes == expected_openings(preset, [layer.exact.squarings if layer.exact else 0 for layer in plan.layers])
    assert reconstructed.call_count == 1
    assert ran.call_args.args[0].outputs == reconstructed.call_args.args
    assert answer.logits.shape == (len(TEXTS.input_ids), 2)


def openings(ran: mock.Mock) -> list[tuple[str, int]]:
    """Part and number of values of each reveal in the stages that ran, from SPU's own code; all are online."""
    found = []
    for stage in (call.args[0] for call in ran.call_args_list):
        code = stage.code.decode()
        shapes = re.findall(r"custom_call @spu\.reveal\(.*?-> tensor<((?:\d+x)*)i64>", code)
        assert len(shapes) == code.count("spu.reveal") and (stage.phase == ONLINE or not shapes)
        found += [(stage.part, int(np.prod([int(n) for n in shape.split("x")[:-1]]))) for shape in shapes]
    return found


def test_jnp_is_64_bit_only_while_tracing():
    """The engine's int64 comes from a context, so that importing the package changes nothing for others."""
    assert jnp.zeros(1, jnp.float32).dtype == jnp.float32 and jnp.arange(3).dtype == jnp.int32
