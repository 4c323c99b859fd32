import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import transformers

from secformer_jax.errors import UserError
from secformer_jax.evaluation import tasks
from secformer_jax.functions import presets
from secformer_jax.models import families
from secformer_jax.models import transformer as bert
from secformer_jax.models.text import Tokenizer
from secformer_jax.mpc.int64 import enable_x64

TINY = bert.SHAPES["tiny"]


def exact(config: bert.Architecture, length: int) -> presets.ModelFunctions:
    return presets.build(
        presets.preset("exact"), num_layers=config.num_hidden_layers, epsilon=config.layer_norm_eps, length=length
    )


def inputs(config: bert.Architecture, batch: int = 2, length: int = 16):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (batch, length), np.int32)
    types = rng.integers(0, 2, (batch, length), np.int32)
    mask = (np.arange(length) < rng.integers(3, length + 1, (batch, 1))).astype(np.float32)
    return ids, types, mask


@pytest.fixture(scope="module")
def tiny():
    params = bert.init_params(TINY, "classification", jax.random.key(0))
    return bert.build_model(TINY, exact(TINY, 16), "classification"), params


@pytest.fixture(scope="module")
def sts_b(glue_dir, minilm):
    examples = tasks.read(tasks.find("STS-B"), glue_dir, "dev", limit=200)
    texts = [text for pair in zip(examples.texts, examples.pairs, strict=True) for text in pair]
    encoded = Tokenizer(minilm.tokenizer_dir, minilm.config).encode(texts)
    return (encoded.input_ids, encoded.token_type_ids, encoded.attention_mask), examples.labels


def test_equals_flax_bert_on_real_sentences(minilm, sts_b):
    lengths = sts_b[0][2].sum(axis=1)
    rows = np.argsort(lengths)[np.linspace(0, len(lengths) - 1, 32).astype(int)]
    ids, types, mask = (array[rows] for array in sts_b[0])
    assert len(set(lengths[rows])) > 5
    config, params = minilm.config, minilm.params["bert"]
    model = bert.Transformer(config, exact(config, ids.shape[1]))
    _, kept = jax.jit(model.apply)({"params": params}, ids, types, mask)

    reference = transformers.FlaxBertModel(
        transformers.BertConfig(**{**families.write_config(config), "id2label": None, "label2id": None}), _do_init=False
    )
    expected = reference(ids, mask, types, params=params, output_hidden_states=True)
    assert len(expected.hidden_states) == config.num_hidden_layers + 1
    for i, hidden in enumerate(expected.hidden_states):
        assert np.abs(kept[f"hidden_states.{i}"] - hidden).max() <= 1e-4
    assert np.abs(kept["pooled"] - expected.pooler_output).max() <= 1e-4


def test_logits_equal_flax_bert(tiny):
    model, params = tiny
    ids, types, mask = inputs(TINY)
    reference = transformers.FlaxBertForSequenceClassification(
        transformers.BertConfig(**{**families.write_config(TINY), "id2label": {0: "a", 1: "b"}, "label2id": None}),
        _do_init=False,
    )
    logits = model.apply({"params": params}, ids, types, mask)
    np.testing.assert_allclose(logits, reference(ids, mask, types, params=params).logits, atol=1e-5)


def test_cosine_on_sts_b(minilm, sts_b):
    arrays, labels = sts_b
    config = minilm.config
    functions = exact(config, arrays[0].shape[1])
    params = bert.select_params(minilm.params, config, "embedding")
    assert "pooler" not in params["bert"]
    cosine = jax.jit(bert.build_model(config, functions, "similarity").apply)({"params": params}, *arrays)
    assert cosine.shape == (200,)
    assert scipy.stats.pearsonr(cosine, labels).statistic > 0.88
    embed = jax.jit(bert.build_model(config, functions, "embedding").apply)
    a, b = np.moveaxis(np.asarray(embed({"params": params}, *arrays)).reshape(200, 2, -1), 1, 0)
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine, expected, atol=1e-5)


def test_parameter_counts():
    assert bert.parameter_count(bert.SHAPES["bert-base"]) == 109_482_240
    assert bert.parameter_count(bert.SHAPES["bert-large"]) == 335_141_888


def test_one_hot_inputs_and_lookups_agree(tiny):
    model, params = tiny
    ids, types, mask = inputs(TINY)
    logits = model.apply({"params": params}, ids, types, mask)
    one_hot = model.apply({"params": params}, jnp.eye(TINY.vocab_size)[ids], jnp.eye(2)[types], mask)
    inside = model.clone(lookup=bert.one_hot_inside).apply({"params": params}, ids, types, mask)
    np.testing.assert_allclose(one_hot, logits, atol=1e-6)
    np.testing.assert_allclose(inside, logits, atol=1e-6)


def test_padding_changes_nothing(tiny):
    model, params = tiny
    ids, types, mask = inputs(TINY)
    changed = np.where(mask == 1, ids, (ids + 1) % TINY.vocab_size)
    expected = model.apply({"params": params}, ids, types, mask)
    np.testing.assert_allclose(model.apply({"params": params}, changed, types, mask), expected, atol=1e-6)
    longer = [np.pad(array, ((0, 0), (0, 16))) for array in (ids, types, mask)]
    longer_model = model.clone(functions=exact(TINY, 32))
    np.testing.assert_allclose(longer_model.apply({"params": params}, *longer), expected, atol=1e-6)


def test_intermediates(tiny):
    model, params = tiny
    arrays = inputs(TINY)
    logits, kept = model.apply({"params": params}, *arrays, output_intermediates=True)
    np.testing.assert_array_equal(logits, model.apply({"params": params}, *arrays))
    hidden, scores, wide = (2, 16, 32), (2, 2, 16, 16), (2, 16, 64)
    expected = {"embeddings.layer_norm": hidden, "hidden_states.0": hidden, "pooled": (2, 32)}
    for i in range(2):
        expected |= {f"hidden_states.{i + 1}": hidden, f"layer.{i}.softmax": scores}
        expected |= {f"layer.{i}.gelu": wide, f"layer.{i}.attention.layer_norm": hidden}
        expected |= {f"layer.{i}.output.layer_norm": hidden}
        expected |= {f"layer.{i}.{name}": (2, 16, 2, 16) for name in ("query", "key", "value")}
    assert {name: value.shape for name, value in kept.items()} == expected


def test_dropout_draws_a_key_only_in_training(tiny):
    model, params = tiny
    arrays = inputs(TINY)

    def train(seed: int):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, *arrays, deterministic=False, rngs=rngs)

    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))
    assert "random" not in str(jax.make_jaxpr(model.apply)({"params": params}, *arrays))


def walk(jaxpr, outer=""):
    for equation in jaxpr.eqns:
        stack = f"{outer}/{equation.source_info.name_stack}"
        yield stack, equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from walk(value.jaxpr, stack)


@pytest.mark.parametrize("head", bert.HEADS)
def test_float32_and_named_parts(head):
    one = head in ("regression", "cross_encoder")
    config = dataclasses.replace(TINY, id2label=("score",)) if one else TINY
    model = bert.build_model(config, exact(config, 16), head)
    params = bert.init_params(config, head, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    with enable_x64():
        jaxpr = jax.make_jaxpr(model.apply)({"params": params}, *inputs(config))
    assert [aval.dtype for aval in jaxpr.out_avals] == [jnp.float32]
    found = list(walk(jaxpr.jaxpr))
    # Weak-typed scalars may be float64: they promote nothing.
    wide = [e for _, e in found for v in e.outvars if v.aval.dtype == jnp.float64 and v.aval.shape]
    assert not wide
    stacks = {stack for stack, _ in found}
    parts = ["embeddings/LayerNorm/layer_norm", "attention/self/softmax", "attention/output/LayerNorm/layer_norm"]
    parts += ["intermediate/gelu", "layer/1/output/LayerNorm/layer_norm", "head"]
    parts += ["pooler", "classifier"] if bert.HEADS[head].pooled else []
    for part in parts:
        assert any(part in stack for stack in stacks), part


class Masked:
    """gelu(x) + r with r from the dealer."""

    def material(self, shape):
        return {"r": jnp.zeros(shape)}

    def __call__(self, x, *, material):
        return jax.nn.gelu(x, approximate=False) + material["r"]


def test_dealer_material_is_a_collection_of_its_own(tiny):
    model, params = tiny
    arrays = inputs(TINY)
    functions = exact(TINY, 16)
    layers = tuple(dataclasses.replace(layer, gelu=Masked()) for layer in functions.layers)
    masked = model.clone(functions=dataclasses.replace(functions, layers=layers))
    shapes = jax.eval_shape(lambda: masked.init(jax.random.key(0), *arrays))["dealer"]
    leaf = shapes["bert"]["encoder"]["layer"]["1"]["intermediate"]["gelu"]["material"]["r"]
    assert leaf.shape == (2, 16, 64)
    assert len(jax.tree.leaves(shapes)) == 2

    def run(value: float):
        dealer = jax.tree.map(lambda like: jnp.full(like.shape, value), shapes)
        return masked.apply({"params": params, "dealer": dealer}, *arrays)

    np.testing.assert_allclose(run(0.0), model.apply({"params": params}, *arrays), atol=1e-5)
    assert not np.allclose(run(1.0), run(0.0))


def test_config_round_trip_and_hash():
    values = {"model_type": "bert", "hidden_size": 24, "num_attention_heads": 3, "id2label": {"1": "b", "0": "a"}}
    config = families.read_config(values)
    assert config.id2label == ("a", "b")
    assert families.read_config(families.write_config(config)) == config
    assert hash(config) == hash(families.read_config(values))
    assert families.read_config({"model_type": "bert", "num_labels": 1}).num_labels == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "albert"}, "'albert'"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"is_decoder": True}, "is_decoder is True, and only False"),
        ({"rotary_value": True}, "'rotary_value' is not known"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "not divisible"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(UserError, match=message):
        families.read_config({"model_type": "bert", **change})


def test_too_long_for_the_positions(tiny):
    model, params = tiny
    with pytest.raises(UserError, match="513 tokens, and the model has 512 positions"):
        model.apply({"params": params}, *inputs(TINY, length=513))
