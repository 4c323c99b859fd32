"""The accuracy experiment on a tiny model and a made-up task: cells, the table, and going on where it was stopped."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from secformer_jax import bert, checkpoint

pytest.importorskip("spu")

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "accuracy.py"
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
    (folder / "SST-2").mkdir()
    rows = ["sentence\tlabel", *[f"the film is {word}\t{word == 'good':d}" for word in ("good", "bad") * 20]]
    for split in ("train", "dev"):
        (folder / "SST-2" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


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
    assert "teacher SST-2" in out and "| secformer | emulated |" in (work / "results" / "accuracy-tiny.md").read_text()
    # The models and the cells that are there stay as they are.
    before = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("model.safetensors")}
    _, again = run(work, "plain", "fast")
    assert {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("model.safetensors")} == before
    assert again["cells"]["plain/SST-2/0"] == plain and "fast/SST-2/0" in again["cells"]
