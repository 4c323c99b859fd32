from pathlib import Path

import families as cases
import numpy as np
import pytest
import transformers

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.models import families
from secformer_jax.models.checkpoint import load, save
from secformer_jax.models.layers import relative_bucket
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Encoded

EXACT = presets.preset("exact")
MPNET = Path(__file__).parents[1] / "data" / "mpnet"


@pytest.mark.parametrize(("model_type", "head"), cases.cases())
def test_equals_transformers_on_padded_texts(model_type, head, tmp_path):
    reference = cases.reference(model_type, head, tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    assert model.head == head and model.config.model_type == model_type
    encoded = cases.requests(model.config)
    expected, logits = cases.logits_of(reference, encoded), Plaintext(model, EXACT)(encoded)
    assert logits.shape == expected.shape
    # Padding's logits are dropped, and its positions differ.
    real = slice(None) if head == "classification" else encoded.attention_mask > 0
    np.testing.assert_allclose(logits[real], expected[real], atol=1e-4)
    assert expected.std() > 0.3

    save(model, tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert (again.config, again.head) == (model.config, model.head)
    np.testing.assert_array_equal(Plaintext(again, EXACT)(encoded), logits)


@pytest.mark.parametrize("head", ["sequence", "tokens", "question"])
def test_mpnet_equals_golden_values(head):
    """Of transformers 4.57.6 under torch 2.13.0: experiments/mpnet_golden.py."""
    golden, model = np.load(MPNET / "golden.npz"), load(MPNET / head)
    mask = golden["attention_mask"]
    encoded = Encoded(golden["input_ids"], np.zeros_like(mask), mask.astype(np.float32))
    logits, kept = Plaintext(model, EXACT).intermediates(encoded)
    real = mask > 0
    hidden, layers = golden[f"{head}_hidden"], model.config.num_hidden_layers
    np.testing.assert_allclose(kept[f"hidden_states.{layers}"][real], hidden[real], atol=1e-4)
    read = slice(None) if head == "sequence" else real
    np.testing.assert_allclose(logits[read], golden[f"{head}_logits"][read], atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_the_other_gelu(activation, tmp_path):
    reference = cases.reference("bert", "classification", tmp_path, hidden_act=activation)
    model = load(tmp_path)
    encoded = cases.requests(model.config)
    assert model.config.hidden_act == "gelu_new"
    np.testing.assert_allclose(Plaintext(model, EXACT)(encoded), cases.logits_of(reference, encoded), atol=1e-4)


@pytest.mark.parametrize("model_type", families.FAMILIES)
def test_defaults_are_those_of_transformers(model_type):
    """A config.json may leave out what is Hugging Face's default."""
    config = transformers.AutoConfig.for_model(model_type)
    sizes = {"vocab_size": config.vocab_size, "type_vocab_size": getattr(config, "type_vocab_size", 1)}
    family = families.FAMILIES[model_type]
    least = {"model_type": model_type, **{key: size for key, size in sizes.items() if key in family.keys}}
    read, whole = families.read_config(least), families.read_config(config.to_diff_dict() | config.to_dict())
    assert read == whole
    written = families.write_config(read)
    skipped = ("id2label", "label2id")
    assert {k: v for k, v in written.items() if k not in skipped and getattr(config, k, v) != v} == {}
    assert families.read_config(written) == read


def test_an_unknown_key_is_refused_by_name():
    values = {"model_type": "roberta", "vocab_size": 10, "alibi": True}
    with pytest.raises(UserError, match="'alibi' is not known"):
        families.read_config(values)


def test_buckets_of_relative_positions():
    """T5's formula, by logarithms; where one is whole (a distance of 64), the higher bucket, as torch has it."""
    distance = np.arange(-300, 301)
    away = np.abs(distance)
    steps = np.floor(8 * np.log(np.maximum(away, 1) / 8) / np.log(16) + 1e-9)
    far = np.where(away < 8, away, np.minimum(8 + steps, 15))
    assert (relative_bucket(distance, 32) == far + np.where(distance > 0, 16, 0)).all()
    assert relative_bucket(np.array([-63, -64, 64, 127, 128, 500]), 32).tolist() == [13, 14, 30, 31, 31, 31]
