"""Models and choices that look almost like supported ones: each is served rightly, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import families as cases
import numpy as np
import pytest
import safetensors.numpy

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.inference.answers import decode
from secformer_jax.inference.opened import OpenedServing
from secformer_jax.inference.private import PrivateModel
from secformer_jax.inference.serving import StandardServing, serving_for
from secformer_jax.models import checkpoint
from secformer_jax.models.architecture import DenseLayer, Pooling
from secformer_jax.models.checkpoint import load
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Tokenizer

Change = Callable[[Path], None]


def config(**values: object) -> Change:
    """Changes keys of config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def tensors(**added: np.ndarray) -> Change:
    """Adds tensors; underlines in their names stand for dots."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        more = {name.replace("__", "."): tensor for name, tensor in added.items()}
        safetensors.numpy.save_file({**safetensors.numpy.load_file(file), **more}, file)

    return change


def sentence_encoder(*kinds: str, pooling: dict | None = None, **settings: object) -> Change:
    """Writes modules.json with modules of these kinds."""

    def change(folder: Path) -> None:
        paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds, 1))]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(zip(paths, ("Transformer", *kinds), strict=True))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        for i, kind in enumerate(kinds, 1):
            own = folder / f"{i}_{kind}"
            own.mkdir()
            if kind == "Pooling":
                (own / "config.json").write_text(json.dumps(pooling or {"pooling_mode_cls_token": True}))
            if kind == "Dense":
                values = {"in_features": 64, "out_features": 8, "bias": True}
                values["activation_function"] = "torch.nn.modules.activation.Tanh"
                (own / "config.json").write_text(json.dumps(values))
                rng = np.random.default_rng(0)
                weights = {"linear.weight": rng.normal(size=(8, 64)), "linear.bias": rng.normal(size=8)}
                weights = {name: value.astype(np.float32) for name, value in weights.items()}
                safetensors.numpy.save_file(weights, own / "model.safetensors")
        if settings:
            (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))

    return change


ROWS = np.zeros((3, 64), np.float32)
SERVED: dict[str, tuple[str, str, list[Change], str, dict]] = {
    "question answering": ("bert", "question", [], "question", {}),
    "token classification with a pooler": (
        "bert",
        "tokens",
        [tensors(bert__pooler__dense__weight=np.zeros((64, 64), np.float32))],
        "tokens",
        {},
    ),
    "several labels": ("bert", "multi_label", [], "multi_label", {}),
    "one label": ("bert", "regression", [], "regression", {}),
    "cross-encoder with a sigmoid": (
        "bert",
        "regression",
        [config(sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "4.0"})],
        "cross_encoder",
        {"output_activation": "sigmoid"},
    ),
    "cross-encoder of older versions": (
        "roberta",
        "regression",
        [config(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")],
        "cross_encoder",
        {"output_activation": "identity"},
    ),
    "cls pooling": ("bert", "embedding", [sentence_encoder("Pooling")], "embedding", {"pooling": Pooling("cls")}),
    "cls pooling, dense and normalised": (
        "mpnet",
        "embedding",
        [sentence_encoder("Pooling", "Dense", "Normalize")],
        "embedding",
        {"pooling": Pooling("cls", (DenseLayer(8),), normalize=True)},
    ),
    "max pooling": (
        "distilbert",
        "embedding",
        [sentence_encoder("Pooling", pooling={"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False})],
        "embedding",
        {"pooling": Pooling("max")},
    ),
    "RoBERTa": ("roberta", "classification", [], "classification", {"position_offset": 2}),
    "DistilBERT": ("distilbert", "classification", [], "classification", {"pooler_act": "relu"}),
    "another epsilon": ("bert", "tokens", [config(layer_norm_eps=0.05)], "tokens", {"layer_norm_eps": 0.05}),
    "gelu_new": ("bert", "tokens", [config(hidden_act="gelu_new")], "tokens", {"hidden_act": "gelu_new"}),
}


@pytest.mark.parametrize("name", SERVED)
def test_served_rightly(name, tmp_path):
    model_type, made, changes, head, fields = SERVED[name]
    folder = checkpoint.save(cases.small(model_type, made), tmp_path / "model")
    for change in changes:
        change(folder)
    model = load(folder)
    assert model.head == head
    assert {field: getattr(model.config, field) for field in fields} == fields
    chosen, texts = presets.preset("drop-in"), cases.requests(model.config, texts=2)
    ranges = cases.calibrate(model, chosen)
    expected = Plaintext(model, presets.preset("exact"), head=head)(texts)
    with PrivateModel(model, chosen, calibration=ranges, head=head) as private:
        np.testing.assert_allclose(private(texts).logits, expected, atol=0.02)


def test_vectors_are_those_of_sentence_transformers_own_arithmetic(tmp_path):
    folder = checkpoint.save(cases.small("bert", "embedding"), tmp_path / "model")
    sentence_encoder("Pooling", "Dense", "Normalize")(folder)
    model, exact = load(folder), presets.preset("exact")
    texts = cases.requests(model.config)
    plain = Plaintext(model, exact, head="embedding")
    hidden = plain.intermediates(texts)[1]["hidden_states.1"]
    layer = safetensors.numpy.load_file(folder / "2_Dense" / "model.safetensors")
    dense = np.tanh(hidden[:, 0] @ layer["linear.weight"].T + layer["linear.bias"])
    np.testing.assert_allclose(plain(texts), dense / np.linalg.norm(dense, axis=1, keepdims=True), atol=1e-5)


def test_a_cross_encoders_score_is_the_sigmoid_of_its_logit():
    model = cases.small("bert", "cross_encoder", output_activation="sigmoid")
    entry = decode(model.config, "cross_encoder", np.array([0.5]), (), ("a", "b"))
    assert entry == {"logits": [0.5], "score": pytest.approx(1 / (1 + np.exp(-0.5)))}


def architecture(*names: str) -> Change:
    return config(architectures=list(names))


REFUSED: dict[str, tuple[str, list[Change], str]] = {
    "a language model": ("embedding", [architecture("BertForMaskedLM")], "BertForMaskedLM, and BertForQ"),
    "a decoder": ("embedding", [config(is_decoder=True)], "is_decoder is True"),
    "a causal model": ("embedding", [architecture("BertLMHeadModel")], "BertLMHeadModel"),
    "multiple choice": ("classification", [architecture("BertForMultipleChoice")], "BertForMultipleChoice"),
    "next sentence": ("classification", [architecture("BertForNextSentencePrediction")], "NextSentence"),
    "another family's class": ("classification", [architecture("RobertaForSequenceClassification")], "is Roberta"),
    "two classes": ("classification", [architecture("BertModel", "BertForMaskedLM")], "one class was expected"),
    "a head without a class": ("classification", [architecture()], "names no class"),
    "an encoder's class with a head": ("classification", [architecture("BertModel")], "no tensor classifier"),
    "several regressions": ("classification", [config(problem_type="regression")], "'regression' with 3 labels"),
    "one label of one": (
        "regression",
        [config(problem_type="single_label_classification")],
        "single_label_classification' with 1 labels",
    ),
    "relative positions": ("tokens", [config(position_embedding_type="relative_key")], "relative_key"),
    "another activation": ("tokens", [config(hidden_act="silu")], "hidden_act is 'silu'"),
    "an unknown key": ("tokens", [config(use_rope=True)], "'use_rope' is not known"),
    "quantised weights": ("tokens", [config(quantization_config={"bits": 4})], "quantization_config"),
    "pruned attention": ("tokens", [config(pruned_heads={"0": [1]})], "pruned_heads"),
    "an adapter": ("tokens", [tensors(bert__encoder__layer__0__lora_A__weight=ROWS)], "no tensor .*lora_A"),
    "a mean over the root of the length": (
        "embedding",
        [sentence_encoder("Pooling", pooling={"pooling_mode_mean_sqrt_len_tokens": True})],
        "mean_sqrt_len",
    ),
    "two poolings": (
        "embedding",
        [sentence_encoder("Pooling", pooling={"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True})],
        "exactly one of",
    ),
    "another module": ("embedding", [sentence_encoder("LSTM", "Pooling")], "LSTM, Pooling"),
    "a prompt": (
        "embedding",
        [sentence_encoder("Pooling", prompts={"query": "query: "}, default_prompt_name="query")],
        "prompt 'query'",
    ),
    "another function of a cross-encoder": (
        "regression",
        [config(sentence_transformers={"activation_fn": "torch.nn.modules.activation.Softplus"})],
        "Softplus",
    ),
    "labels that are not numbered": ("tokens", [config(id2label={"0": "a", "2": "b"})], "id2label"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    made, changes, message = REFUSED[name]
    folder = checkpoint.save(cases.small("bert", made), tmp_path / "model")
    for change in changes:
        change(folder)
    with pytest.raises(UserError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("model_type", "class_name"), [("bert", "BertForMaskedLM"), ("roberta", "RobertaForMaskedLM")])
def test_a_language_model_is_read_to_be_fine_tuned_and_not_to_be_served(model_type, class_name, tmp_path):
    """As the hub's bert-base-uncased and roberta-base are."""
    made = cases.small(model_type, "embedding")
    folder = checkpoint.save(made, tmp_path / "model")
    for change in (architecture(class_name), tensors(cls__predictions__bias=ROWS[0], lm_head__bias=ROWS[0])):
        change(folder)
    with pytest.raises(UserError, match=class_name):
        load(folder)
    encoder = load(folder, backbone=True)
    assert encoder.head == "embedding"
    texts, exact = cases.requests(made.config), presets.preset("exact")
    expected = Plaintext(made, exact, head="embedding")(texts)
    np.testing.assert_array_equal(Plaintext(encoder, exact, head="embedding")(texts), expected)


@pytest.mark.parametrize(("head", "kept"), [("classification", "classification"), ("tokens", "embedding")])
def test_what_fine_tuning_keeps_of_a_head(head, kept, tmp_path):
    assert load(checkpoint.save(cases.small("bert", head), tmp_path / "model"), backbone=True).head == kept


def test_a_module_outside_the_folder_is_refused(tmp_path):
    folder = checkpoint.save(cases.small("bert", "embedding"), tmp_path / "model")
    sentence_encoder("Pooling")(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../elsewhere"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="outside the model's folder"):
        load(folder)


@pytest.mark.parametrize("bits", [16, 20])
@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_other_fraction_bits_are_refused_by_the_openings(preset, bits, tmp_path):
    model, chosen = cases.small("bert", "classification"), presets.preset(preset)
    ranges = cases.calibrate(model, chosen)
    values = json.loads((Path(__file__).parents[2] / "spu_configs" / "2pc_semi2k.json").read_text())
    for device in values["devices"].values():
        if "runtime_config" in device.get("config", {}):
            device["config"]["runtime_config"]["fxp_fraction_bits"] = bits
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"has {bits} fraction bits, .* 18"):
        PrivateModel(model, chosen, tmp_path / "config.json", calibration=ranges)


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_a_preset_that_computes_all_together_keeps_its_parts(preset):
    for part in ({"gelu": "puma"}, {"softmax": "puma"}, {"layer_norm": "goldschmidt"}):
        with pytest.raises(UserError, match=f"{preset} computes all three"):
            presets.preset(preset, **part)
    assert presets.preset(preset, gelu="fourier") == presets.preset(preset)


def test_parts_put_together_are_computed_one_by_one():
    """The same three functions as `fast` has, chosen one by one, are not its openings."""
    model, chosen = cases.small("bert", "classification"), presets.preset("puma", gelu="fourier", softmax="two_quad")
    ranges = cases.calibrate(model, chosen)
    assert chosen.names() == presets.preset("fast").names() and chosen != presets.preset("fast")
    assert isinstance(serving_for(model, chosen, ranges, 18, "client"), StandardServing)
    assert isinstance(serving_for(model, presets.preset("fast"), ranges, 18, "client"), OpenedServing)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"], "pads with 1, and the model with 0"), ([""] * 98, "98 tokens")],
)
def test_a_tokenizer_that_does_not_fit(words, message, tmp_path):
    words = words if words[0] else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(93))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    with pytest.raises(UserError, match=message):
        Tokenizer(tmp_path, cases.small("bert", "classification").config)
