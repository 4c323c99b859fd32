"""Every variant on SPU, run as inference runs it, against the plaintext form of itself in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sweeps

from secformer_jax.functions import goldschmidt, presets, softmax
from secformer_jax.functions.fitting import fit_tanh
from secformer_jax.mpc.int64 import enable_x64

pytest.importorskip("spu")

from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives.masked import MaskedSeries
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine, Result

TOLERANCE = 2.0**-9
ULP = 2.0**-18
MASKING = partial(MaskedSeries, fraction_bits=18)
CASES = [(function, variant) for function, variants in sweeps.VARIANTS.items() for variant in variants]


@pytest.fixture(scope="module", params=["2pc_semi2k", "1pc_ref2k"])
def engine(request):
    with Engine(config.load(request.param)) as engine:
        engine.publish({})
        yield engine


@pytest.fixture(scope="module")
def emulator():
    with Engine(config.load("1pc_ref2k")) as engine:
        engine.publish({})
        yield engine


def run(engine: Engine, function, *arguments: np.ndarray) -> Result:
    """Evaluate a function on secret arguments, with the dealer material that it asks for."""
    make = getattr(function, "material", None)
    with enable_x64():
        material = jax.eval_shape(lambda: make(*(a.shape for a in arguments))) if make else {}

    def call(weights, material, *arguments):
        return function(*arguments, material=material) if make else function(*arguments)

    program = engine.compile(call, material, *arguments)
    return engine.run(program, Dealer().deal(material), *arguments)


def in_float64(function, *arguments: np.ndarray) -> np.ndarray:
    with enable_x64():
        return np.asarray(function(*(np.asarray(a, np.float64) for a in arguments)))


@pytest.mark.parametrize(("function", "variant"), CASES)
def test_error_on_spu(engine, function, variant):
    assert variant in sweeps.ERRORS[function], f"add {function} {variant} to sweeps.ERRORS"
    for arguments in sweeps.arguments(function, variant):
        found = run(engine, sweeps.build(function, variant, arguments, masking=MASKING), *arguments).value
        plain = sweeps.build(function, variant, arguments)
        # A comparison may see its argument two units off; where segments don't meet, that is the other segment.
        shifts = (-2 * ULP, 0.0, 2 * ULP) if function == "gelu" else (0.0,)
        errors = [np.abs(found - in_float64(plain, arguments[0] + shift, *arguments[1:])) for shift in shifts]
        assert np.min(errors, axis=0).max() <= TOLERANCE
        if function == "softmax":
            # One product of zero in 2^18 is a unit off, which shows over a small row sum (two_relu: 0.02 n^-1/4).
            padded = np.abs(found * (1 - arguments[1]))
            assert np.count_nonzero(padded > 2.0**-11) <= 4
            assert padded.max() <= 2.0**-5


def test_no_entry_without_a_variant():
    assert {f: set(errors) for f, errors in sweeps.ERRORS.items()} == {f: set(v) for f, v in sweeps.VARIANTS.items()}


def test_segmented_gelu_opens_once(engine):
    x = np.linspace(-4, 4, 1000, dtype=np.float32)
    result = run(engine, sweeps.build("gelu", "fourier_segmented", masking=MASKING), x)
    opening = result.profile.by_operation["opening"]
    sent = (3 * x.size, 1) if engine.config.world_size == 2 else (0, 0)
    assert (opening.send_bytes, opening.send_actions) == sent


def test_fixed_point_loses_what_is_not_scaled(emulator):
    """The textbook order, 1/q of an unscaled row sum, has an error of several units in the few that 1/q has."""
    q = np.array([6000.0, 9000.0, 12800.0], np.float32)
    found = run(emulator, lambda q: goldschmidt.reciprocal(q, deflation=10_000.0, steps=8), q).value
    assert np.abs(found * q - 1).max() > 0.005


def test_spu_default_exp_needs_a_moderate_mask_offset():
    default = config.load("1pc_ref2k")
    default.runtime["fxp_exp_mode"] = "EXP_DEFAULT"
    with Engine(default) as engine:
        engine.publish({})
        x = np.array([-318.0, -softmax.MASK_OFFSET, -600.0, -1000.0], np.float32)
        found = run(engine, jnp.exp, x).value
        assert not found[:2].any()
        assert np.abs(found[2:]).min() > 1e6
        scores, mask = sweeps.masked_scores(512, 3.0, [2, 512])
        exact = presets.SOFTMAX["exact"].build(sweeps.place("softmax"))
        error = np.abs(run(engine, exact, scores, mask).value - in_float64(exact, scores, mask)).max()
        assert TOLERANCE < error < 0.012


def test_tanh_as_a_series(engine):
    """What the pooler of fast and drop-in uses: one opening, and a tenth of the error of SPU's own."""
    x = np.linspace(-27, 27, 4_001, dtype=np.float32)
    tanh = MASKING(lambda x, evaluate: evaluate(x, fit_tanh()), fit_tanh(), lambda shape: shape)
    found = run(engine, tanh, x)
    assert np.abs(found.value - np.tanh(x)).max() < 2.0**-10
    if engine.config.world_size == 2:
        assert found.profile.total.send_actions == 2


def test_pooler_tanh(emulator):
    """SPU's own tanh, in the other presets' pooler, is the least accurate function of all: 0.005 at |x| = 1.7."""
    x = np.linspace(-50, 50, 20_001, dtype=np.float32)
    assert np.abs(run(emulator, jnp.tanh, x).value - np.tanh(x)).max() < 0.005
