import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.evaluation import tasks

ROWS = {
    "CoLA": (8551, 1043),
    "MRPC": (3668, 408),
    "RTE": (2490, 277),
    "STS-B": (5749, 1500),
    "SST-2": (67349, 872),
    "QNLI": (4463, 1000),
}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_real_files(glue_dir, name):
    task = tasks.TASKS[name]
    train, dev = (tasks.read(task, glue_dir, split) for split in ("train", "dev"))
    assert (len(train), len(dev)) == ROWS[name]
    for examples in (train, dev):
        assert len(examples.labels) == len(examples)
        assert (examples.pairs is None) == (name in ("CoLA", "SST-2"))
        assert examples.pairs is None or len(examples.pairs) == len(examples)
        if name != "STS-B":
            assert set(examples.labels) == {0, 1}
        assert (examples.note is not None) == (name == "QNLI")
    assert len(tasks.read(task, glue_dir / name, "dev", limit=7)) == 7


def test_first_rows(glue_dir):
    sts_b = tasks.read(tasks.find("sts-b"), glue_dir)
    assert (sts_b.texts[0], sts_b.pairs[0]) == (
        "A man with a hard hat is dancing.",
        "A man wearing a hard hat is dancing.",
    )
    assert sts_b.labels[:2].tolist() == [5.0, 4.75]
    qnli = tasks.read(tasks.find("qnli"), glue_dir, "train", limit=2)
    assert qnli.texts[0].startswith("What came into force") and qnli.labels.tolist() == [0, 1]
    assert "first 4463 rows" in qnli.note


def test_names():
    assert tasks.find("cola").name == "CoLA"
    assert tasks.find("STSB").name == "STS-B"
    with pytest.raises(UserError, match="unknown task 'mnli': pass one of CoLA, MRPC, RTE, STS-B, SST-2, QNLI"):
        tasks.find("mnli")
    assert [task.num_labels for task in tasks.TASKS.values()] == [2, 2, 2, 1, 2, 2]


def write(folder, name, content):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "dev.tsv").write_bytes(content)
    return folder


def test_quotes_marks_and_line_ends(tmp_path):
    lines = '\ufeffsentence\tlabel\r\n"a bare quote\t1\r\nline\u2028end \x85 inside\t0\r\n'
    write(tmp_path, "sst2", lines.encode())
    examples = tasks.read(tasks.find("SST-2"), tmp_path)
    assert examples.texts == ['"a bare quote', "line\u2028end \x85 inside"]
    assert examples.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("SST-2", b"sentence\tlabel\ngood\t1\nbad\n", r"dev.tsv, line 3: expected 2 tab-separated columns, found 1"),
        ("SST-2", b"sentence\tlabel\ngood\t1\n\nbad\t0\n", r"line 3: expected 2 tab-separated columns, found 1"),
        ("SST-2", b"sentence\tlabel\ngood\t2\n", r"line 2: label '2', and one of 0, 1 was expected"),
        ("SST-2", b"sentence\tlabel\n  \t1\n", r"line 2: sentence is empty"),
        ("SST-2", b"good\t1\n", r"line 1: expected the header sentence, label"),
        ("SST-2", b"", r"line 1: expected the header"),
        ("SST-2", b"sentence\tlabel\n\xff\t1\n", r"not UTF-8 \(byte 15\)"),
        ("CoLA", b"x\t1\t\tgood\nx\t1\tgood\n", r"line 2: expected 4 tab-separated columns, found 3"),
        ("STS-B", "\t".join(tasks.TASKS["STS-B"].columns).encode() + b"\n" + b"x\t" * 9 + b"6\n", r"line 2: score '6'"),
        ("STS-B", "\t".join(tasks.TASKS["STS-B"].columns).encode() + b"\n" + b"x\t" * 9 + b"x\n", r"line 2: score 'x'"),
        ("QNLI", b"index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n", r"no train.tsv here.* 1 rows, too few"),
    ],
)
def test_malformed_files(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        tasks.read(tasks.find(name), write(tmp_path, name, content))


def test_absent_data(tmp_path, monkeypatch):
    task = tasks.find("RTE")
    with pytest.raises(UserError, match=r"holds neither a folder RTE nor dev\.tsv"):
        tasks.read(task, tmp_path)
    with pytest.raises(UserError, match="no folder"):
        tasks.read(task, tmp_path / "absent")
    with pytest.raises(UserError, match=r"no file .*train\.tsv"):
        tasks.read(task, write(tmp_path, "RTE", b""), "train")
    with pytest.raises(UserError, match="unknown split 'test'"):
        tasks.read(task, tmp_path, "test")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pass --data-dir"):
        tasks.read(task, None)


def test_hugging_face_datasets(monkeypatch):
    def load_dataset(path, name, split):
        assert (path, name, split) == ("nyu-mll/glue", "stsb", "validation")
        return {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0.5, 5.0]}

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    examples = tasks.read(tasks.find("STS-B"), None, "dev", limit=1)
    assert (examples.texts, examples.pairs, examples.labels.tolist()) == (["a"], ["c"], [0.5])


LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 0, 1, 0, 0, 0, 0])  # 2 true positives, 1 false positive, 1 false negative


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MRPC", {"f1": 2 / 3, "accuracy": 6 / 8}),
        ("CoLA", {"matthews": (2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5), "accuracy": 6 / 8}),
        ("RTE", {"accuracy": 6 / 8}),
        ("SST-2", {"accuracy": 6 / 8}),
        ("QNLI", {"accuracy": 6 / 8}),
    ],
)
def test_class_metrics(name, expected):
    result = tasks.score(tasks.TASKS[name], PREDICTIONS, LABELS)
    assert list(result) == list(expected)
    assert result == pytest.approx(expected)


def test_correlations():
    task = tasks.TASKS["STS-B"]
    result = tasks.score(task, np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    pearson = np.corrcoef([1, 2, 3, 10], [1, 2, 3, 4])[0, 1]
    assert result == pytest.approx({"pearson_spearman": (pearson + 1) / 2, "pearson": pearson, "spearman": 1.0})
    assert next(iter(result)) == "pearson_spearman"
    assert tasks.score(task, np.ones(4), np.arange(4.0))["pearson_spearman"] == 0
    with pytest.raises(ValueError, match="two vectors"):
        tasks.score(task, np.ones((4, 1)), np.arange(4.0))


def test_predict():
    logits = np.array([[0.1, 0.9], [2.0, -1.0]])
    assert tasks.predict(tasks.TASKS["RTE"], logits).tolist() == [1, 0]
    assert tasks.predict(tasks.TASKS["STS-B"], logits[:, :1]).tolist() == [0.1, 2.0]
