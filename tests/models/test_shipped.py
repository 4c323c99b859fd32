"""The student that comes with the package: what is in its folder, what it answers, and how well."""

import json

import numpy as np
import pytest

from secformer_jax.cli import app as cli
from secformer_jax.cli.commands.common import Choice, choice_for
from secformer_jax.evaluation import tasks
from secformer_jax.evaluation.predict import encode_examples, predict
from secformer_jax.functions import presets
from secformer_jax.models import checkpoint, folders
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.ranges import load_calibration
from secformer_jax.models.text import Tokenizer


@pytest.fixture(scope="module")
def student():
    return checkpoint.load(folders.SHIPPED)


def test_folder(student):
    folder = folders.shipped_folder()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
    assert str(choice_for(student, Choice(), "puma")) == "fast"
    assert (student.head, student.config.id2label) == ("classification", ("negative", "positive"))
    for name in ("fast", "secformer"):
        ranges = load_calibration(student, presets.preset(name))
        assert ranges is not None and ranges.max_length == 128 == student.config.max_position_embeddings
    card = (folder / "README.md").read_text()
    assert "Apache-2.0" in card and "Socher" in card and "## Limits" in card


def test_any_text_has_tokens(student):
    tokenizer = Tokenizer(student.tokenizer_dir, student.config)
    encoded = tokenizer.encode(["Zyxwvutsrqponmlkjihgfedcba, é 1234567890!", "東京 😀"])
    unknown = (student.tokenizer_dir / "vocab.txt").read_text().split("\n").index("[UNK]")
    assert unknown not in encoded.input_ids[0] and unknown in encoded.input_ids[1]


def test_infer_without_a_model(capsys):
    pytest.importorskip("spu")
    texts = "A warm and wonderfully funny film.", "Dull, badly acted and far too long."
    arguments = [word for text in texts for word in ("--text", text)]
    assert cli.run(["infer", *arguments, "--compare", "--json"]) == 0
    good, bad = json.loads(capsys.readouterr().out)["results"]
    assert (good["label"], bad["label"]) == ("positive", "negative")
    assert {each["preset"] for each in (good, bad)} == {"fast"}
    assert max(each["same_functions_max_abs_error"] for each in (good, bad)) < 0.02


def test_accuracy_in_plaintext(student, glue_dir):
    task = tasks.find("SST-2")
    examples = tasks.read(task, glue_dir, "dev", limit=200)
    encoded = encode_examples(student, Tokenizer(student.tokenizer_dir), examples, None, False)
    plain = Plaintext(student, presets.families()["exact/two_quad"])
    logits = predict(plain, encoded, len(examples), 32, lambda done, total: None)
    assert tasks.score(task, tasks.predict(task, logits), examples.labels)["accuracy"] > 0.8
    assert np.isfinite(logits).all()
