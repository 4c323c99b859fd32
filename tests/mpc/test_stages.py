"""Programs of stages by SPU, by each party and over the link: right on every protocol, whoever computes what."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rings import elements, exactly, signed

pytest.importorskip("spu")

from programs import abstract

from secformer_jax.mpc import material
from secformer_jax.mpc.material import Dealer, Material
from secformer_jax.mpc.primitives.fixed import Masked, TruncationPair, fixed, open_together, real
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.operations import product
from secformer_jax.mpc.runtime.party import Party
from secformer_jax.mpc.runtime.program import OFFLINE, ONLINE, LocalStage, OpeningStage, ProductStage, Stage

PROTOCOLS = ["1pc_ref2k", "2pc_semi2k", "3pc_aby3", "2pc_cheetah"]
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


@pytest.fixture(scope="module", params=PROTOCOLS)
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def compiled_and_run(engine: Engine, function, spec, *inputs):
    program = engine.compile(lambda _, material, *inputs: function(material, *inputs), spec, *inputs)
    return program, engine.run(program, Dealer().deal(spec), *inputs)


def kinds(program, phase: int = ONLINE) -> list[type]:
    return [type(stage) for stage in program.stages if stage.phase == phase]


def test_from_spu_to_the_parties_and_back(engine):
    """A product of reals by SPU, its ring elements by each party, an opening, and SPU's product once more."""
    pair = abstract(lambda: TruncationPair.abstract(X.shape, 8))

    def function(pair, x):
        squares = fixed(x * x, 18)
        shifted = squares.replace(ring=3 * squares.ring + (5 << 18))
        [opening] = open_together([pair.masked(shifted)])
        after = pair.finish(opening, shifted).real(18)
        return after * x, real(shifted.ring).astype(jnp.float32)

    program, result = compiled_and_run(engine, function, pair, X)
    assert {*kinds(program)} == {Stage, LocalStage, OpeningStage}
    assert (kinds(program)[0], kinds(program)[-1]) == (Stage, Stage)
    after = 3 * X.astype(np.float64) ** 2 + 5
    np.testing.assert_allclose(result.value[0], after * X, atol=0.01)
    np.testing.assert_allclose(result.value[1], after, atol=2.0**-14)
    local = result.profile.by_operation["local"]
    assert local.seconds > 0 == local.send_bytes
    total = sum(cost.send_bytes for cost in result.profile.by_part.values())
    assert total == result.profile.total.send_bytes
    assert total == sum(cost.send_bytes for cost in result.profile.by_operation.values())


def test_a_secret_times_a_secret_is_spus(engine):
    x, y = elements(4, 5), elements(4, 5)
    program, result = compiled_and_run(engine, lambda _, x, y: ((x + 1) * (y - x)) * 3 + 7, {}, x, y)
    assert {*kinds(program)} == {Stage, LocalStage}
    np.testing.assert_array_equal(result.value, (x + 1) * (y - x) * 3 + 7)


def test_a_comparison_is_spus(engine):
    x = np.arange(-10, 10)
    program, result = compiled_and_run(engine, lambda _, x: jnp.where(x + 1 > 0, x, -x) + 2, {}, x)
    assert Stage in kinds(program)
    np.testing.assert_array_equal(result.value, np.where(x + 1 > 0, x, -x) + 2)


def test_what_is_public_runs_at_every_party(engine):
    """Whatever it is: SPU never sees it."""
    x, y = elements(4, 5), elements(4, 5)

    def function(_, x, y):
        [e] = open_together([Masked(x, 20)])
        waves = jnp.round(1000 * jnp.cos(e.astype(jnp.float64))).astype(jnp.int64)
        return y * jnp.where(e > 0, e * e, e >> 3) + waves

    program, result = compiled_and_run(engine, function, {}, x, y)
    assert kinds(program) == [OpeningStage, LocalStage]
    e = signed(x, 20)
    expected = y * np.where(e > 0, e * e, e >> 3) + np.rint(1000 * np.cos(e.astype(np.float64))).astype(np.int64)
    np.testing.assert_array_equal(result.value, expected)


class Masks(Material):
    """A mask and its double."""

    mask: jax.Array
    double: jax.Array

    def deal(self, randomness, masks):
        mask = randomness.uniform(self.mask.shape)
        return self.replace(mask=mask, double=randomness.derived(2 * mask.ring, 64))


def test_what_needs_no_input_runs_ahead(engine):
    """3 x from the opened x - mask, and 2 mask + mask, which is there before the input."""
    x = elements(3, 5)
    spec = abstract(lambda: Masks(np.zeros(x.shape, np.int64), np.zeros(x.shape, np.int64)))

    def function(masks, x):
        with jax.named_scope("gelu"):
            [e] = open_together([Masked(x - masks.mask, 64)])
            return (masks.double + masks.mask) + ((e << 1) + e)

    program, result = compiled_and_run(engine, function, spec, x)
    np.testing.assert_array_equal(result.value, 3 * x)
    assert kinds(program, OFFLINE) == [LocalStage]
    assert kinds(program) == [LocalStage, OpeningStage, LocalStage]
    assert result.ahead.by_operation["local"].seconds > 0 == result.ahead.total.send_bytes


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_layer_is_prepared_when_its_turn_comes(protocol, monkeypatch):
    """What is ahead of the input is the same work in the end, and one layer's material is there at a time."""
    monkeypatch.setattr(material, "ELEMENTS_AT_ONCE", 1)
    x = elements(3, 5)
    spec = abstract(lambda: [Masks(np.zeros(x.shape, np.int64), np.zeros(x.shape, np.int64)) for _ in range(3)])

    def function(layers, x):
        for i, masks in enumerate(layers):
            with jax.named_scope(f"layer_{i}"):
                [e] = open_together([Masked(x - masks.mask, 64)])
                x = (masks.double + masks.mask) + 3 * e
        return x

    there, step = [], Party.step

    def watched(party, stage):
        there.append({name for name in party._held if name.startswith("material")})
        step(party, stage)

    monkeypatch.setattr(Party, "step", watched)
    with Engine(config.load(protocol), part_of=lambda stack: stack.rpartition("/")[2] or "rest") as engine:
        engine.publish({})
        program, result = compiled_and_run(engine, function, spec, x)
    np.testing.assert_array_equal(result.value, 27 * x)
    assert max(map(len, there)) == 2 and set.union(*there) == {f"material{i}" for i in range(6)}

    late = program.just_in_time()
    assert late.variables() == program.variables()
    assert sorted(stage.outputs for stage in late.stages) == sorted(stage.outputs for stage in program.stages)
    alive = {*late.input_names}
    for stage in late.stages:
        assert alive.issuperset(stage.inputs)
        alive = (alive | set(stage.outputs)) - set(stage.frees)
    assert alive == set(late.output_names)
    phases = [phase for phase, _ in itertools.groupby(stage.phase for stage in late.stages)]
    assert phases.count(OFFLINE) == 3


@pytest.mark.parametrize("bits", [24, 40, 64])
def test_products_of_matrices(engine, bits):
    """A public factor on either side, in stacks and with one matrix for all; and both factors public."""
    x, y, z = elements(2, 3, 7), elements(2, 7, 4), elements(4, 5)

    def function(_, x, y, z):
        [e, f] = open_together([Masked(x, bits), Masked(z, bits)])
        right = product(e, y, bits)
        return right, product(right, f, bits), product(y, f, bits), product(f.T, f, bits) + 0 * product(f.T, z, bits)

    program, result = compiled_and_run(engine, function, {}, x, y, z)
    assert Stage not in kinds(program) and kinds(program).count(ProductStage) == 5
    expected = exactly(x, y), exactly(exactly(x, y), z), exactly(y, z), exactly(z.T, z)
    for found, truth in zip(result.value, expected, strict=True):
        np.testing.assert_array_equal(signed(found, bits), signed(truth, bits))
    cost = result.profile.by_operation["product"]
    assert cost.seconds > 0 == cost.send_bytes


def test_a_product_of_two_secrets_is_refused(engine):
    x = elements(3, 3)
    with pytest.raises(ValueError, match="a product of two secrets is not linear"):
        engine.compile(lambda w, m, x, y: product(x, y, 64), {}, x, x)


def test_weights_of_products_stay(engine):
    """A weight is cut into digits at the first request, and serves every other so, beside weights that SPU has."""
    kernel, shift, scale = elements(5, 4), elements(4), np.float32(1.5)
    with Engine(engine.config) as own:
        own.publish({"kernel": kernel, "shift": shift, "scale": scale})

        def function(weights, _, x, y):
            [e] = open_together([Masked(x, 64)])
            return product(e, weights["kernel"], 40) + weights["shift"], y * weights["scale"]

        x = elements(6, 5)
        program = own.compile(function, {}, x, X)
        for request in (x, -x, x):
            exact, scaled = own.run(program, Dealer().deal({}), request, X).value
            np.testing.assert_array_equal(signed(exact, 40), signed(exactly(request, kernel) + shift, 40))
            np.testing.assert_allclose(scaled, 1.5 * X, atol=2.0**-15)
        assert all(isinstance(party._held["weights['kernel']"].array, list) for party in own._parties._parties)


def test_the_result_of_a_comparison_in_a_local_stage(engine):
    if engine.config.protocol == "REF2K":
        pytest.skip("the emulator has no bits")
    x = np.arange(-10, 10)
    _, result = compiled_and_run(engine, lambda _, x: (x > 3).astype(jnp.int64) + 5 * x, {}, x)
    np.testing.assert_array_equal(result.value, (x > 3) + 5 * x)


def test_a_public_result_of_a_nested_function(engine):
    """Beside a secret one, and read by a later stage."""
    x = elements(3, 5)

    def function(_, x):
        [e] = open_together([Masked(x, 20)])
        y, square = jax.jit(lambda x, e: (x + e, e * e))(x, e)
        [f] = open_together([Masked(y, 64)])
        return f + square + 0 * x

    _, result = compiled_and_run(engine, function, {}, x)
    np.testing.assert_array_equal(result.value, x + signed(x, 20) + signed(x, 20) ** 2)
