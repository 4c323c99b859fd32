import dataclasses
import json
import shutil

import decoders as cases
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from secformer_jax.errors import UserError
from secformer_jax.models.decoders import decoder_family, read_config, rotary
from secformer_jax.models.decoders.architecture import Rotary
from secformer_jax.models.decoders.chat import ChatFormat, read_format
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.models.decoders.plaintext import PlaintextDecoder

TOKENS = np.random.default_rng(0).integers(1, 97, 24)
CASES = {
    "llama": ("llama", {}),
    "llama, its own head": ("llama", {"tie_word_embeddings": False}),
    "gpt2": ("gpt2", {}),
}


@pytest.mark.parametrize(("name", "changes"), CASES.values(), ids=CASES)
def test_equals_transformers_with_and_without_a_cache(name, changes, tmp_path):
    expected = cases.reference(name, tmp_path, **changes)(TOKENS[None]).logits[0]
    model = load(tmp_path)
    whole, _ = PlaintextDecoder(model, 32).extend(TOKENS)
    np.testing.assert_allclose(whole, expected, atol=1e-4)
    assert np.std(expected) > 0.1
    growing = PlaintextDecoder(model, 32)
    parts = [growing.extend(TOKENS[:7])[0], *(growing.extend(TOKENS[i : i + 1])[0] for i in range(7, 24))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    with pytest.raises(UserError, match="33 tokens, and there is room for 32"):
        growing.extend(TOKENS[:9])


def test_llama3_frequencies_are_those_of_transformers():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    pytest.importorskip("torch", reason="transformers computes them with torch")
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = type(cases.LLAMA)(**{**cases.LLAMA.to_dict(), "rope_scaling": scaling})
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    read = read_config(config.to_dict())
    np.testing.assert_allclose(rotary.frequencies(read.rotary, read.head_dim), expected.numpy(), rtol=1e-6)


def test_llama3_frequencies_by_hand():
    """Fast ones stay, slow ones are stretched, and the change is monotonous."""
    plain = rotary.frequencies(Rotary(500_000.0), 64)
    stretched = rotary.frequencies(Rotary(500_000.0, "llama3", 8.0, 1.0, 4.0, 8192), 64)
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_array_equal(stretched[turns >= 4], plain[turns >= 4])
    np.testing.assert_allclose(stretched[turns <= 1], plain[turns <= 1] / 8)
    assert (np.diff(stretched) < 0).all() and ((turns > 1) & (turns < 4)).any()


def test_bfloat16_in_safetensors(tmp_path):
    cases.reference("llama", tmp_path / "flax")
    model = load(tmp_path / "flax")
    tensors = {}
    for path, source in decoder_family("llama").sources(model.config).items():
        tensor = flatten_dict(model.params)[path]
        tensor = np.ascontiguousarray(tensor.T if source.transposed else tensor)
        tensors["model." + source.name] = tensor.astype(ml_dtypes.bfloat16)
    (tmp_path / "st").mkdir()
    (tmp_path / "st" / "config.json").write_text((tmp_path / "flax" / "config.json").read_text())
    safetensors.numpy.save_file(tensors, tmp_path / "st" / "model.safetensors")
    again = load(tmp_path / "st")
    for path, tensor in flatten_dict(again.params).items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, flatten_dict(model.params)[path], rtol=2**-8)


WRONG = {
    "another activation": ({"hidden_act": "relu"}, "activation is 'relu'"),
    "an unknown key": ({"sliding_window": 128}, "'sliding_window' is not known"),
    "heads that don't share": ({"num_key_value_heads": 4}, "6 heads can't share 4 heads"),
    "another stretching": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
    "another class": ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM generates text"),
    "an encoder": ({"model_type": "bert"}, "only gpt2, llama generate text"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "sliding layers": ({"layer_types": ["sliding_attention"] * 2}, "'layer_types' is not known"),
    "a switch that is none": ({"mlp_bias": "no"}, "feed_forward_bias is 'no'"),
    "a stop of another type": ({"eos_token_id": "</s>"}, "the vocabulary has 97 tokens"),
    "a stop that is no token": ({"eos_token_id": 97}, "the vocabulary has 97 tokens"),
    "no whole number": ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
    "more layers than weights": ({"num_hidden_layers": 3}, "missing tensors layers.2."),
    "fewer layers than weights": ({"num_hidden_layers": 1}, "no tensor layers.1."),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("llama")
    cases.reference("llama", made)
    return made


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_would_be_computed_wrongly_is_refused(changes, message, folder, tmp_path):
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    (tmp_path / "flax_model.msgpack").write_bytes((folder / "flax_model.msgpack").read_bytes())
    with pytest.raises(UserError, match=message):
        load(tmp_path)


CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(folder, template):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "</s>"}))
    return folder


def test_a_chat_template_as_pieces(tmp_path):
    found = read_format(with_template(tmp_path, CHATML))
    system, user = "<|im_start|>system\nBe kind<|im_end|>\n", "<|im_start|>user\n"
    between = "<|im_end|>\n<|im_start|>assistant\n"
    assert found == ChatFormat(system, user, between, "<|im_end|>\n")
    assert read_format(tmp_path, "Be brief").prefix == "<|im_start|>system\nBe brief<|im_end|>\n"
    with pytest.raises(UserError, match="ends with a question"):
        found.text(["a", "b"])


def test_a_template_that_trims(tmp_path):
    """As Llama 3's does."""
    trimming = CHATML.replace("message['content'] +", "message['content'] | trim +")
    whole, found = read_format(with_template(tmp_path, CHATML)), read_format(with_template(tmp_path, trimming))
    assert found == dataclasses.replace(whole, trims=True)
    assert found.text([" a ", "b\n", "c"]) == whole.text(["a", "b", "c"])


def test_what_ends_an_answer(folder, tmp_path):
    """generation_config.json's word counts; a token that is none is refused."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    assert load(tmp_path).config.eos_token_ids == (2,)
    for given, expected in (({"eos_token_id": [3, 4]}, (3, 4)), ({"temperature": 0.6}, (2,))):
        (tmp_path / "generation_config.json").write_text(json.dumps(given))
        assert load(tmp_path).config.eos_token_ids == expected
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": -1}')
    with pytest.raises(UserError, match="eos_token_id is"):
        load(tmp_path)


TEMPLATES = {
    "no fixed pieces": "{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}",
    "what is said is changed": "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | upper }}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_does_more_is_refused(template, tmp_path):
    with pytest.raises(UserError, match="does more"):
        read_format(with_template(tmp_path, template))


def test_no_template(tmp_path):
    assert read_format(tmp_path).text(["as it is"]) == "as it is"
    with pytest.raises(UserError, match="no chat template"):
        read_format(tmp_path, "Be kind")
