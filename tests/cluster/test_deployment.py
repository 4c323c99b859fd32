"""What an owner makes known of a model: it says nothing of the weights, and another's is checked wholly."""

import dataclasses
import json

import pytest
from cluster_processes import CONFIG, Tiny
from opened_bert import calibrate

from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import approximations, checked, describe, serving
from secformer_jax.errors import UserError
from secformer_jax.functions import fitting, presets
from secformer_jax.functions.presets import preset
from secformer_jax.inference.reveal import EVERYTHING, Reveal
from secformer_jax.models.transformer import Architecture


def test_a_description_holds_no_weight_and_no_hash_of_them():
    tiny = Tiny("fast")
    model = dataclasses.replace(tiny.model)
    chosen = approximations(tiny.description)
    described = describe(model, chosen, tiny.description.calibration)
    text = json.dumps(described.to_json())
    assert model.fingerprint not in text
    exact = calibrate(model, "fast", 32)
    shown = describe(model, chosen, exact).calibration
    assert shown == exact.published() != dataclasses.replace(exact, fingerprint="")
    again = Deployment.from_json(json.loads(text))
    assert again == described and again.name == described.name and again.masked
    assert describe(model, chosen, tiny.description.calibration).name != described.name
    assert checked(again) is again
    assert len(text) < 40_000


@pytest.mark.parametrize("chosen", [preset("fast"), preset("drop-in"), preset("spu", gelu="fourier")])
def test_servers_take_the_owners_series(chosen, monkeypatch, tmp_path):
    """A fit of their own would differ in its last bits on another processor, and so would their programs."""
    model = Tiny("spu").model
    ranges = calibrate(model, "fast" if presets.family(chosen) != presets.family(preset("drop-in")) else "drop-in", 32)
    described = Deployment.from_json(json.loads(json.dumps(describe(model, chosen, ranges).to_json())))
    monkeypatch.setattr(fitting, "fit", None)
    monkeypatch.setenv("SECFORMER_CACHE", str(tmp_path))
    for function in (value for value in vars(fitting).values() if hasattr(value, "cache_clear")):
        function.cache_clear()
    assert described.series and checked(described) is described
    for length in described.lengths():
        serving(described, 18).model(length)
    changed = {name: {**values, "constant": 0.25} for name, values in described.series.items()}
    if described.openings:
        plan = serving(dataclasses.replace(described, series=changed), 18).model(16).plan
        assert {layer.gelu.constant for layer in plan.layers} == {0.25} == {plan.pooler.constant}
    for name in described.series:
        with pytest.raises(UserError, match=r"^texts padded to \d+ tokens: a description without the series"):
            checked(dataclasses.replace(described, series={k: v for k, v in changed.items() if k != name}))
        with pytest.raises(UserError, match=r"^a description with a series that is none"):
            checked(dataclasses.replace(described, series={**described.series, name: {"period": 1}}))


def test_a_model_that_would_cost_too_much_to_look_at_is_refused():
    described = Tiny("puma").description
    deep = dataclasses.replace(described.config, num_hidden_layers=1 << 24)
    with pytest.raises(UserError, match="16777216 layers"):
        checked(dataclasses.replace(described, config=deep))


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 9},
        {"head": "x"},
        {"functions": {"gelu": "nothing"}},
        {"nonce": 1},
        {"config": {}},
        {"keep_weights": "yes"},
        {"openings": 1},
        {"openings": True},
        {"openings": True, "input_bits": 24},
        {"openings": True, "input_bits": 65},
        {"input_bits": 24},
        {"embedding": "nowhere"},
        {"series": None},
        {"series": {"fit_tanh()": {}}},
    ],
)
def test_other_descriptions_are_refused(changed):
    good = Deployment(
        CONFIG, "classification", {"gelu": "puma"}, False, None, {}, "client", None, True, EVERYTHING, "0" * 32
    ).to_json()
    assert isinstance(Deployment.from_json(good).config, Architecture)
    with pytest.raises(UserError):
        checked(Deployment.from_json(good | changed))


@pytest.mark.parametrize(
    ("reveal", "head"),
    [
        (Reveal(label=True), "regression"),
        (Reveal(label=True), "question"),
        (Reveal(label=True, bits=3), "tokens"),
        (Reveal(bits=-1), "classification"),
        (Reveal(bits=True), "classification"),
        (Reveal(bits=17), "classification"),
    ],
)
def test_what_can_not_be_revealed_is_refused(reveal, head):
    with pytest.raises(UserError):
        reveal.check(head)
    with pytest.raises(UserError):
        Reveal.from_json(reveal.to_json(), head)


def test_an_encoder_has_no_conversations():
    """Nor does it cost anything to say so: a request that goes on with one is refused before it is admitted."""
    served = Tiny("fast").description
    served.check(RequestShape(1, 16))
    with pytest.raises(UserError, match="answers in one pass"):
        served.check(RequestShape(1, 16, "0" * 32, 0, 16))
