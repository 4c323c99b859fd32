"""What an owner makes known of a model: it says nothing of the weights, and another's is checked wholly."""

import dataclasses
import json

import pytest
from cluster_processes import CONFIG, Tiny
from opened_bert import calibrate

from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import approximations, checked, describe
from secformer_jax.errors import UserError
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
    assert len(text) < 20_000


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
    ],
)
def test_other_descriptions_are_refused(changed):
    good = Deployment(
        CONFIG, "classification", {"gelu": "puma"}, False, None, "client", None, True, EVERYTHING, "0" * 32
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
