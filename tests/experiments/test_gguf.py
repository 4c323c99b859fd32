"""A GGUF file becomes the folder that it was made of."""

import importlib
import json
import sys
from pathlib import Path

import decoders as cases
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from secformer_jax.errors import UserError
from secformer_jax.models.decoders import decoder_family
from secformer_jax.models.decoders.chat import read_format
from secformer_jax.models.decoders.checkpoint import load

gguf = pytest.importorskip("gguf")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
gguf_folder = importlib.import_module("gguf_folder")


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOKENS = ["<s>", "</s>", "a", "b", "ab", *(f"x{i}" for i in range(92))]


def write(model, path, **changes):
    """As llama.cpp has it: rows of queries and keys in pairs of neighbours."""
    config = model.config
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rotary.theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, *([1] * (len(TOKENS) - 2))])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    if "scaling" in changes:
        writer.add_rope_scaling_type(changes["scaling"])
    if "tensor" in changes:
        writer.add_tensor(changes["tensor"], np.ones(3, np.float32))
    params = flatten_dict(model.params)
    names = {ours: theirs for theirs, ours in gguf_folder.NAMES.items()}
    outside = {ours.removeprefix("model."): theirs for theirs, ours in gguf_folder.OUTSIDE.items()}
    for place, source in decoder_family("llama").sources(config).items():
        tensor = params[place].T if source.transposed else params[place]
        if source.name in outside:
            writer.add_tensor(outside[source.name], np.ascontiguousarray(tensor))
            continue
        _, layer, module = source.name.removesuffix(".weight").split(".", 2)
        heads = {"query": config.num_attention_heads, "key": config.num_key_value_heads}.get(place[-2])
        if heads:
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"blk.{layer}.{names[module]}.weight", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    cases.reference("llama", folder)
    return load(folder)


def test_the_folder_holds_the_same_model(model, tmp_path):
    write(model, tmp_path / "model.gguf")
    found = load(gguf_folder.write_folder(tmp_path / "model.gguf", tmp_path / "folder"))
    expected = flatten_dict(model.params)
    for place, tensor in flatten_dict(found.params).items():
        np.testing.assert_array_equal(tensor, expected[place])
    assert found.config.rotary == model.config.rotary and found.config.eos_token_ids == (1,)
    settings = json.loads((tmp_path / "folder" / "tokenizer.json").read_text())
    assert [token["content"] for token in settings["added_tokens"]] == ["<s>", "</s>"]
    assert read_format(tmp_path / "folder").text(["ab"]) == "<user>ab</s><assistant>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gemma"}, "holds a gemma"),
        ({"pre": "odd"}, "splits as odd"),
        ({"scaling": gguf.RopeScalingType.YARN}, "rope.scaling"),
        ({"tensor": "rope_freqs.weight"}, "tensor rope_freqs.weight"),
    ],
)
def test_another_kind_is_refused_and_nothing_written(changes, message, model, tmp_path):
    write(model, tmp_path / "model.gguf", **changes)
    with pytest.raises(UserError, match=message):
        gguf_folder.write_folder(tmp_path / "model.gguf", tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf"}


def test_no_gguf(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"no such file" * 9)
    with pytest.raises(UserError, match="no GGUF file"):
        gguf_folder.write_folder(tmp_path / "model.gguf", tmp_path / "folder")
    with pytest.raises(UserError, match="no file"):
        gguf_folder.source(str(tmp_path / "absent.gguf"))
