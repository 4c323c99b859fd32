"""Splitting a function into stages changes what is known about its cost, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("spu")

from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine, Result
from secformer_jax.mpc.runtime.program import Program

LAYERS = 3
rng = np.random.default_rng(0)
WEIGHTS = {str(i): rng.normal(size=(8, 8)).astype(np.float32) / 3 for i in range(LAYERS)}
X = rng.normal(size=(4, 8)).astype(np.float32)


def network(weights, material, x):
    """Three equal layers, and a sum that belongs to no part."""
    for i in range(LAYERS):
        with jax.named_scope("dense"):
            x = x @ weights[str(i)]
        with jax.named_scope("activation"):
            x = jnp.where(x > 0, x, 0.0)
    return x, x.sum()


def by_scope(name_stack: str) -> str:
    return name_stack.split("/")[-1] or "rest"


@pytest.fixture(scope="module", params=["1pc_ref2k", "2pc_semi2k"])
def engine(request):
    with Engine(config.load(request.param), part_of=by_scope) as engine:
        engine.publish(WEIGHTS)
        yield engine


@pytest.fixture(scope="module")
def program(engine) -> Program:
    return engine.compile(network, {}, X)


def run(engine: Engine, program: Program) -> Result:
    return engine.run(program, Dealer().deal({}), X)


def present(engine: Engine, name: str) -> bool:
    """Whether any party still has the variable, in SPU's runtime or beside it."""

    def has(party) -> bool:
        try:
            party._runtime.get_var_meta(name)
        except RuntimeError:
            return name in party._held
        return True

    return any([has(party) for party in engine._parties._parties])


def test_split_and_unsplit_agree(engine, program):
    assert len(program.stages) == 2 * LAYERS + 1
    with Engine(engine.config) as whole:
        whole.publish(WEIGHTS)
        unsplit = whole.compile(network, {}, X)
        assert len(unsplit.stages) == 1
        expected = run(whole, unsplit).value
    for found, other, plain in zip(run(engine, program).value, expected, network(WEIGHTS, {}, X), strict=True):
        # Two parties truncate with a random last bit.
        np.testing.assert_allclose(found, other, atol=0 if engine.config.world_size == 1 else 2.0**-14)
        np.testing.assert_allclose(found, plain, atol=2.0**-12)


def test_equal_layers_compile_once(program):
    assert [stage.part for stage in program.stages] == ["dense", "activation"] * LAYERS + ["rest"]
    assert len({stage.code for stage in program.stages}) == 3


def test_layers_that_differ_compile_apart(engine):
    def other(weights, material, x):
        for factor in (2.0, 3.0):
            with jax.named_scope("dense"):
                x = x * factor
            with jax.named_scope("activation"):
                x = x + 1.0
        return x

    assert len({stage.code for stage in engine.compile(other, {}, X).stages}) == 3


def test_intermediate_variables_are_freed(engine, program):
    alive, kept = {*program.input_names}, {name for name in program.input_names if name.startswith("weights")}
    for stage in program.stages:
        assert alive.issuperset(stage.inputs)  # nothing is freed before its last use
        alive = (alive | set(stage.outputs)) - set(stage.frees)
    assert alive == kept | set(program.output_names)
    run(engine, program)
    names = {name for stage in program.stages for name in (*stage.inputs, *stage.outputs)}
    assert {name for name in names if present(engine, name)} == kept


def test_a_returned_weight_and_an_unread_input(engine):
    echo = engine.compile(lambda weights, material, x, unread: (weights["0"], x), {}, X, X)
    for _ in range(2):
        weight, x = engine.run(echo, Dealer().deal({}), X, X).value
        np.testing.assert_allclose(weight, WEIGHTS["0"], atol=2.0**-17)
        np.testing.assert_allclose(x, X, atol=2.0**-17)
    assert not present(engine, "input0") and not present(engine, "input1")


def test_what_two_programs_keep_does_not_mix(engine):
    """Of a function of the weights alone, which is computed once and kept, each program keeps its own."""

    def shifted(weights, material, x):
        return x + jnp.tanh(weights["0"])[: x.shape[0]]

    programs = {rows: engine.compile(shifted, {}, X[:rows]) for rows in (1, 3)}
    for rows in (1, 3, 1, 3):
        found = engine.run(programs[rows], Dealer().deal({}), X[:rows]).value
        np.testing.assert_allclose(found, shifted(WEIGHTS, {}, X[:rows]), atol=0.01)


def test_costs_by_part_add_up(engine, program):
    profile = run(engine, program).profile
    assert set(profile.by_part) == {"dense", "activation", "rest"}
    for unit in ("send_bytes", "send_actions", "seconds"):
        parts = sum(getattr(cost, unit) for cost in profile.by_part.values())
        assert parts == pytest.approx(getattr(profile.total, unit), rel=1e-9)
    assert profile.total.seconds > 0
    if engine.config.world_size == 2:
        assert min(profile.by_part[part].send_bytes for part in ("dense", "activation")) > 0
        assert profile.by_part["rest"].send_bytes == 0


def test_digest(engine, program):
    assert engine.compile(network, {}, X).digest() == program.digest()
    for other in (lambda w, m, x: (network(w, m, x)[0], x.max()), lambda w, m, x: network(w, m, x * 2.0)):
        assert engine.compile(other, {}, X).digest() != program.digest()
    assert engine.compile(network, {}, X[:2]).digest() != program.digest()
