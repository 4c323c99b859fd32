"""`secformer finetune`, `distill` and what reads their models, on a tiny BERT and a task of sixteen words."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from secformer_jax.cli import app as cli
from secformer_jax.cli.commands import finetune as finetune_command
from secformer_jax.cli.commands.common import Choice, choice_for
from secformer_jax.cli.report import Reporter
from secformer_jax.errors import UserError
from secformer_jax.evaluation import tasks
from secformer_jax.evaluation.predict import predict
from secformer_jax.models import checkpoint
from secformer_jax.models import transformer as bert
from secformer_jax.models.text import Tokenizer
from secformer_jax.training.recipe import Recipe
from secformer_jax.training.student import choose_pieces, keep_layers, keep_positions, keep_vocabulary, uniform_layers

NOUNS, PAD = ("cat", "dog", "film", "mat"), ("the", "a", "is", "was")
LABELS = {"good": 1, "fine": 1, "bad": 0, "poor": 0}
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PAD, *NOUNS, *LABELS, "f", "##ine", "##f", "##i")
RECIPE = Recipe(epochs=2, learning_rate=3e-3, batch_size=8, evaluations=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with base/ and pretrained/, an encoder of two layers, and SST-2/, where the last word says it all."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "vocab.txt").write_text("\n".join(PIECES))
    config = dataclasses.replace(bert.SHAPES["tiny"], max_position_embeddings=32, initializer_range=0.2)
    params = jax.tree.map(np.asarray, bert.init_params(config, "embedding", jax.random.key(0)))
    checkpoint.save(
        checkpoint.Checkpoint(config, params, "embedding", folder / "tokens", folder / "tokens"), folder / "base"
    )
    # The same as a language model, as pretrained models are: what is fine-tuned is its encoder.
    shutil.copytree(folder / "base", folder / "pretrained")
    file = folder / "pretrained" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": ["BertForMaskedLM"]}))
    rows = [f"the {noun} is {word}\t{label}" for noun in NOUNS for word, label in LABELS.items()]
    (folder / "SST-2").mkdir()
    (folder / "SST-2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows * 4]) + "\n")
    (folder / "SST-2" / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def run(*arguments):
    return cli.run([*map(str, arguments)])


def data_of(work):
    return "--task", "SST-2", "--data-dir", work, "--max-length", 16, "--batch-size", 8


@pytest.fixture(scope="module")
def teacher(work):
    options = "--epochs", 8, "--learning-rate", "3e-3", "--no-dropout"
    assert run("finetune", "--model", work / "pretrained", "--out", work / "teacher", *data_of(work), *options) == 0
    return work / "teacher"


@pytest.fixture(scope="module")
def student(work, teacher):
    options = "--layers", 1, "--positions", 16, "--vocabulary", 19, "--range-penalty", 0.01
    epochs = "--states-epochs", 8, "--states-learning-rate", "3e-3", "--logits-epochs", 8
    arguments = "--teacher", teacher, "--out", work / "student", "--logits-learning-rate", "3e-3"
    assert run("distill", *arguments, *data_of(work), *options, *epochs) == 0
    return work / "student"


def test_finetune_learns(teacher):
    report = json.loads((teacher / "training.json").read_text())
    assert report["score"] == max(each["score"] for each in report["history"]) > 0.9
    assert len(report["history"]) == 8 and report["recipe"]["epochs"] == 8
    model = checkpoint.load(teacher)
    assert (model.head, model.config.id2label) == ("classification", ("negative", "positive"))
    assert not (teacher / "preset.json").exists() and not teacher.with_name("teacher.training").exists()


def test_pieces_that_no_text_has_stay_as_they_were(work, teacher):
    def table(folder):
        return np.asarray(checkpoint.load(folder).params["bert"]["embeddings"]["word_embeddings"]["embedding"])

    texts = Tokenizer(work / "tokens").encode([f"the {noun} is {word}" for noun in NOUNS for word in LABELS], None, 16)
    changed = np.flatnonzero((table(work / "base") != table(teacher)).any(axis=1))
    assert changed.tolist() == np.unique(texts.input_ids).tolist()
    assert json.loads((teacher / "training.json").read_text())["used_pieces"] == len(changed) < len(PIECES)


def test_a_killed_command_ends_with_the_same_model(work, tmp_path):
    class Killer(Reporter):
        @contextlib.contextmanager
        def progress(self, description):
            def kill(done, total):
                if done == 11:
                    raise KeyboardInterrupt

            yield kill

    def finetune(out, reporter):
        return finetune_command.run(
            reporter,
            model=str(work / "base"),
            name="SST-2",
            data_dir=work,
            out=out,
            choice=Choice("mpcformer"),
            recipe=RECIPE,
            max_length=16,
            limit=None,
            save_seconds=0,
        )

    finetune(tmp_path / "whole", Reporter(True))
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "killed", Killer(True))
    assert not (tmp_path / "killed").exists()
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        finetune_command.run(
            Reporter(True),
            model=str(work / "base"),
            name="SST-2",
            data_dir=work,
            out=tmp_path / "killed",
            choice=Choice("mpcformer"),
            recipe=dataclasses.replace(RECIPE, seed=1),
            max_length=16,
            limit=None,
        )
    [entry] = finetune(tmp_path / "killed", Reporter(True))
    assert entry["history"] == json.loads((tmp_path / "whole" / "training.json").read_text())["history"]
    for name in ("model.safetensors", "calibration.json", "preset.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((tmp_path / "whole" / "preset.json").read_text())["preset"] == "mpcformer"


def test_distill_learns(student):
    report = json.loads((student / "training.json").read_text())
    assert report["score"] > 0.9 and report["teacher_score"] > 0.9 and report["layers"] == [1]
    states = [each["loss"] for each in report["states_history"]]
    assert len(states) == 8 and states[-1] < 0.5 * states[0]
    model = checkpoint.load(student)
    shape = model.config.num_hidden_layers, model.config.max_position_embeddings, model.config.vocab_size
    assert shape == (1, 16, 19) and str(choice_for(model, Choice(), "puma")) == "secformer"
    # Every word that is used, and every single character.
    assert set(PIECES) - set((student / "vocab.txt").read_text().split()) == {"was", "##ine"}


def test_a_student_like_another_starts_near_its_teacher(work, teacher, student, tmp_path, capsys):
    common = "distill", "--teacher", teacher, *data_of(work), "--logits-epochs", 1
    rates = [("--states-learning-rate", rate) for rate in ("3e-3", "1e-6")]
    assert run(*common, *rates[0], "--out", tmp_path / "first", "--states-epochs", 8) == 0
    like = "--out", tmp_path / "second", *rates[1], "--states-epochs", 1, "--like", tmp_path / "first"
    assert run(*common, *like, teacher) == 0
    first, second = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("first", "second"))
    assert first["like"] is None and second["like"] == checkpoint.load(tmp_path / "first").fingerprint
    started, ended = (first["states_history"][i]["loss"] for i in (0, -1))
    assert second["states_history"][0]["loss"] < 1.2 * ended < 0.5 * started
    for options, message in (
        ((*like, work / "base"), "was not distilled from"),
        ((*like, teacher, "--preset", "mpcformer"), "other functions"),
        ((*like[:-1], student, teacher), "different shapes"),
        ((*like[:-1], teacher, teacher), "was not distilled from"),
        ((*like[:-1], work / "base", teacher), "has no training.json"),
    ):
        capsys.readouterr()
        assert run(*common, "--out", tmp_path / "x", *options[2:]) == 2
        assert message in capsys.readouterr().err


def test_a_student_is_served_as_it_was_trained(work, student, capsys):
    pytest.importorskip("spu")
    capsys.readouterr()
    assert run("infer", "--model", student, "--text", "the film is good", "--json") == 0
    [entry] = json.loads(capsys.readouterr().out)["results"]
    assert (entry["preset"], entry["label"], entry["seq_length"]) == ("secformer", "positive", 16)
    runtimes = "--runtime", "plaintext,emulated,simulated", "--sample", 2, "--layer-errors", 3
    arguments = "--model", student, "--task", "SST-2", "--data-dir", work, *runtimes, "--batch-size", 4, "--limit", 8
    assert run("evaluate", *arguments, "--json") == 0
    plain, emulated, simulated = json.loads(capsys.readouterr().out)["results"]
    assert [each["runtime"] for each in (plain, emulated, simulated)] == ["plaintext", "emulated", "simulated"]
    assert (plain["count"], emulated["count"], simulated["count"]) == (8, 8, 2) and plain["metric"] > 0.8
    assert emulated["agreement"]["plaintext"]["same_predictions"] == 8
    assert 0 < emulated["agreement"]["plaintext"]["max_logit_difference"] < 0.02
    assert set(simulated["agreement"]) == {"plaintext", "emulated"}
    assert simulated["agreement"]["emulated"]["count"] == 2
    rows = simulated["layer_errors"]
    assert [row["place"] for row in rows] == ["embeddings", "layer 0"]
    assert all(0 < row["fixed_point_max_error"] < 0.02 for row in rows)
    assert rows[0]["approximation_max_error"] < 1e-4 < rows[1]["approximation_max_error"] < 0.2


def test_each_text_has_the_least_length_that_fits(work):
    tokenizer = Tokenizer(work / "tokens")
    encoded = tokenizer.encode(["the cat is fine", "the cat " * 10, "the cat " * 40], None, 64, truncate=True)
    seen = []

    def forward(batch):
        seen.append(batch.input_ids.shape)
        return batch.attention_mask.sum(axis=1, keepdims=True)

    logits = predict(forward, encoded, 3, 2, lambda done, total: None)
    assert logits[:, 0].tolist() == [6, 22, 64] and seen == [(2, 16), (2, 32), (2, 64)]


def test_opened_states_are_the_hidden_states(student):
    pytest.importorskip("spu")
    from secformer_jax.functions.presets import preset
    from secformer_jax.inference.layer_errors import errors_by_layer
    from secformer_jax.models.ranges import load_calibration
    from secformer_jax.models.request import encode

    model, fast = checkpoint.load(student), preset("fast")
    tokenizer = Tokenizer(model.tokenizer_dir)
    encoded = encode(model, tokenizer, ["the film is good", "a cat"], None, 16, False)
    rows = errors_by_layer(model, fast, load_calibration(model, fast), encoded)
    assert [row["place"] for row in rows] == ["embeddings", "layer 0"]
    assert all(row["rms"] > 0.3 and 0 < row["fixed_point_max_error"] < 0.02 for row in rows)


def test_mistakes(work, teacher, tmp_path, capsys):
    def mistake(*arguments):
        capsys.readouterr()
        assert run(*arguments) == 2
        return capsys.readouterr().err

    data = data_of(work)
    finetune = "finetune", "--model", work / "base", "--out"
    assert "exists and is not empty" in mistake(*finetune, teacher, *data)
    assert "0 or more" in mistake(*finetune, tmp_path / "x", *data, "--seed", -1)
    assert "3 to 32" in mistake(*finetune, tmp_path / "x", *data[:-4], "--max-length", 64)
    distill = "distill", "--out", tmp_path / "x", *data, "--teacher"
    assert "no classification head: run `secformer finetune`" in mistake(*distill, work / "base")
    assert "some of 0 to 1" in mistake(*distill, teacher, "--layers", "1,2")
    assert "1 to 2" in mistake(*distill, teacher, "--layers", "3")
    assert "single characters alone are more" in mistake(*distill, teacher, "--vocabulary", 6)
    (work / "SST-2" / "broken").mkdir(exist_ok=True)
    (work / "SST-2" / "broken" / "train.tsv").write_text("sentence\tlabel\ngood\t1\nno label\n")
    assert "train.tsv, line 3: expected 2 tab-separated columns" in mistake(
        *finetune, tmp_path / "x", "--task", "SST-2", "--data-dir", work / "SST-2" / "broken", "--max-length", 16
    )
    assert not (tmp_path / "x").exists()


def test_a_smaller_model_is_a_part_of_the_larger(work, tmp_path):
    base = checkpoint.load(work / "base")
    texts = ["the film is fine", "the film"]
    small = keep_vocabulary(keep_positions(keep_layers(base, (1,)), 8), texts, 12, tmp_path)
    large_tokens, tokens = (Tokenizer(model.tokenizer_dir) for model in (base, small))
    ids, theirs = (each.encode(["the film", "f"]).input_ids for each in (tokens, large_tokens))
    table, whole = (model.params["bert"]["embeddings"]["word_embeddings"]["embedding"] for model in (small, base))
    np.testing.assert_array_equal(table[ids], whole[theirs])
    # A word that was dropped is split into what there is.
    assert tokens.encode(["if"]).attention_mask.sum() == 3 and len(table) == 12
    kept, stack = (model.params["bert"]["encoder"]["layer"] for model in (small, base))
    jax.tree.map(np.testing.assert_array_equal, kept["0"], stack["1"])
    assert flatten_dict(small.params)["bert", "embeddings", "position_embeddings", "embedding"].shape == (8, 32)
    assert choose_pieces({piece: i for i, piece in enumerate(PIECES)}, texts, 10)[-1] == "##i"
    assert uniform_layers(3, 6) == (1, 3, 5) and uniform_layers(4, 6) == (1, 2, 3, 5)


def test_preset_file(work, teacher, tmp_path):
    model = dataclasses.replace(checkpoint.load(teacher), path=tmp_path)
    assert str(choice_for(model, Choice(), "puma")) == "puma"
    Choice("fast").save(tmp_path)
    assert str(choice_for(model, Choice(), "puma")) == "fast"
    assert str(choice_for(model, Choice("spu"), "puma")) == "spu"
    assert str(choice_for(model, Choice(softmax="puma"), "puma")) == "fast with softmax puma"
    (tmp_path / "preset.json").write_text('{"preset": "fastest"}')
    with pytest.raises(UserError, match=r"preset\.json can't be read .*fastest"):
        choice_for(model, Choice(), "puma")
    assert tasks.find("SST-2").label_names == ("negative", "positive")
