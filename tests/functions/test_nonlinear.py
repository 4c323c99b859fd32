"""Every variant over its whole stated domain, against float64 truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sweeps
from scipy.special import erf
from sweeps import masked_scores, rows_of_variance

from secformer_jax.functions import fitting, gelu, goldschmidt, presets, silu, softmax
from secformer_jax.functions.layer_norm import layer_norm, variance_unit
from secformer_jax.mpc.int64 import enable_x64


@pytest.mark.parametrize("name", presets.GELU)
def test_gelu_error(name):
    stated = sweeps.ERRORS["gelu"][name]
    x = np.linspace(-stated.limit, stated.limit, 640_001)
    with enable_x64():
        error = np.abs(np.asarray(sweeps.build("gelu", name, (x,))(x)) - stated.truth(x))
    assert error.max() <= stated.bound
    assert error.max() > 0.99 * stated.bound or name in ("exact", "fourier")  # where the figure is a published one
    assert stated.at is None or abs(abs(x[error.argmax()]) - stated.at) < 1e-3


@pytest.mark.parametrize("name", presets.SOFTMAX)
def test_softmax_error(name):
    stated = sweeps.ERRORS["softmax"][name]
    for keys in (32, 128, 512):
        scores, mask = masked_scores(keys, 3.0, [2, keys // 3, keys])
        found = np.asarray(sweeps.build("softmax", name, (scores, mask))(scores, mask))
        assert np.abs(found - stated.truth(scores, mask)).max() < stated.bound


@pytest.mark.parametrize("name", presets.LAYER_NORM)
@pytest.mark.parametrize(("low", "high"), [(0.0038, 0.029), (0.14, 130.0)])
def test_layer_norm_error(name, low, high):
    stated = sweeps.ERRORS["layer_norm"][name]
    for hidden_size in (384, 768, 1024):
        x = rows_of_variance(low, high, hidden_size)
        gamma = np.linspace(0.5, 1.5, hidden_size, dtype=np.float32)
        beta = np.linspace(-1, 1, hidden_size, dtype=np.float32)
        found = np.asarray(sweeps.build("layer_norm", name, (x,))(x, gamma, beta))
        assert np.abs(found - stated.truth(x, gamma, beta)).max() < stated.bound
        assert 16 <= variance_unit(hidden_size) < 32


def test_gelu_exact_is_jax_gelu():
    x = np.linspace(-10, 10, 1001, dtype=np.float32)
    np.testing.assert_allclose(gelu.gelu_exact(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


def test_gelu_outside():
    x = jnp.array([-1000.0, 1000.0])
    np.testing.assert_array_equal(gelu.gelu_fourier_segmented(x), [0, 1000])
    np.testing.assert_allclose(gelu.gelu_puma(x), [0, 1000])
    assert gelu.gelu_quad(x)[0] > 100_000  # it is no GeLU far from 0
    assert gelu.gelu_quad(jnp.float32(4.0)) == 3.5


def test_puma_polynomials_as_published():
    x = np.linspace(-3.99, 2.99, 701)
    cubic = -0.011034134030615728 * x**3 - 0.11807612951181953 * x**2 - 0.42226581151983866 * x - 0.5054031199708174
    sextic = 0.0018067462606141187 * x**6 - 0.037688200365904236 * x**4 + 0.3603292692789629 * x**2
    sextic += 0.5 * x + 0.008526321541038084
    with enable_x64():
        np.testing.assert_allclose(gelu.gelu_puma(x), np.where(x < -1.95, cubic, sextic), atol=1e-12)


def test_puma_silu():
    x = np.linspace(-20, 20, 40_001)
    with enable_x64():
        error = np.abs(np.asarray(silu.silu_puma(x)) - x / (1 + np.exp(-x)))
        np.testing.assert_allclose(silu.silu_puma(jnp.array([-100.0, 100.0])), [0, 100])
    assert 0.0715 < error.max() < 0.0725 and abs(x[error.argmax()] - 4) < 0.002
    assert error[np.abs(x) < 3].max() < 0.02


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
@pytest.mark.parametrize("reach", [5.0, 11.0, 25.5, 60.0])
def test_a_tail_as_wide_as_its_period_allows(activation, reach):
    """No coefficient beyond the triangle wave's own, whatever the reach: each multiplies what masks are rounded by."""
    tail = fitting.widest_gelu_tail(reach, 2e-4, activation)
    x = np.linspace(0, reach, 5001)
    whole = {"gelu": gelu.gelu_exact, "gelu_new": gelu.gelu_new, "silu": silu.silu_exact}[activation]
    with enable_x64():
        error = np.abs(np.asarray(tail(jnp.asarray(x))) - (np.asarray(whole(jnp.asarray(x))) - x / 2))
    assert tail.high >= reach and error.max() <= 3e-4
    assert tail.norm() <= tail.period / 8


def test_sine_series():
    u = np.linspace(-40, 40, 4001)
    with enable_x64():
        found = np.asarray(gelu.SECFORMER_SINE(u))
    truth = sum(b * np.sin(2 * np.pi * (k + 1) * u / 20) for k, b in enumerate(gelu.SECFORMER_SINE.sin))
    np.testing.assert_allclose(found, truth, atol=1e-10)
    np.testing.assert_allclose(gelu.SECFORMER_SINE(u.astype(np.float32)), truth, atol=1e-4)
    inside = np.abs(u) <= 1.7
    assert np.abs(truth - erf(u))[inside].max() < 0.0218


def test_sine_series_is_called_once_with_a_power_of_two_period():
    calls = []

    def spy(v, series):
        calls.append(series)
        return series(v)

    gelu.gelu_fourier_segmented(jnp.ones(3), evaluate=spy)
    assert [series.period for series in calls] == [32.0]


@pytest.mark.parametrize("count", [2, 3, 7, 31, 32])
@pytest.mark.parametrize("name", presets.SOFTMAX)
def test_softmax_mask(name, count):
    scores, mask = masked_scores(32, 4.0, [count, 32])
    scores[0, :, count:] = 31.0  # padding with the highest scores of all
    weights = np.asarray(sweeps.build("softmax", name, (scores, mask))(scores, mask))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-3 if "goldschmidt" in name else 1e-5)
    padded = weights[0, :, count:]
    assert padded.max(initial=0) < 1e-12 if name == "exact" else not padded.any()
    alone = np.ascontiguousarray(scores[:1, :, :count]), mask[:1, :, :count]  # the same row without its padding
    found = np.asarray(sweeps.build("softmax", name, alone)(*alone))
    assert np.abs(found - weights[0, :, :count]).max() < 1e-3


def test_puma_exponential():
    x = np.linspace(-14, 0, 14_001)
    assert 0.0085 < np.abs(np.exp(x) - (1 + x / 32) ** 32).max() < 0.0086
    with enable_x64():
        two = np.asarray(softmax.softmax_puma(np.stack([x, 0 * x], -1), np.ones(2)))[:, 0]
    assert np.abs(two - 1 / (1 + np.exp(-x))).max() < 0.0086


def test_two_relu_without_a_positive_score_is_uniform():
    np.testing.assert_allclose(
        softmax.softmax_two_relu(-jnp.ones((1, 4)), jnp.array([1.0, 1, 0, 0])), [[0.5, 0.5, 0, 0]]
    )


def test_count_deflation_range():
    for keys in (2, 3, 32, 100, 512):
        counts = np.arange(2, keys + 1)
        mask = (np.arange(keys) < counts[:, None]).astype(np.float32)
        g = np.asarray(softmax.count_deflation(mask))[:, 0] * counts / keys
        assert g.min() > 0.63 and g.max() < 1.0001


def test_goldschmidt_papers_constants():
    def error(function, q, power, **constants):
        with enable_x64():
            return abs(float(function(jnp.float64(q), **constants)) * q**power - 1)

    division = {"deflation": 5000.0, "steps": 13}
    root = {"deflation": 2000.0, "steps": 11}
    assert error(goldschmidt.reciprocal, 3200.0, 1, **division) < 1e-12
    assert not error(goldschmidt.reciprocal, 12800.0, 1, **division) < 1  # 2Quad's row sum at 512 keys: diverges
    assert error(goldschmidt.rsqrt, 0.1, 0.5, **root) == pytest.approx(0.44, abs=0.005)
    assert error(goldschmidt.rsqrt, 0.5, 0.5, **root) == pytest.approx(0.09, abs=0.005)
    assert error(goldschmidt.rsqrt, 1.0, 0.5, **root) == pytest.approx(0.017, abs=0.001)
    assert not error(goldschmidt.rsqrt, 6100.0, 0.5, **root) < 0.1  # beyond 3 deflation


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_goldschmidt_is_the_textbook_iteration(steps):
    q, eta = np.array([0.3, 2.0, 7.9]), 4.0
    y, p = q / eta, np.full(3, 1 / eta)
    r_y, r_p = q / eta, np.full(3, eta**-0.5)
    for _ in range(steps):
        y, p = y * (2 - y), p * (2 - y)
        r_y, r_p = r_y * ((3 - r_y) / 2) ** 2, r_p * (3 - r_y) / 2
    with enable_x64():
        np.testing.assert_allclose(goldschmidt.reciprocal(q, deflation=eta, steps=steps), p, rtol=1e-12)
        np.testing.assert_allclose(goldschmidt.rsqrt(q, deflation=eta, steps=steps), r_p, rtol=1e-12)
        np.testing.assert_allclose(p * q, 1 - (1 - q / eta) ** (2**steps), rtol=1e-12)


def test_layer_norm_goldschmidt_outside_its_range():
    x = rows_of_variance(0.14, 1.0, 384)
    function = sweeps.build("layer_norm", "goldschmidt", (x,))
    ones, zeros = np.ones(384, np.float32), np.zeros(384, np.float32)
    assert np.abs(function(x * 0.05, ones, zeros) - layer_norm(x, ones, zeros)).max() > 0.1
    assert not np.abs(function(x * 5, ones, zeros) - layer_norm(x, ones, zeros)).max() < 0.1


def everything():
    x, ones = rows_of_variance(0.5, 2.0, 16), np.ones(16, np.float32)
    small = {"gelu": (x,), "softmax": masked_scores(8, 2.0, [3, 8]), "layer_norm": (x, ones, 0 * ones)}
    for function, variants in sweeps.VARIANTS.items():
        for name in variants:
            yield f"{function} {name}", sweeps.build(function, name, small[function]), small[function]


def test_gradients_jit_vmap_and_types():
    for name, function, arguments in everything():
        plain = np.asarray(function(*arguments))
        np.testing.assert_allclose(jax.jit(function)(*arguments), plain, atol=1e-5, err_msg=name)
        in_axes = (0, *(0 if a.ndim > 1 else None for a in arguments[1:]))
        np.testing.assert_allclose(jax.vmap(function, in_axes)(*arguments), plain, atol=1e-5, err_msg=name)
        gradient = jax.grad(lambda x, f=function, a=arguments: jnp.sum(jnp.square(f(x, *a[1:]))))(arguments[0])
        assert np.isfinite(gradient).all(), name
        with enable_x64():
            assert function(*arguments).dtype == jnp.float32, name
            assert function(*(a.astype(np.float64) for a in arguments)).dtype == jnp.float64, name
