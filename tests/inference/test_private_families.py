"""Every family with every head, private against its own plaintext."""

import families as cases
import numpy as np
import pytest

from secformer_jax.functions import presets
from secformer_jax.inference.private import PrivateModel
from secformer_jax.models.architecture import DenseLayer, Pooling
from secformer_jax.models.families import FAMILIES
from secformer_jax.models.heads import HEADS
from secformer_jax.models.plaintext import Plaintext

# xlm-roberta and camembert are roberta's file; heads for sequences differ in what is made of the logits alone.
KINDS = [name for name in FAMILIES if name not in ("xlm-roberta", "camembert")]
ANSWERS = ["classification", "tokens", "question", "embedding", "similarity"]


def check(config: str, model_type: str, head: str, preset: str, *, atol: float = 0.02, **changes: object) -> None:
    model, chosen = cases.small(model_type, head, **changes), presets.preset(preset)
    ranges, texts = cases.calibrate(model, chosen), cases.requests(model.config, texts=4)
    expected = Plaintext(model, chosen, calibration=ranges, head=head)(texts)
    with PrivateModel(model, chosen, config, calibration=ranges, head=head) as private:
        answer = private(texts).logits
    assert answer.shape == expected.shape and expected.std() > 0.01
    np.testing.assert_allclose(answer, expected, atol=atol)


@pytest.mark.parametrize("preset", ["puma", "drop-in"])
@pytest.mark.parametrize("head", ANSWERS)
@pytest.mark.parametrize("model_type", KINDS)
def test_semi2k(model_type, head, preset):
    check("2pc_semi2k", model_type, head, preset)


@pytest.mark.parametrize("preset", ["puma", "drop-in"])
@pytest.mark.parametrize(("model_type", "head"), list(zip(KINDS, ANSWERS, strict=False)))
def test_aby3(model_type, head, preset):
    check("3pc_aby3", model_type, head, preset)


@pytest.mark.parametrize("head", sorted(set(HEADS) - set(ANSWERS)))
def test_other_heads_for_sequences(head):
    check("2pc_semi2k", "bert", head, "drop-in")


DENSE = (DenseLayer(24, activation="tanh"), DenseLayer(8, bias=False, activation="identity"))
POOLINGS = [Pooling("cls"), Pooling("max"), Pooling("cls", normalize=True), Pooling("mean", DENSE, normalize=True)]


@pytest.mark.parametrize("preset", ["puma", "drop-in"])
@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: f"{pooling.mode}-{len(pooling.dense)}")
def test_poolings(pooling, preset):
    check("2pc_semi2k", "bert", "embedding", preset, pooling=pooling)


@pytest.mark.parametrize("preset", ["puma", "drop-in"])
def test_gelu_new(preset):
    check("2pc_semi2k", "bert", "tokens", preset, hidden_act="gelu_new")


def test_large_epsilon():
    """The openings take it into their series."""
    check("2pc_semi2k", "bert", "tokens", "drop-in", layer_norm_eps=0.05)
