"""Families and heads on a real cluster: servers, dealer, owner and client as processes of their own, under TLS."""

import asyncio

import families as cases
import numpy as np
import pytest
from cluster_processes import TOLERANCE, ask, until_ready

from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.requirements import describe
from secformer_jax.functions import presets
from secformer_jax.inference.reveal import Reveal
from secformer_jax.models.architecture import DenseLayer, Pooling
from secformer_jax.models.plaintext import Plaintext

pytestmark = pytest.mark.timeout(900)
POOLING = Pooling("cls", (DenseLayer(8),), normalize=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with LocalCluster(tmp_path_factory.mktemp("cluster"), "2pc_semi2k_dealer") as started:
        yield started


@pytest.fixture(autouse=True)
def a_length_that_is_served(monkeypatch):
    monkeypatch.setattr(cases, "LENGTH", 32)


@pytest.mark.parametrize(
    ("model_type", "head", "preset", "changes"),
    [
        ("bert", "tokens", "drop-in", {}),
        ("roberta", "question", "drop-in", {}),
        ("distilbert", "multi_label", "drop-in", {}),
        ("electra", "embedding", "drop-in", {"pooling": POOLING}),
        ("mpnet", "similarity", "drop-in", {}),
        ("mpnet", "tokens", "puma", {}),
    ],
)
def test_answers_are_those_of_plaintext(local, model_type, head, preset, changes):
    model, chosen = cases.small(model_type, head, **changes), presets.preset(preset)
    ranges, texts = cases.calibrate(model, chosen), cases.requests(model.config, texts=2)
    description = describe(model, chosen, ranges, head=head)
    assert Deployment.from_json(description.to_json()) == description
    asyncio.run(owner.publish(local.cluster, model, description))
    until_ready(local)
    (answer,) = ask(local, "client", texts)
    expected = Plaintext(model, chosen, calibration=ranges, head=head)(texts)
    np.testing.assert_allclose(answer.logits, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("head", "reveal"), [("classification", Reveal(bits=3)), ("tokens", Reveal(label=True))])
def test_less_than_the_logits_is_revealed(local, head, reveal):
    model, chosen = cases.small("bert", head), presets.preset("drop-in")
    ranges, texts = cases.calibrate(model, chosen), cases.requests(model.config, texts=2)
    description = describe(model, chosen, ranges, reveal=reveal)
    assert Deployment.from_json(description.to_json()).reveal == reveal
    asyncio.run(owner.publish(local.cluster, model, description))
    until_ready(local)
    (answer,) = ask(local, "client", texts)
    expected = Plaintext(model, chosen, calibration=ranges)(texts)
    if reveal.label:
        assert set(np.unique(answer.logits)) == {0.0, 1.0} and (answer.logits.sum(axis=-1) == 1).all()
        found = np.take_along_axis(expected, answer.logits.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(found, expected.max(axis=-1), atol=2 * TOLERANCE)
    else:
        np.testing.assert_array_equal(answer.logits, np.rint(answer.logits * 8) / 8)
        np.testing.assert_allclose(answer.logits, expected, atol=1 / 16 + TOLERANCE)
