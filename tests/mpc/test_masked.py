"""Pi_Sin: one opening for all harmonics, an opened value that says nothing, and masks that serve once."""

import dataclasses

import jax
import numpy as np
import pytest
from rings import signed, whole, width_bytes
from uniformity import OPENINGS, accepted, alike, uniform

from secformer_jax.mpc.int64 import enable_x64

pytest.importorskip("spu")

from programs import abstract, run

from secformer_jax.functions import gelu
from secformer_jax.functions.series import Series
from secformer_jax.mpc.material import Dealer, Dealt, MaterialReusedError, Randomness, WeightMasks
from secformer_jax.mpc.primitives.fixed import Fixed, fixed, open_together
from secformer_jax.mpc.primitives.masked import MaskedSeries
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.program import OpeningStage, Stage

FRACTION_BITS = 18
SERIES = gelu.SEGMENT_SERIES
PERIOD_BITS = 5
BITS = PERIOD_BITS + FRACTION_BITS
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
    assert [stage.bits for stage in program.stages if isinstance(stage, OpeningStage)] == [(BITS,)]
    code = "".join(stage.code.decode() for stage in program.stages if isinstance(stage, Stage))
    # All but the truncation is the parties' own: SPU does nothing with the series.
    assert not any(f"pphlo.{name}" in code for name in ("less", "greater", "select", "dot", "sine", "cosine", "custom"))
    opening, total = result.profile.by_operation["opening"], result.profile.total
    bytes_sent = width_bytes(BITS) * x.size
    assert bytes_sent == 3 * x.size
    if engine.config.protocol != "REF2K":
        assert (opening.send_bytes, opening.send_actions) == (bytes_sent, 1)
    if engine.config.protocol == "SEMI2K":  # the opening and the truncation are all that is sent
        assert (total.send_bytes, total.send_actions) == (bytes_sent + 4 * x.size, 2)


def test_error_over_three_periods(engine):
    x = (np.rint(np.linspace(-48, 48, 3001) * 2**18) / 2**18).astype(np.float32)
    _, result = evaluate(engine, x)
    with enable_x64():
        truth = np.asarray(SERIES(x.astype(np.float64)))
    assert np.abs(result.value - truth).max() < 2.0**-12


def test_the_period_has_to_be_a_power_of_two():
    odd = MaskedSeries(gelu.gelu_exact, gelu.SECFORMER_SINE, lambda shape: shape, 18)
    with pytest.raises(ValueError, match=r"power of two, got 20"):
        Dealer().deal(masks_for(odd, (2,))).take(1)


def test_a_period_that_the_ring_does_not_hold_is_refused():
    masks = masks_for(SINE, (2,))
    with pytest.raises(ValueError, match=r"a period of 32\.0 doesn't fit a ring of 4 integer bits"):
        masks.masked(Fixed(np.zeros(2, np.int64), 18, 22))


@pytest.fixture(scope="module")
def open_constant():
    """Opens one constant many times over on two parties, each time with its own mask: the ring elements opened."""
    masks = masks_for(SINE, (OPENINGS,))
    half = 2 ** (BITS - 1)
    with Engine(config.load("2pc_semi2k")) as engine:
        engine.publish({})

        def difference(x, masks):
            value = fixed(x, FRACTION_BITS)
            [opening] = open_together([masks.masked(value)])
            return opening + 0 * value.ring

        constants = np.zeros(OPENINGS, np.float32)
        program = engine.compile(lambda weights, masks, x: difference(x, masks), masks, constants)

        def open_constant(x: float) -> np.ndarray:
            found = engine.run(program, Dealer().deal(masks), constants + np.float32(x)).value
            assert found.min() >= -half and found.max() < half
            return found

        yield open_constant


@pytest.mark.parametrize("x", [0.0, 0.7, -1000.25])
def test_the_opened_value_is_uniform(open_constant, x):
    assert accepted(lambda: uniform(open_constant(x), BITS))


@pytest.mark.parametrize("other", [0.7, -1000.25])
def test_two_inputs_are_indistinguishable(open_constant, other):
    assert accepted(lambda: alike((open_constant(0.0), open_constant(other)), BITS))


def test_masks_serve_once(engine):
    x = np.linspace(-1, 1, 10, dtype=np.float32)
    dealt = Dealer().deal(masks_for(SINE, x.shape))
    program, _ = evaluate(engine, x, dealt)
    with pytest.raises(MaterialReusedError, match="one request only"):
        engine.run(program, dealt, x)


def test_every_leaf_has_its_place():
    arrays = Dealer().deal([masks_for(SINE, (4,)), masks_for(SINE, (2, 3))]).take(2)
    assert [array.shape for array in arrays] == [(4,), (7, 4), (7, 4), (2, 3), (7, 2, 3), (7, 2, 3)]
    assert [array.bits for array in arrays] == [BITS, 64, 64] * 2


WIDE = Series(
    period=8.0,
    constant=0.25,
    harmonics=(1, 2, 5, 11, 40),
    cos=(0.5, -0.25, 0.04, 0.008, -0.0006),
    sin=(-1.0, 0.2, 0.0, -0.006, 0.0005),
    low=-4.0,
    high=4.0,
    error=0.0,
)
MANY = dataclasses.replace(
    WIDE,
    harmonics=tuple(range(1, 80, 2)),
    cos=tuple(1 / h**2 for h in range(1, 80, 2)),
    sin=tuple(-0.5 / h**2 for h in range(1, 80, 2)),
)
CASES = {"sines": SERIES, "few, apart": WIDE, "many": MANY}


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("width", [40, 44, 64])
@pytest.mark.parametrize("parties", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_masks_are_the_harmonics_of_t(name, parties, width, coarse):
    """Beyond one of the blocks that they are computed in; in each part's own ring, every harmonic in one."""
    series, mask_bits, count = CASES[name], 20, (1 << 14) + 3
    spec = abstract(
        lambda: OpenedSeries.abstract(
            series, (count,), bits=18, mask_bits=mask_bits, public_bits=20, width=width, coarse=coarse
        )
    )
    masks = spec.deal(Randomness(parties), WeightMasks.fresh({}))
    assert masks.t.bits == spec.modulus_bits
    angle = whole(masks.t) * 2.0**-18 * 2 * np.pi / series.period
    seen = []
    for part in masks.parts:
        own = series.harmonics[part.first : part.first + part.with_cos.shape[0]]
        seen += own
        assert part.width == width - part.dropped == part.with_cos.bits == part.with_sin.bits
        with_cos, with_sin = (signed(whole(array), part.width) for array in (part.with_cos, part.with_sin))
        for k, h in enumerate(own):
            a, b = series.cos[part.first + k], series.sin[part.first + k]
            cosine, sine = np.cos(h * angle), np.sin(h * angle)
            for found, truth in ((with_cos[k], a * cosine + b * sine), (with_sin[k], b * cosine - a * sine)):
                assert np.abs(found - truth * 2.0**mask_bits).max() <= 0.51
    assert tuple(seen) == series.harmonics
    assert len(masks.parts) <= 1 + coarse
    if coarse and len(masks.parts) == 2:  # a whole byte of each mask is saved
        fine, rough = masks.parts
        assert (fine.dropped, rough.dropped) == (0, (width - 1) % 8 + 1)
        assert width_bytes(rough.width) == width_bytes(width) - 1
        assert series.harmonics[rough.first] ** 2 >= 2**rough.dropped > series.harmonics[rough.first - 1] ** 2


@pytest.mark.parametrize(("width", "coarse"), [(64, False), (44, False), (44, True)])
@pytest.mark.parametrize("name", CASES)
def test_any_harmonics_in_any_ring(engine, name, width, coarse):
    """From a value with more fraction bits and a narrower ring than the runtime's."""
    series, mask_bits, public_bits = CASES[name], 20, 18
    x = np.rint(np.linspace(-12, 12, 2001) * 2**26).astype(np.int64)
    masks = abstract(
        lambda: OpenedSeries.abstract(
            series, x.shape, bits=20, mask_bits=mask_bits, public_bits=public_bits, width=width, coarse=coarse
        )
    )

    def function(masks, x):
        [opening] = open_together([masks.masked(Fixed(x, 26, 40))])
        found = masks.finish(opening)
        assert (found.bits, found.width) == (mask_bits + public_bits, width)
        return found.ring

    result = run(engine, function, masks, x)
    with enable_x64():
        truth = np.asarray(series(x * 2.0**-26))
    # Slopes times the last opened bit; the roundings of masks; those of public factors, coarse ones times 1/h^2.
    slope = sum(h * np.hypot(a, b) for h, a, b in zip(series.harmonics, series.cos, series.sin, strict=True))
    size = sum(np.hypot(a, b) for a, b in zip(series.cos, series.sin, strict=True))
    rough = sum(
        2.0**part.dropped * np.hypot(series.cos[k], series.sin[k])
        for part in masks.parts
        for k in range(part.first, part.first + part.with_cos.shape[0])
    )
    bound = (
        2 * np.pi / series.period * slope * 1.5 * 2.0**-20
        + len(series.harmonics) * 2.0**-mask_bits
        + (rough + size) * 2.0**-public_bits
        + 2.0**-20
    )
    error = np.abs(signed(result.value, width) * 2.0 ** -(mask_bits + public_bits) - truth).max()
    assert error <= bound < 2.0**-9
    opening = result.profile.by_operation["opening"]
    if engine.config.protocol != "REF2K":
        assert (opening.send_bytes, opening.send_actions) == (width_bytes(masks.modulus_bits) * x.size, 1)
        assert result.profile.total.send_bytes == opening.send_bytes
