"""One engine: shares the weights once, compiles once, serves many, and says what it cost and nothing else."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import abstract
from random_bert import random_checkpoint, random_request
from rings import signed

from secformer_jax.functions import presets
from secformer_jax.models import transformer as bert

pytest.importorskip("spu")

from secformer_jax.inference.private import Answer, PrivateModel
from secformer_jax.mpc.material import Dealer, Material
from secformer_jax.mpc.primitives.fixed import Masked, open_together
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.profile import log_file, parse
from secformer_jax.mpc.runtime.shares import SEED_BYTES, InputSpec

PROTOCOLS = ("2pc_semi2k", "3pc_aby3", "2pc_cheetah", "1pc_ref2k")
# Linear layers dominate: 2 x 12 x 128^2 weights, and 8 tokens.
WIDE = bert.Architecture(
    vocab_size=128,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=512,
    max_position_embeddings=32,
    initializer_range=0.05,
)
LENGTH = 8


@pytest.mark.parametrize("name", PROTOCOLS)
def test_results_are_reconstructed_right(name):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 3)).astype(np.float32)}
    x, n = rng.normal(size=(5, 6)).astype(np.float32) * 100, np.arange(-4, 4, dtype=np.int32)
    with Engine(config.load(name)) as engine:
        # One component is the elements themselves, every other a key; on ABY3 a party has two components.
        key = SEED_BYTES if name == "3pc_aby3" else 0
        assert engine.publish(weights) == 6 * 3 * 8 + key

        def function(w, _, x, n):
            return {"y": x @ w["w"], "same": x, "n": n * n, "positive": jnp.where(n > 0, n, 0)}

        program = engine.compile(function, {}, x, n)
        result = engine.run(program, Dealer().deal({}), x, n)
    assert set(result.value) == {"y", "same", "n", "positive"}
    np.testing.assert_allclose(result.value["same"], x, rtol=0, atol=2.0**-17)
    np.testing.assert_allclose(result.value["y"], x @ weights["w"], rtol=0, atol=2.0**-8)
    np.testing.assert_array_equal(result.value["n"], n * n)
    np.testing.assert_array_equal(result.value["positive"], np.maximum(n, 0))
    assert result.offline_bytes == 0 and result.seconds > 0
    assert result.dealt_bytes == (0,) * engine.config.world_size
    # An int32 takes as much of the ring as any other value.
    elements = (x.size + n.size) * 8
    expected = {"1pc_ref2k": (elements,), "3pc_aby3": (4 * SEED_BYTES, elements + 2 * SEED_BYTES)}
    expected["3pc_aby3"] += (elements + 2 * SEED_BYTES,)
    assert result.client_bytes == expected.get(name, (2 * SEED_BYTES, elements))
    assert result.input_bytes == max(result.client_bytes)


class Mask(Material):
    """A mask in a ring of 40 bits, and its double in one of 24."""

    mask: jax.Array
    double: jax.Array

    def deal(self, randomness, masks):
        mask = randomness.uniform(self.mask.shape, 40)
        return self.replace(mask=mask, double=randomness.derived(2 * mask.ring, 24))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rings_narrower_than_the_runtimes(name):
    """Inputs and material take whole bytes of their own rings, and what nobody reads nothing."""
    x, y = np.arange(-10, 11), np.arange(21) << 30
    spec = abstract(lambda: [Mask(np.zeros(21, np.int64), np.zeros(21, np.int64))] * 2)

    def function(_, material, x, y, unread):
        [e] = open_together([Masked(x - material[0].mask, 40)])
        return {"x": 2 * e + material[0].double, "y": y + 1}

    with Engine(config.load(name)) as engine:
        engine.publish({})
        program = engine.compile(function, spec, x, y, y)
        specs = [InputSpec("int64", (21,), bits) for bits in (40, 48, 64)]
        result = engine.run(program, Dealer().deal(spec), x, y, y, specs=specs)
    np.testing.assert_array_equal(signed(result.value["x"], 24), 2 * x)
    np.testing.assert_array_equal(signed(result.value["y"], 48), y + 1)
    # Of the mask every component is a key; of its double, x and y all but one.
    sizes = {"1pc_ref2k": [(32 + 63, 21 * 11)], "3pc_aby3": [(128, 128), (96 + 63, 64 + 21 * 11)]}
    sizes["3pc_aby3"].append(sizes["3pc_aby3"][1])
    expected = sizes.get(name, [(64, 64), (32 + 63, 21 * 11)])
    assert (result.dealt_bytes, result.client_bytes) == tuple(zip(*expected, strict=True))
    assert result.offline_bytes == max(result.dealt_bytes)


def test_an_input_of_a_narrow_ring_is_none_of_spus():
    x = np.arange(5)
    with Engine(config.load("2pc_semi2k")) as engine:
        engine.publish({})
        program = engine.compile(lambda w, m, x: x * x, {}, x)
        with pytest.raises(RuntimeError, match=r"input0 is a value modulo 2\^40: SPU's ring has 64 bits"):
            engine.run(program, Dealer().deal({}), x, specs=[InputSpec("int64", x.shape, 40)])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_public_result(name):
    x = np.arange(12).reshape(3, 4)
    with Engine(config.load(name)) as engine:
        engine.publish({})
        program = engine.compile(lambda w, m, x: open_together([Masked(x, 64)]), {}, x)
        [found] = engine.run(program, Dealer().deal({}), x).value
    np.testing.assert_array_equal(found, x)


def three_requests(keep_weights: bool) -> tuple[list[Answer], mock.Mock, mock.Mock]:
    """Three different texts of one length; what was shared and what was compiled for them."""
    model = random_checkpoint(WIDE)
    with PrivateModel(model, presets.preset("puma"), keep_weights=keep_weights) as private:
        engine, parties = private._engine, private._engine._parties
        with (
            mock.patch.object(engine, "compile", wraps=engine.compile) as compiled,
            mock.patch.object(parties, "give", wraps=parties.give) as shared,
        ):
            answers = [private(random_request(WIDE, seed, texts=1, length=LENGTH)) for seed in range(3)]
    return answers, compiled, shared


@pytest.fixture(scope="module")
def kept():
    return three_requests(keep_weights=True)


def test_compile_and_weight_sharing_happen_once(kept):
    answers, compiled, shared = kept
    assert compiled.call_count == 1
    assert answers[0].compile_seconds > 0 and [a.compile_seconds for a in answers[1:]] == [0, 0]
    assert [call.args[0] for call in shared.call_args_list] == ["input0", "input1", "input2"] * 3
    assert len({answer.logits.tobytes() for answer in answers}) == 3  # each was really computed


def test_kept_weights_save_bytes(kept):
    first, second, third = (answer.result.profile.total.send_bytes for answer in kept[0])
    anew = [answer.result.profile.total.send_bytes for answer in three_requests(keep_weights=False)[0]]
    assert anew[0] == anew[1] == anew[2]
    assert second == third
    assert second <= 0.7 * anew[1]
    assert second <= 0.7 * first  # the opening itself is paid once


def test_profile(kept):
    answer = kept[0][1]
    profile = answer.result.profile
    assert set(profile.by_part) == {
        "embedding",
        "attention",
        "softmax",
        "gelu",
        "layer_norm",
        "feed_forward",
        "head",
    }
    assert {"dot", "dot_general", "less", "rsqrt", "reciprocal", "tanh"} & set(profile.by_operation)
    for unit in ("send_bytes", "send_actions"):
        total = getattr(profile.total, unit)
        assert total > 0
        assert sum(getattr(cost, unit) for cost in profile.by_part.values()) == total
        assert sum(getattr(cost, unit) for cost in profile.by_operation.values()) == total
    assert 0 < profile.total.seconds <= answer.result.seconds
    assert answer.seq_length == LENGTH


def test_profile_of_another_party():
    x = np.ones((4, 4), np.float32)
    for rank in (0, 1):
        with Engine(config.load("2pc_semi2k"), profiled_rank=rank) as engine:
            engine.publish({})
            result = engine.run(engine.compile(lambda w, m, x: x * x, {}, x), Dealer().deal({}), x)
        assert result.profile.total.send_bytes > 0
        assert list(result.profile.by_part) == ["all"]


def test_parse_a_log():
    lines = (
        "[info] [api.cc:209] [Profiling] SPU execution gelu completed, input processing took 1e-06s, execution took "
        "0.25s, output processing took 1e-06s, total time 0.26s.",
        "[info] - pphlo.multiply, executed 7 times, duration 0.125s, send bytes 400 recv bytes 400, send actions 4, ",
        "[info] Link details: total send bytes 400, recv bytes 400, send actions 4",
        "something else",
    )
    profile = parse([*lines, *lines])
    assert (profile.total.seconds, profile.total.send_bytes, profile.total.send_actions) == (0.52, 800, 8)
    assert profile.by_part["gelu"] == profile.total
    assert profile.by_operation["multiply"].send_bytes == 800
    assert parse([]).total.seconds == 0

    tagged = [lines[0].replace("gelu", "gelu#1"), *lines[1:], lines[0].replace("gelu", "gelu#0"), *lines[1:]]
    # What stands at the beginning is the end of another runtime's report.
    profile = parse([*lines[1:], *tagged], "#1")
    assert (profile.total.seconds, profile.total.send_bytes, profile.by_part) == (0.26, 400, {"gelu": profile.total})


def test_nothing_secret_is_logged():
    secret, weight = 13.40625, 29.53125  # exact with 18 fraction bits
    with Engine(config.load("2pc_semi2k")) as engine:
        engine.publish({"w": np.full(3, weight, np.float32)})
        x = np.full(3, secret, np.float32)
        program = engine.compile(lambda w, m, x: w["w"] * x + x, {}, x)
        (found,) = {float(value) for value in engine.run(program, Dealer().deal({}), x).value}
    log = log_file().read_text()
    assert "SPU execution" in log
    values = secret, weight, found, secret * weight
    for text in (text for value in values for text in (f"{value:.4f}", f"{value:g}", str(round(value * 2**18)))):
        assert text not in log
    assert log_file().stat().st_mode & 0o077 == 0 or log_file().parent.stat().st_mode & 0o077 == 0


def test_a_closed_engine_serves_no_more():
    x = np.ones(3, np.float32)
    engine = Engine(config.load("1pc_ref2k"))
    engine.publish({})
    program = engine.compile(lambda w, m, x: x, {}, x)
    engine.close()
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        engine.run(program, Dealer().deal({}), x)
