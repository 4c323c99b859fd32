"""The command line on a tiny random model: results, their JSON, and one line for each mistake."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from secformer_jax.cli import app as cli
from secformer_jax.cli.commands import compare as compare_command
from secformer_jax.cli.report import Reporter
from secformer_jax.evaluation import tasks
from secformer_jax.functions import calibration
from secformer_jax.models import checkpoint
from secformer_jax.models import transformer as bert
from secformer_jax.mpc.runtime import config as mpc_config

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "sofa", "is", "was", "good", "bad", "film", "not", "very")
COSTS = {"seq_length", "seconds", "compile_seconds", "send_bytes", "send_actions", "offline_bytes"}
FIRST = {"first_seconds", "first_send_bytes", "first_send_actions", "first_offline_bytes"}
SHORT = ("--max-length", "16")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder that holds classifier/ and encoder/, the classifier with a calibration of every family."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    config = dataclasses.replace(bert.SHAPES["tiny"], id2label=("negative", "positive"), max_position_embeddings=64)
    params = jax.tree.map(np.asarray, bert.init_params(config, "classification", jax.random.key(0)))
    classifier = checkpoint.Checkpoint(config, params, "classification", folder / "tokens", folder / "tokens")
    checkpoint.save(classifier, folder / "classifier")
    encoder = dataclasses.replace(classifier, head="embedding", params={"bert": params["bert"]})
    checkpoint.save(encoder, folder / "encoder")
    assert cli.run(["calibrate", "--model", str(folder / "classifier"), "--max-length", "32"]) == 0
    return folder


@pytest.fixture
def copy(models, tmp_path):
    """A copy of the classifier's folder, to be spoilt."""
    return shutil.copytree(models / "classifier", tmp_path / "copy")


@pytest.fixture
def results(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = cli.run([*map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert (code, printed.err) == (0, "")
        document = json.loads(printed.out)
        assert set(document) == {"results", "versions"}
        assert {"secformer_jax", "spu", "jax", "python"} <= set(document["versions"])
        return document["results"]

    return run


@pytest.fixture
def mistake(capsys):
    def run(*arguments):
        capsys.readouterr()
        assert cli.run([*map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("secformer: ") and printed.err.count("\n") == 1
        return printed.err

    return run


def spoil_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


def spoil_json(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def config_with(tmp_path, name="2pc_semi2k", node_ids=None, **runtime):
    document = json.loads((mpc_config.CONFIG_DIR / f"{name}.json").read_text())
    device = document["devices"]["SPU"]["config"]
    device["runtime_config"] |= runtime
    if node_ids is not None:
        device["node_ids"] = node_ids
        del device["spu_internal_addrs"]
    (tmp_path / "config.json").write_text(json.dumps(document))
    return tmp_path / "config.json"


def test_infer_classifies(models, results):
    (entry,) = results("infer", "--model", models / "classifier", "--text", "the film was good", "--compare")
    assert {"head", "reveals", "score"} <= set(entry) and 0.5 <= entry["score"] <= 1
    assert COSTS | FIRST | {"preset", "protocol", "logits", "label", "plaintext_logits"} <= set(entry)
    assert (entry["preset"], entry["protocol"], entry["seq_length"]) == ("drop-in", "SEMI2K", 16)
    assert entry["label"] == ("negative", "positive")[int(np.argmax(entry["logits"]))]
    error = np.abs(np.subtract(entry["logits"], entry["plaintext_logits"])).max()
    assert entry["max_abs_error"] == pytest.approx(error) and error < 0.02
    assert entry["same_functions_max_abs_error"] < 0.005
    # The masked weights are opened in the first request only.
    assert entry["first_send_bytes"] > entry["send_bytes"] > 0
    parts = entry["by_part"].values()
    assert sum(part["send_bytes"] for part in parts) == entry["send_bytes"]
    assert sum(part["send_actions"] for part in parts) == entry["send_actions"]
    assert entry["one_hot"] == "client" and entry["by_part"]["embedding"]["send_bytes"] > 0
    assert sum(part["send_bytes"] for part in entry["by_operation"].values()) > 0.9 * entry["send_bytes"]
    assert entry["peak_memory_bytes"] > 1e8


def test_infer_compares_two_texts_with_an_encoder(models, results):
    texts = "the cat sat on the mat", "a dog ran"
    pairs = "a cat is on the sofa", "naïve 東京 😀 \udcff"
    arguments = [
        word for pair in zip(texts, pairs, strict=True) for word in ("--text", pair[0], "--text-pair", pair[1])
    ]
    entries = results(
        "infer", "--model", models / "encoder", *arguments, "--preset", "puma", "--embedding", "inside", "--compare"
    )
    assert [entry["text"] for entry in entries] == list(texts)
    for entry in entries:
        assert entry["logits"] == [entry["score"]] and -1.01 < entry["score"] < 1.01
        assert entry["max_abs_error"] < 0.02
        assert entry["one_hot"] == "inside" and "label" not in entry


def test_infer_for_people(models, capsys):
    arguments = "--model", str(models / "classifier"), "--text", "[bold]good 😀[/bold]", "--preset", "secformer"
    assert cli.run(["infer", *arguments, "--softmax", "puma", "--compare"]) == 0
    printed = capsys.readouterr()
    assert "[bold]good 😀[/bold]" in printed.out and "secformer with softmax puma" in printed.out
    assert "embedding (one-hot made by the client)" in printed.out and printed.err == ""


def test_compare(models, results):
    entries = results("compare", "--model", models / "classifier", "--presets", "puma,secformer", *SHORT)
    assert [entry["preset"] for entry in entries] == ["puma", "secformer"]
    assert all(set(entry) >= COSTS | FIRST for entry in entries)
    assert entries[1]["offline_bytes"] > entries[0]["offline_bytes"] == 0


def test_compare_random_weights(results):
    (entry,) = results("compare", "--shape", "tiny", "--presets", "secformer", "--config", "3pc_aby3", *SHORT)
    assert entry["protocol"] == "ABY3" and entry["same_functions_max_abs_error"] < 0.02


def test_calibrate_writes_every_family_or_one(models, copy, results, tmp_path):
    assert set(calibration.load_all(models / "classifier")) == {
        f"{gelu}/{softmax}" for gelu in ("exact", "quad") for softmax in ("exact", "two_quad", "two_relu")
    }
    (copy / "calibration.json").unlink()
    (tmp_path / "mine.txt").write_text("the cat\nthe film was good\tthe film was not bad\n\n")
    arguments = "calibrate", "--model", copy, "--data", tmp_path / "mine.txt", *SHORT
    (entry,) = results(*arguments, "--preset", "secformer")
    assert (entry["family"], entry["sentences"], entry["max_length"]) == ("exact/two_quad", 2, 16)
    assert set(calibration.load_all(copy)) == {"exact/two_quad"}
    assert entry["ranges"]["variance"][0] > 0
    elsewhere = tmp_path / "elsewhere.json"
    (entry,) = results(*arguments, "--preset", "puma", "--calibration", elsewhere)
    assert entry["path"] == str(elsewhere) and set(calibration.load_all(elsewhere)) == {"exact/exact"}


@pytest.mark.parametrize("runtime", ["plaintext", "emulated", "simulated"])
def test_evaluate(models, results, tmp_path, runtime):
    rows = [("the film was good", 1), ("the film was bad", 0), ("not good", 0), ("a very good film " * 5, 1)]
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n" + "".join(f"{text.strip()}\t{y}\n" for text, y in rows))
    arguments = "--task", "SST-2", "--data-dir", tmp_path, "--runtime", runtime, "--preset", "puma", "--batch-size", 3
    (entry,) = results("evaluate", "--model", models / "classifier", *arguments)
    assert (entry["task"], entry["metric_name"], entry["count"]) == ("SST-2", "accuracy", 4)
    assert (entry["runtime"], entry["preset"]) == (runtime, "puma")
    assert entry["metric"] in (0, 0.25, 0.5, 0.75, 1)
    config = {"plaintext": None, "emulated": "1pc_ref2k", "simulated": "2pc_semi2k"}[runtime]
    assert entry["config"] == config and ("send_bytes" in entry) == (runtime == "simulated")


def test_evaluate_says_where_values_left_their_domains(copy, results, mistake, tmp_path, capsys):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nthe film was good\t1\nnot good\t0\n")
    arguments = "evaluate", "--model", copy, "--task", "SST-2", "--data-dir", tmp_path, "--preset", "fast"
    checked = *arguments, "--runtime", "emulated", "--check-ranges"
    assert results(*checked)[0]["left_domain"] == []
    ranges = calibration.load(copy, family="exact/two_quad")
    places = {**ranges.places, "layer.1.gelu": {"input": calibration.Range(-1e-3, 1e-3)}}
    calibration.save([dataclasses.replace(ranges, places=places)], copy)
    assert cli.run([*map(str, checked)]) == 0
    assert "layer.1.gelu input -" in (said := capsys.readouterr().out) and "left [-0.001125, 0.001125]" in said
    assert "--runtime emulated" in mistake(*arguments, "--check-ranges")


def test_evaluate_an_encoder_by_cosine(models, results, tmp_path):
    columns = tasks.TASKS["STS-B"].columns
    pairs = [("the cat sat", "the cat sat", 5), ("the cat sat", "a dog ran !", 1), ("a film", "a good film", 4)]
    lines = ["\t".join(columns), *("\t".join([*"0123456", a, b, str(y)]) for a, b, y in pairs)]
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n")
    arguments = "evaluate", "--model", models / "encoder", "--task", "sts-b", "--data-dir", tmp_path, "--batch-size", 2
    (entry,) = results(*arguments)
    assert entry["metric_name"] == "pearson_spearman" and set(entry["metrics"]) >= {"pearson", "spearman"}
    assert entry["metric"] > 0.5
    assert results(*arguments, "--limit", 2)[0]["count"] == 2


def test_bad_text(models, mistake):
    infer = "infer", "--model", models / "classifier"
    assert "empty text" in mistake(*infer, "--text", " ")
    assert "empty text" in mistake(*infer, "--text", "cat", "--text-pair", "")
    assert "--text" in mistake(*infer)
    long = "the cat sat on the mat " * 20
    assert "sequence of 122 tokens, and the model has 64 positions" in mistake(*infer, "--text", long)
    assert "sequence of 122 tokens, and the limit is 16" in mistake(*infer, "--text", long, *SHORT)
    assert "3 to 64" in mistake(*infer, "--text", long, "--max-length", "128")
    assert "--text-pair" in mistake(*infer, "--text", "a", "--text", "b", "--text-pair", "c")
    assert "--text-pair" in mistake("infer", "--model", models / "encoder", "--text", "the cat")


def test_truncate(models, results):
    arguments = "--text", "the cat sat on the mat " * 20, "--max-length", 16, "--truncate"
    assert results("infer", "--model", models / "classifier", *arguments)[0]["seq_length"] == 16


def test_bad_model(copy, mistake, tmp_path):
    infer = "infer", "--text", "the cat", "--model"
    assert "no folder" in mistake(*infer, tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "empty").mkdir()
    assert "is no model folder" in mistake(*infer, tmp_path / "empty")
    spoil_json(copy / "config.json", model_type="albert")
    assert "'albert', and only bert, camembert" in mistake(*infer, copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("bert.encoder.layer.1.output.dense.bias"), "encoder.layer.1.output.dense.bias"),
        (lambda tensors: tensors.update({"classifier.weight": np.ones((2, 3), np.float32)}), "classifier.weight"),
        (lambda tensors: tensors["classifier.bias"].fill(np.nan), "classifier.bias holds NaN"),
    ],
)
def test_bad_tensors_are_named(copy, mistake, change, message):
    spoil_tensors(copy, change)
    assert message in mistake("infer", "--text", "the cat", "--model", copy)


def test_bad_functions_and_protocols(models, mistake, tmp_path):
    infer = "infer", "--model", models / "classifier", "--text", "the cat"
    for option in ("preset", "gelu", "softmax", "layer-norm"):
        assert "unknown" in (said := mistake(*infer, f"--{option}", "nonsense")) and "exact" in said
    assert "client, inside" in mistake(*infer, "--embedding", "nonsense")
    assert "2pc_semi2k" in mistake(*infer, "--config", "nonsense")
    assert "unknown protocol 'NONSENSE'" in mistake(*infer, "--config", config_with(tmp_path, protocol="NONSENSE"))
    assert "field 'FM9'" in mistake(*infer, "--config", config_with(tmp_path, field="FM9"))
    said = mistake(*infer, "--config", config_with(tmp_path, "3pc_aby3", protocol="ABY3", node_ids=["S0", "S1"]))
    assert "3 parties" in said


def test_bad_calibration(models, copy, mistake):
    infer = "infer", "--text", "the cat", "--preset", "secformer", "--model"
    spoil_tensors(copy, lambda tensors: tensors["classifier.bias"].fill(7))
    assert "calibration made for another model" in mistake(*infer, copy)
    other = models / "classifier" / "calibration.json"
    assert "calibration made for another model" in mistake(*infer, copy, "--calibration", other)
    assert "max-length 64" in mistake(*infer, models / "classifier", "--max-length", "64", "--calibration", other)
    assert "no calibration at" in mistake(*infer, copy, "--calibration", copy / "none.json")


def test_bad_options(models, mistake, tmp_path):
    assert "frob" in mistake("frob")
    assert "--frob" in mistake("infer", "--frob")
    assert "integer" in mistake("compare", "--shape", "tiny", "--max-length", "many")
    assert "either --model or --shape" in mistake("compare")
    assert "bert-large" in mistake("compare", "--shape", "huge")
    assert "no preset" in mistake("compare", "--shape", "tiny", "--presets", ",")
    evaluate = "evaluate", "--model", models / "classifier", "--data-dir", tmp_path
    assert "QNLI" in mistake(*evaluate, "--task", "nonsense")
    assert "simulated" in mistake(*evaluate, "--task", "SST-2", "--runtime", "nonsense")
    assert "dev.tsv" in mistake(*evaluate, "--task", "SST-2")
    assert "--preset" in mistake("calibrate", "--model", models / "classifier", "--gelu", "quad")
    assert "can't be read" in mistake("calibrate", "--model", models / "classifier", "--data", tmp_path / "none")


def test_a_task_that_does_not_fit_the_model(models, mistake, tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nthe film was good\t1\n")
    arguments = "evaluate", "--data-dir", tmp_path, "--task", "SST-2", "--model"
    assert "no classification head" in mistake(*arguments, models / "encoder")


def test_what_others_wrote_does_not_move_the_cursor(capsys):
    assert cli.run(["compare", "--\x1b]52;c;YQ\x07\x1b[2J"]) == 2
    reporter = Reporter(False)
    reporter.say("label \x1b[2J\x9b2J")
    reporter.table("\x1b[1A", ["\x1b[1A"], [["\x1b]0;a\x07b"]])
    shown = "".join(capsys.readouterr())
    assert "]52;c;YQ[2J" in shown and not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_command, "random_model", interrupt)
    assert cli.run(["compare", "--shape", "tiny"]) == 130
    assert capsys.readouterr().err == "secformer: stopped\n"


def test_the_command_itself_prints_one_json_object_and_nothing_else(models, tmp_path):
    program = [sys.executable, "-c", "from secformer_jax.cli.app import main; main()"]
    arguments = ["infer", "--model", str(models / "encoder"), "--text", "the cat", "--text-pair", "a dog", "--json"]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["results"]) == 1
    assert list(tmp_path.iterdir()) == []
