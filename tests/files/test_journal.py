"""Answers as they come: a stopped run goes on, and nothing is there twice, half, or of something else."""

import csv
import json
import subprocess
import sys

import pytest

from secformer_jax.errors import UserError
from secformer_jax.files.journal import Journal

JOB = {"model": "m", "columns": ("text",)}
ENTRIES = [{"row": 1, "text": "é, \n", "label": "x", "entities": [{"a": 1}]}, {"row": 2, "error": "no"}]


def test_it_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "out.jsonl"
    with Journal(out, JOB) as journal:
        assert journal.done == 0
        journal.add(ENTRIES[:1])
    with (tmp_path / "out.jsonl.partial").open("a") as file:
        file.write('{"row": 2, "tex')
    with Journal(out, JOB) as journal:
        assert journal.done == 1 and not out.exists()
        journal.add(ENTRIES[1:])
        assert journal.errors() == ENTRIES[1:]
        journal.finish()
    assert [json.loads(line) for line in out.read_text().splitlines()] == ENTRIES
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_csv(tmp_path):
    with Journal(tmp_path / "out.csv", JOB) as journal:
        journal.add(ENTRIES)
        journal.finish()
    with (tmp_path / "out.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {"row": "1", "text": "é, \n", "label": "x", "entities": '[{"a": 1}]', "error": ""}
    assert (second["text"], second["error"]) == ("", "no")


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    vectors = [{"row": n, "embedding": [0.5 * n, 1.0]} for n in range(1, 5000)] + [{"row": 5000, "error": "no"}]
    with Journal(tmp_path / "out.parquet", JOB) as journal:
        journal.add(vectors)
        journal.finish()
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(found) == 5000 and found[2] == {"row": 3, "embedding": [1.5, 1.0], "error": None}
    assert found[-1] == {"row": 5000, "embedding": None, "error": "no"}


def test_answers_to_something_else_are_kept(tmp_path):
    with Journal(tmp_path / "out.csv", JOB) as journal:
        journal.add(ENTRIES)
    with pytest.raises(UserError, match="something else"):
        Journal(tmp_path / "out.csv", {**JOB, "model": "n"})
    assert (tmp_path / "out.csv.partial").read_text().count("\n") == 3


def test_an_output_that_is_there_is_kept(tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        Journal(tmp_path / "out.csv", JOB)
    with pytest.raises(UserError, match=r"\.csv, \.jsonl, \.parquet"):
        Journal(tmp_path / "out.xlsx", JOB)
    with pytest.raises(UserError, match="can't be written"):
        Journal(tmp_path / "none" / "out.csv", JOB)


def test_one_process_writes(tmp_path):
    code = (
        "import sys; from pathlib import Path; from secformer_jax.files.journal import Journal\n"
        "from secformer_jax.errors import UserError\n"
        f"try: Journal(Path(sys.argv[1]), {JOB})\nexcept UserError as error: print(error)"
    )
    with Journal(tmp_path / "out.csv", JOB):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "out.csv"], capture_output=True, text=True)
    assert "another process writes" in done.stdout
