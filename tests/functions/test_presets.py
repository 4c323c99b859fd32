"""Presets, overrides, and the functions built from them."""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.measure import update


def seen(num_layers: int = 2):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 4, 16))
    values = {"embeddings.layer_norm": hidden}
    for i in range(num_layers):
        values[f"layer.{i}.softmax"] = rng.normal(size=(2, 3, 4, 4))
        values[f"layer.{i}.attention.layer_norm"] = hidden
        values[f"layer.{i}.output.layer_norm"] = hidden
        values[f"layer.{i}.gelu"] = hidden
    return update(None, values, np.ones((2, 4)))


def test_presets_are_the_published_choices():
    names = {n: (p.gelu.name, p.softmax.name, p.layer_norm.name) for n, p in presets.PRESETS.items()}
    assert names == {
        "exact": ("exact", "exact", "exact"),
        "spu": ("exact", "exact", "exact"),
        "puma": ("puma", "puma", "exact"),
        "mpcformer": ("quad", "two_quad", "exact"),
        "secformer": ("fourier_segmented", "two_quad_goldschmidt", "goldschmidt"),
        "fast": ("fourier", "two_quad", "exact"),
        "drop-in": ("fourier", "exact", "exact"),
    }


def test_each_part_is_overridden_alone():
    chosen = presets.preset("secformer", softmax="puma")
    assert chosen.softmax is presets.SOFTMAX["puma"]
    assert chosen.gelu is presets.GELU["fourier_segmented"]
    assert presets.preset("puma", gelu="quad", layer_norm="goldschmidt").layer_norm is presets.LAYER_NORM["goldschmidt"]


@pytest.mark.parametrize("part", ["name", "gelu", "softmax", "layer_norm"])
def test_unknown_names_list_the_valid_ones(part):
    with pytest.raises(UserError, match=r"unknown .*'nonsense'.* exact"):
        presets.preset(**{"name": "puma", part: "nonsense"})


def test_needs_calibration():
    needy = {name for name, chosen in presets.PRESETS.items() if presets.needs_calibration(chosen)}
    assert needy == {"secformer", "fast", "drop-in"}
    half = presets.preset("secformer", softmax="puma")
    assert presets.needs_calibration(half)
    with pytest.raises(UserError, match=r"LayerNorm goldschmidt.*secformer calibrate --model"):
        presets.build(half, num_layers=2, epsilon=1e-12, length=4)
    assert not presets.needs_calibration(presets.preset("secformer", softmax="puma", layer_norm="exact"))


def test_families():
    names = {name: presets.family(chosen) for name, chosen in presets.PRESETS.items()}
    assert names["puma"] == names["spu"] == "exact/exact"
    assert (names["mpcformer"], names["secformer"]) == ("quad/two_quad", "exact/two_quad")
    assert presets.family(presets.preset("secformer", softmax="puma")) == "exact/exact"
    assert set(names.values()) < set(presets.families())
    for name, chosen in presets.families().items():
        assert presets.family(chosen) == name
        assert not presets.needs_calibration(chosen)
    for registry in (presets.GELU, presets.SOFTMAX):
        assert all(registry[variant.family].family == variant.family for variant in registry.values())


def test_ranges_of_another_family_are_refused():
    ranges = dataclasses.replace(seen(), family="exact/exact")
    with pytest.raises(UserError, match="exact/exact functions, and these are exact/two_quad"):
        presets.build(presets.PRESETS["secformer"], num_layers=2, epsilon=1e-12, length=4, calibration=ranges)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_build(name):
    functions = presets.build(presets.PRESETS[name], num_layers=2, epsilon=1e-12, length=4, calibration=seen())
    assert len(functions.layers) == 2
    x, gamma, beta = jnp.linspace(-1.6, 1.6, 16)[None], jnp.ones(16), jnp.zeros(16)
    exact = presets.build(presets.PRESETS["exact"], num_layers=2, epsilon=1e-12, length=4)
    expected = exact.embeddings_layer_norm(x, gamma, beta)
    for layer in functions.layers:
        np.testing.assert_allclose(layer.softmax(jnp.ones((2, 3, 4, 4)), jnp.ones((2, 1, 1, 4))).sum(-1), 1, atol=1e-3)
        assert layer.gelu(x).shape == x.shape
        for layer_norm in (layer.attention_layer_norm, layer.output_layer_norm, functions.embeddings_layer_norm):
            np.testing.assert_allclose(layer_norm(x, gamma, beta), expected, atol=2e-3)


def test_constants_differ_by_place_and_a_deeper_model_is_refused():
    secformer = presets.PRESETS["secformer"]
    layers = presets.build(secformer, num_layers=2, epsilon=1e-12, length=4, calibration=seen()).layers
    assert layers[0].softmax.keywords["deflation"] != layers[1].softmax.keywords["deflation"]
    with pytest.raises(UserError, match=r"layer\.2\.softmax"):
        presets.build(secformer, num_layers=3, epsilon=1e-12, length=4, calibration=seen())


def test_sine_series_hook():
    calls = []

    def spy(v, series):
        calls.append(v.shape)
        return series(v)

    chosen = presets.preset("exact", gelu="fourier_segmented")
    functions = presets.build(
        chosen, num_layers=1, epsilon=1e-12, length=4, masking=lambda function, *_: partial(function, evaluate=spy)
    )
    functions.layers[0].gelu(jnp.ones((2, 3)))
    assert calls == [(2, 3)]
