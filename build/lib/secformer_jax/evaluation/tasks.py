"""GLUE tasks: their official TSV files, and their metrics."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import warnings
from pathlib import Path

import numpy as np
import scipy.stats
import sklearn.metrics

from secformer_jax.errors import UserError

QNLI_SUBSTITUTE_TRAIN, QNLI_SUBSTITUTE_DEV = 4463, 1000


@dataclasses.dataclass(frozen=True)
class Task:
    """One GLUE task: where its texts and labels stand in the TSV, and what it is scored by.

    ``labels`` are the label strings of the TSV in the order of their ids, and none for regression. ``hub_columns``
    are the names of the same texts in the Hugging Face data set; ``label_names`` are what people call the labels.
    """

    name: str
    columns: tuple[str, ...]
    text_column: str
    label_column: str
    metric: str
    pair_column: str | None = None
    labels: tuple[str, ...] = ("0", "1")
    has_header: bool = True
    hub_columns: tuple[str, ...] = ("sentence1", "sentence2")
    label_names: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """How many logits a model for this task has: 1 for regression."""
        return len(self.labels) or 1


_ENTAILMENT = ("entailment", "not_entailment")
_STS_B = "index genre filename year old_index source1 source2 sentence1 sentence2 score"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "CoLA",
            ("source", "label", "mark", "sentence"),
            "sentence",
            "label",
            "matthews",
            has_header=False,
            hub_columns=("sentence",),
            label_names=("unacceptable", "acceptable"),
        ),
        Task(
            "MRPC",
            ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            "#1 String",
            "Quality",
            "f1",
            "#2 String",
            label_names=("different", "equivalent"),
        ),
        Task(
            "RTE",
            ("index", "sentence1", "sentence2", "label"),
            "sentence1",
            "label",
            "accuracy",
            "sentence2",
            _ENTAILMENT,
        ),
        Task("STS-B", tuple(_STS_B.split()), "sentence1", "score", "pearson_spearman", "sentence2", labels=()),
        Task(
            "SST-2",
            ("sentence", "label"),
            "sentence",
            "label",
            "accuracy",
            hub_columns=("sentence",),
            label_names=("negative", "positive"),
        ),
        Task(
            "QNLI",
            ("index", "question", "sentence", "label"),
            "question",
            "label",
            "accuracy",
            "sentence",
            _ENTAILMENT,
            hub_columns=("question", "sentence"),
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Examples:
    """Texts, their pairs where the task has pairs, and labels: int32 class ids, or float32 scores for regression.

    ``note`` says where the split isn't the official one, and belongs wherever a number from it stands.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray
    note: str | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> Examples:
        pairs = None if self.pairs is None else self.pairs[rows]
        return Examples(self.texts[rows], pairs, self.labels[rows], self.note)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def find(name: str) -> Task:
    """The task of that name, in any case, with or without its hyphen."""
    for known in TASKS.values():
        if _plain(known.name) == _plain(name):
            return known
    raise UserError(f"unknown task {name!r}: pass one of {', '.join(TASKS)}")


def read(task: Task, data_dir: str | os.PathLike[str] | None, split: str = "dev", limit: int | None = None) -> Examples:
    """The task's "train" or "dev" split: from ``data_dir``, which holds its folder or is it, or through `datasets`."""
    if split not in ("train", "dev"):
        raise UserError(f"unknown split {split!r}: pass train or dev")
    if data_dir is None:
        return _read_hub(task, split)[:limit]
    folder = _folder(task, Path(data_dir).expanduser())
    if task.name == "QNLI" and not (folder / "train.tsv").is_file():
        return _qnli_substitute(_read_tsv(task, folder / "dev.tsv"), split)[:limit]
    return _read_tsv(task, folder / f"{split}.tsv")[:limit]


def _folder(task: Task, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise UserError(f"no folder {data_dir}: pass --data-dir with the folder that holds {task.name}/dev.tsv")
    for folder in sorted(data_dir.iterdir()):
        if folder.is_dir() and _plain(folder.name) == _plain(task.name):
            return folder
    if (data_dir / "dev.tsv").is_file() or (data_dir / "train.tsv").is_file():
        return data_dir
    raise UserError(f"{data_dir} holds neither a folder {task.name} nor dev.tsv: pass --data-dir with GLUE's TSV files")


def _qnli_substitute(dev: Examples, split: str) -> Examples:
    train, rest = QNLI_SUBSTITUTE_TRAIN, QNLI_SUBSTITUTE_DEV
    if len(dev) < train + rest:
        raise UserError(
            f"QNLI has no train.tsv here, and its dev.tsv has {len(dev)} rows, too few for the substitute split "
            f"({train} + {rest}): use the official files"
        )
    part = dev[:train] if split == "train" else dev[-rest:]
    note = f"QNLI without its train.tsv: the first {train} rows of dev for training, the last {rest} for evaluation"
    return dataclasses.replace(part, note=note)


def _read_tsv(task: Task, path: Path) -> Examples:
    """Tabs only and no quoting: the texts hold bare quotes, and characters that Python takes for line ends."""
    if not path.is_file():
        raise UserError(f"no file {path}: GLUE's official TSV of {task.name} was expected there")
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): use GLUE's official TSV file") from None
    if lines[-1] == "":
        lines.pop()
    first = 0
    if task.has_header:
        header = tuple(lines[0].removesuffix("\r").split("\t")) if lines else ()
        if header != task.columns:
            raise UserError(
                f"{path}, line 1: expected the header {', '.join(task.columns)}: use GLUE's official TSV file"
            )
        first = 1
    at = {column: i for i, column in enumerate(task.columns)}
    texts, pairs, labels = [], [], []
    for number, line in enumerate(lines[first:], start=first + 1):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != len(task.columns):
            raise UserError(
                f"{path}, line {number}: expected {len(task.columns)} tab-separated columns, found {len(fields)}: "
                "mend or remove the line"
            )
        text, pair = fields[at[task.text_column]], fields[at[task.pair_column]] if task.pair_column else None
        for column, value in ((task.text_column, text), (task.pair_column, pair)):
            if value is not None and not value.strip():
                raise UserError(f"{path}, line {number}: {column} is empty: mend or remove the line")
        texts.append(text)
        pairs.append(pair or "")
        labels.append(_label(task, fields[at[task.label_column]], f"{path}, line {number}"))
    return _examples(task, texts, pairs, labels)


def _label(task: Task, value: str, where: str) -> float:
    if task.labels:
        if value in task.labels:
            return task.labels.index(value)
        raise UserError(f"{where}: label {value!r}, and one of {', '.join(task.labels)} was expected: mend the line")
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise UserError(f"{where}: score {value!r}, and a number from 0 to 5 was expected: mend the line")
    return score


def _examples(task: Task, texts: list[str], pairs: list[str], labels: list[float]) -> Examples:
    dtype = np.int32 if task.labels else np.float32
    return Examples(texts, pairs if task.pair_column else None, np.asarray(labels, dtype))


def _read_hub(task: Task, split: str) -> Examples:
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"no data for {task.name}: pass --data-dir with GLUE's TSV files, or pip install datasets")
    import datasets

    try:
        name = {"train": "train", "dev": "validation"}[split]
        data = datasets.load_dataset("nyu-mll/glue", _plain(task.name), split=name)
    except Exception as error:  # no network, no such cache, ...: the library raises many types
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{task.name} can't be had through datasets ({reason}): pass --data-dir") from None
    columns = [list(data[column]) for column in task.hub_columns]
    return _examples(task, columns[0], columns[-1], list(data["label"]))


def predict(task: Task, logits: np.ndarray) -> np.ndarray:
    """Predictions from logits (count, num_labels): class ids, or the scores themselves for regression."""
    logits = np.asarray(logits)
    return logits.argmax(axis=-1) if task.labels else logits.reshape(len(logits))


def score(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's official metrics, the headline first, as fractions of 1; an undefined correlation counts as 0."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1:
        raise ValueError(
            f"predictions {predictions.shape} and labels {labels.shape}: expected two vectors of one length"
        )
    if task.metric == "pearson_spearman":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
            pearson = scipy.stats.pearsonr(predictions, labels).statistic
            spearman = scipy.stats.spearmanr(predictions, labels).statistic
        pearson, spearman = (float(np.nan_to_num(value)) for value in (pearson, spearman))
        return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}
    accuracy = float(sklearn.metrics.accuracy_score(labels, predictions))
    if task.metric == "matthews":
        return {"matthews": float(sklearn.metrics.matthews_corrcoef(labels, predictions)), "accuracy": accuracy}
    if task.metric == "f1":
        return {"f1": float(sklearn.metrics.f1_score(labels, predictions, zero_division=0)), "accuracy": accuracy}
    return {"accuracy": accuracy}
