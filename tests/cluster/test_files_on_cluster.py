"""A file of 1,000 texts, answered by a cluster of real processes, and its client killed on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cluster_processes import TOLERANCE, WORDS, Tiny, until_ready

from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Tokenizer

ROWS, BAD = 1000, 20
COMMAND = [sys.executable, "-m", "secformer_jax", "infer"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    tiny = Tiny("fast")
    model = tiny.client_folder(folder)
    with LocalCluster(folder / "cluster") as local:
        tiny.publish(local)
        until_ready(local)
        yield ["--cluster", str(local.path), "--model", str(model)], model, tiny


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS[5:], 1 + int(rng.integers(20)))) for _ in range(count)]


def write(path, found: list[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *((f"n{i}", text) for i, text in enumerate(found))])


def test_a_thousand_rows_killed_once(served, tmp_path):
    options, model, tiny = served
    found, out = texts(ROWS), tmp_path / "out.csv"
    write(tmp_path / "in.csv", found)
    command = [*COMMAND, *options, "--input", tmp_path / "in.csv", "--output", out, "--keep", "id"]
    partial, process = tmp_path / "out.csv.partial", subprocess.Popen(command, stdout=subprocess.PIPE)
    while not partial.exists() or partial.read_bytes().count(b"\n") < 200:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = partial.read_bytes().count(b"\n") - 1
    assert 0 < kept < ROWS and not out.exists()

    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{kept} rows were answered before" in done.stdout and f"{ROWS} rows answered" in done.stdout
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(n + 1) for n in range(ROWS)]
    assert [(row["id"], row["text"]) for row in rows] == [(f"n{i}", text) for i, text in enumerate(found)]
    tokenizer = Tokenizer(model, tiny.model.config)
    for index in (0, kept - 1, kept, ROWS - 1):
        [logits] = tiny.plain(encode_request(tiny.model, tokenizer, found[index]))
        scores = np.exp(logits) / np.exp(logits).sum()
        assert float(rows[index]["score"]) == pytest.approx(scores.max(), abs=TOLERANCE)


def test_bad_rows_are_told_and_the_others_answered(served, tmp_path):
    options, *_ = served
    found = texts(100)
    bad = {n * 5: ("", "the " * 600)[n % 2] for n in range(BAD)}
    for index, text in bad.items():
        found[index] = text
    write(tmp_path / "in.csv", found)
    command = [*COMMAND, *options, "--input", tmp_path / "in.csv"]
    done = subprocess.run([*command, "--output", tmp_path / "out.jsonl"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and f"80 rows answered in {tmp_path / 'out.jsonl'}, {BAD} not" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 101))
    assert {row["row"] - 1 for row in rows if "error" in row} == set(bad)
    assert all("label" in row for row in rows if "error" not in row)
    for index in bad:
        assert rows[index]["error"].startswith(f"line {index + 2}: ") and rows[index]["error"] in done.stdout

    piped = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert piped.returncode == 1
    shown = [json.loads(line) for line in piped.stdout.splitlines()]
    assert [row["row"] for row in shown] == list(range(1, 101)) and piped.stderr.count("secformer: line") == BAD
