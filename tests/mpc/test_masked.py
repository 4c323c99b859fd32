"""Pi_Sin: one opening for all harmonics, an opened value that says nothing, and masks that serve once."""

import jax
import numpy as np
import pytest
from jax.experimental import enable_x64
from scipy.stats import chi2_contingency, chisquare
from uniformity import OPENINGS, accepted, alike, counts, uniform

pytest.importorskip("spu")

from secformer_jax.functions import gelu
from secformer_jax.mpc.material import Dealer, Dealt, MaterialReusedError, Randomness
from secformer_jax.mpc.primitives.fixed import fixed, open_together, real
from secformer_jax.mpc.primitives.masked import MaskedSeries
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.shares import expand

FRACTION_BITS = 18
SERIES = gelu.SEGMENT_SERIES
PERIOD_BITS = 5
SINE = MaskedSeries(lambda u, evaluate: evaluate(u, SERIES), SERIES, lambda shape: shape, FRACTION_BITS)


def masks_for(series: MaskedSeries, shape: tuple[int, ...]) -> OpenedSeries:
    with enable_x64():
        return jax.eval_shape(lambda: series.material(shape))


@pytest.fixture(scope="module", params=["2pc_semi2k", "3pc_aby3", "2pc_cheetah", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


def evaluate(engine: Engine, x: np.ndarray, dealt: Dealt | None = None):
    masks = masks_for(SINE, x.shape)
    program = engine.compile(lambda weights, masks, x: SINE(x, material=masks), masks, x)
    return program, engine.run(program, dealt or Dealer().deal(masks), x)


def test_one_opening_for_seven_harmonics(engine):
    assert len(SERIES.sin) == 7
    x = np.linspace(-3, 3, 500, dtype=np.float32)
    program, result = evaluate(engine, x)
    code = "".join(stage.code.decode() for stage in program.stages)
    assert code.count("custom_call @spu.reveal") == 1
    assert not any(operation in code for operation in ("pphlo.less", "pphlo.greater", "pphlo.select", "pphlo.dot"))
    opening = result.profile.by_operation["custom_call: spu.reveal"]
    if engine.config.protocol != "REF2K":
        assert (opening.send_bytes, opening.send_actions) == (8 * x.size, 1)
    if engine.config.protocol == "SEMI2K":  # the opening and the truncation are all that is sent
        assert (result.profile.total.send_bytes, result.profile.total.send_actions) == (12 * x.size, 2)


def test_error_over_three_periods(engine):
    x = (np.rint(np.linspace(-48, 48, 3001) * 2**18) / 2**18).astype(np.float32)
    _, result = evaluate(engine, x)
    with enable_x64():
        truth = np.asarray(SERIES(x.astype(np.float64)))
    assert np.abs(result.value - truth).max() < 2.0**-12


def test_the_period_has_to_be_a_power_of_two():
    with pytest.raises(ValueError, match=r"power of two, got 20"):
        Dealer().deal(
            masks_for(MaskedSeries(gelu.gelu_exact, gelu.SECFORMER_SINE, lambda shape: shape, 18), (2,))
        ).take(0)


@pytest.fixture(scope="module")
def open_constant():
    """Opens one constant many times over on two parties, each time with its own mask: the ring elements opened."""
    masks = masks_for(SINE, (OPENINGS,))
    half = 2 ** (PERIOD_BITS + FRACTION_BITS - 1)
    with Engine(config.load("2pc_semi2k")) as engine:
        engine.publish({})

        def difference(x, masks):
            [opening] = open_together([masks.masked(fixed(x, FRACTION_BITS))])
            return real(masks.delta(opening))

        constants = np.zeros(OPENINGS, np.float32)
        program = engine.compile(lambda weights, masks, x: difference(x, masks), masks, constants)

        def open_constant(x: float) -> np.ndarray:
            values = engine.run(program, Dealer().deal(masks), constants + np.float32(x)).value
            found = np.rint(values * 2.0**FRACTION_BITS).astype(np.int64)
            assert found.min() >= -half and found.max() < half
            return found

        yield open_constant


BITS = PERIOD_BITS + FRACTION_BITS


@pytest.mark.parametrize("x", [0.0, 0.7, -1000.25])
def test_the_opened_value_is_uniform(open_constant, x):
    assert accepted(lambda: uniform(open_constant(x), BITS))


@pytest.mark.parametrize("other", [0.7, -1000.25])
def test_two_inputs_are_indistinguishable(open_constant, other):
    assert accepted(lambda: alike((open_constant(0.0), open_constant(other)), BITS))


def test_chi_square_would_notice():
    """A mask that misses one value in fifty, and one that is used again."""
    masks = Randomness().bits((OPENINGS,), 23)
    assert not accepted(lambda: [chisquare(counts(masks[masks < 0.98 * 2**23], BITS - 6)).pvalue])
    once = Randomness().bits((1,), 23)
    repeated = np.stack([counts(np.repeat(once + shift, 1000), BITS - 6) for shift in (0, 2**22)])
    assert not accepted(lambda: [chi2_contingency(repeated[:, repeated.any(0)]).pvalue])


def test_masks_serve_once(engine):
    x = np.linspace(-1, 1, 10, dtype=np.float32)
    dealt = Dealer().deal(masks_for(SINE, x.shape))
    program, _ = evaluate(engine, x, dealt)
    with pytest.raises(MaterialReusedError, match="one request only"):
        engine.run(program, dealt, x)


def test_every_leaf_is_taken_once():
    dealt = Dealer().deal([masks_for(SINE, (4,)), masks_for(SINE, (2, 3))])
    assert len(dealt) == 6
    leaves = [dealt.take(i) for i in (5, 0, 3, 1, 4, 2)]
    assert [leaf.shape for leaf in leaves] == [(7, 2, 3), (4,), (2, 3), (7, 4), (7, 2, 3), (7, 4)]
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.int64)}
    for leaf in range(6):
        with pytest.raises(MaterialReusedError):
            dealt.take(leaf)


def test_masks_are_the_harmonics_of_t():
    masks = masks_for(SINE, (1000,)).deal(Randomness(), {})
    assert masks.t.min() < -(2**60) and masks.t.max() > 2**60  # of the whole ring, so that keys are its shares
    inside = masks.t % 2 ** (PERIOD_BITS + FRACTION_BITS)
    angle = inside * 2.0**-FRACTION_BITS * 2 * np.pi / SERIES.period
    for k, b in enumerate(SERIES.sin, 1):
        np.testing.assert_allclose(masks.with_cos[k - 1] * 2.0**-18, b * np.sin(k * angle), rtol=0, atol=2.0**-18)
        np.testing.assert_allclose(masks.with_sin[k - 1] * 2.0**-18, b * np.cos(k * angle), rtol=0, atol=2.0**-18)


@pytest.mark.parametrize("parties", [1, 2, 3])
def test_what_was_drawn_is_shared_by_keys_and_the_rest_by_one_array(parties):
    dealt = Dealer().deal(masks_for(SINE, (50,)))
    shared = [dealt.components(leaf, parties)[1] for leaf in range(len(dealt))]
    rings = [[expand(c, (50,)) if isinstance(c, bytes) else c for c in components] for components in shared[:1]]
    kinds = [[isinstance(component, bytes) for component in components] for components in shared]
    assert kinds == [[True] * parties, *[[True] * (parties - 1) + [False]] * (len(dealt) - 1)]
    keys = [c for components in shared for c in components if isinstance(c, bytes)]
    assert len(set(keys)) == len(keys) and len(rings[0]) == parties

    randomness = Randomness(parties)
    drawn, narrow = randomness.bits((40,)), randomness.bits((40,), 7)
    for array in (drawn, narrow, drawn, drawn + 1):
        total = sum(expand(c, (40,)) if isinstance(c, bytes) else c for c in randomness.components(array))
        np.testing.assert_array_equal(total, array)
    with pytest.raises(ValueError, match="read-only"):
        drawn[0] = 1  # its keys would no longer be its shares


def test_two_deals_differ():
    spec = masks_for(SINE, (100,))
    dealer = Dealer()
    first, second, other = (each.deal(spec).take(0) for each in (dealer, dealer, Dealer()))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("bits", [1, 6, 23, 64])
def test_randomness_is_uniform(bits):
    width = min(bits, 6)

    def p_values() -> list[float]:
        drawn = Randomness().bits((2, OPENINGS // 2), bits)
        assert drawn.dtype == np.int64 and drawn.shape == (2, OPENINGS // 2)
        assert bits == 64 or (drawn.min() >= 0 and drawn.max() < 2**bits)
        shifted = [(drawn.ravel() >> shift) & (2**width - 1) for shift in (0, bits - width)]
        return [chisquare(np.bincount(values, minlength=2**width)).pvalue for values in shifted]

    assert accepted(p_values)


def test_randomness_differs_between_instances_and_calls():
    one, two = Randomness(), Randomness()
    draws = [source.bits((100,)) for source in (one, one, two)]
    assert not any(np.intersect1d(draws[i], draws[j]).size for i, j in ((0, 1), (0, 2), (1, 2)))
