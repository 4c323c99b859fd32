"""What the command line prints for each head, and ranges measured at first use."""

import dataclasses
import json
import os

import families as cases
import numpy as np
import pytest

from secformer_jax.cli import app as cli
from secformer_jax.functions import presets
from secformer_jax.models import checkpoint
from secformer_jax.models.architecture import Pooling
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *SPECIAL,
    *[
        "my",
        "name",
        "is",
        "anna",
        "smith",
        "and",
        "i",
        "live",
        "in",
        "paris",
        "who",
        "are",
        "you",
        "?",
        "##s",
        ".",
        "the",
        "cat",
    ],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes a folder of a model with a head; each once."""
    root, made = tmp_path_factory.mktemp("models"), {}
    (root / "tokens").mkdir()
    (root / "tokens" / "vocab.txt").write_text("\n".join(WORDS))

    def make(head, **changes):
        key = head, tuple(changes)
        if key not in made:
            model = dataclasses.replace(cases.small("bert", head, **changes), tokenizer_dir=root / "tokens")
            made[key] = checkpoint.save(model, root / f"{head}{len(made)}")
        return made[key]

    return make


@pytest.fixture
def run(capsys):
    def call(*arguments):
        capsys.readouterr()
        assert cli.run([*map(str, arguments)]) == 0
        return capsys.readouterr().out

    return call


def results(printed):
    return json.loads(printed)["results"]


def test_ranges_are_measured_at_first_use_and_kept(folder, run):
    model = folder("classification")
    arguments = "infer", "--model", model, "--text", "my name is anna"
    assert "measured the ranges of exact/exact functions, once, on 150 texts up to 40 tokens" in run(*arguments)
    assert (model / "calibration.json").is_file()
    assert "measured" not in run(*arguments)


def test_ranges_of_a_folder_that_cannot_be_written_are_kept_in_the_cache(folder, run, tmp_path, monkeypatch):
    model = folder("regression")
    monkeypatch.setenv("SECFORMER_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    arguments = "infer", "--model", model, "--text", "my name is anna", "--preset", "secformer"
    assert f"kept in {tmp_path}" in run(*arguments)
    assert not (model / "calibration.json").exists() and "measured" not in run(*arguments)


def test_tokens_and_entities(folder, run):
    text = "My name is Anna Smith"
    labels = ("O", "B-NAME", "I-NAME")
    model = folder("tokens", id2label=labels)
    (entry,) = results(run("infer", "--model", model, "--text", text, "--compare", "--json"))
    assert [token["token"] for token in entry["tokens"]] == text.lower().split()
    assert [text[token["start"] : token["end"]] for token in entry["tokens"]] == text.split()
    assert {token["label"] for token in entry["tokens"]} <= set(labels)
    assert np.array(entry["logits"]).shape == (7, 3) and entry["max_abs_error"] < 0.02
    assert all(entity["text"] == text[entity["start"] : entity["end"]] for entity in entry["entities"])
    assert "entities" in run("infer", "--model", model, "--text", text)


def test_an_answer_to_a_question(folder, run):
    context = "Anna Smith and I live in Paris"
    arguments = "infer", "--model", folder("question"), "--text", "Who are you?", "--text-pair", context
    (entry,) = results(run(*arguments, "--json"))
    answer = entry["answer"]
    assert answer["text"] == context[answer["start"] : answer["end"]] and 0 < answer["score"] <= 1
    assert entry["head"] == "question" and "padding" in entry["reveals"]
    assert repr(answer["text"]) in run(*arguments)


def test_several_labels(folder, run):
    (entry,) = results(run("infer", "--model", folder("multi_label"), "--text", "the cat", "--json"))
    scores = [found["score"] for found in entry["labels"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert sorted(scores) == pytest.approx(sorted(1 / (1 + np.exp(-np.array(entry["logits"])))))


def test_embed(folder, run, capsys):
    path = folder("embedding", pooling=Pooling("cls", normalize=True))
    (entry,) = results(run("embed", "--model", path, "--text", "the cat", "--json"))
    model = checkpoint.load(path)
    encoded = Tokenizer(path, model.config).encode(["the cat"])
    expected = Plaintext(model, presets.preset("exact"), head="embedding")(encoded)[0]
    np.testing.assert_allclose(entry["embedding"], expected, atol=0.01)
    assert np.linalg.norm(entry["embedding"]) == pytest.approx(1, abs=0.001)
    assert cli.run(["embed", "--model", str(folder("classification")), "--text", "the cat"]) == 2
    assert "gives no vectors" in capsys.readouterr().err


def test_version(run):
    assert run("--version").startswith("secformer_jax ")
    assert "\\[" not in run("infer", "--help")
