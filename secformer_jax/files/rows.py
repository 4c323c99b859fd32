"""Rows of a file of texts: CSV, JSON lines, Parquet, or plain text with a text on each line."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError

TEXT, PAIR = "text", "text_pair"
"""Columns where none is named."""
_BATCH = 256
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: from 1, without a header.
        place: where it is, for people: "line 7" or "row 7".
        text: what is asked; "" where `error` says why there is none.
        pair: the second text.
        kept: other columns that were asked for.
        error: what is wrong with the row; "" for nothing.
    """

    number: int
    place: str
    text: str = ""
    pair: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns are read; None for `TEXT` or the only one there is, and for `PAIR` where there is one."""

    text: str | None = None
    pair: str | None = None
    kept: tuple[str, ...] = ()

    def within(self, path: Path, there: list[str]) -> Columns:
        """The names themselves, for a file with these columns.

        Raises:
            UserError: one is missing, or none can be chosen.
        """
        text = self.text or (TEXT if TEXT in there or len(there) != 1 else there[0])
        pair = self.pair or (PAIR if PAIR in there else None)
        for name, option in ((text, "--text-column"), (pair, "--pair-column"), *((n, "--keep") for n in self.kept)):
            if name is not None and name not in there:
                raise UserError(f"{path} has no column {name!r}, and {', '.join(there)} are there: pass {option}")
        return Columns(text, pair, self.kept)


Found = tuple[str, Mapping[str, Any] | str]
"""Where a row is, and its values; or what is wrong with it."""


class Table:
    """A file of texts, looked through once before anything is asked.

    Args:
        path: the file; its name tells the format, one of `FORMATS`.
        columns: which of its columns are read.

    Raises:
        UserError: no such file, another format, no such columns, or no row.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        if path.suffix.lower() not in FORMATS:
            raise UserError(f"{path}: texts are read from {', '.join(FORMATS)}")
        if not path.is_file():
            raise UserError(f"no file {path}: a file of texts was expected")
        self.path, self._read = path, FORMATS[path.suffix.lower()]
        self.columns = columns.within(path, self._names())
        self.count = sum(1 for _ in self._read(path))

    def _names(self) -> list[str]:
        """The columns of the first row that has any."""
        try:
            names = next((list(values) for _, values in self._read(self.path) if isinstance(values, Mapping)), None)
        except (OSError, UnicodeError) as error:
            raise UserError(f"{self.path} can't be read ({error})") from None
        if names is None:
            raise UserError(f"{self.path} has no row that can be read: a text was expected in each")
        return names

    def digest(self) -> str:
        """SHA-256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rows(self) -> Iterator[Row]:
        """All of them, in order."""
        for number, (place, values) in enumerate(self._read(self.path), 1):
            yield self._row(number, place, values)

    def _row(self, number: int, place: str, values: Mapping[str, Any] | str) -> Row:
        if isinstance(values, str):
            return Row(number, place, error=values)
        kept = {name: values.get(name) for name in self.columns.kept}
        texts = []
        for name in (self.columns.text, self.columns.pair):
            found = None if name is None else values.get(name)
            if name is not None and not isinstance(found, str):
                what = "is missing" if found is None else f"is no text but {type(found).__name__}"
                return Row(number, place, kept=kept, error=f"{name} {what}")
            texts.append(found)
        return Row(number, place, str(texts[0]), texts[1], kept)


def _csv(path: Path, delimiter: str = ",") -> Iterator[Found]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        names = next(reader, [])
        if len(set(names)) != len(names):
            raise UserError(f"{path} has a column twice: {', '.join(names)}")
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield place, f"no CSV: {error}"
                continue
            if len(fields) != len(names):
                yield place, f"{len(fields)} fields, and the header has {len(names)}"
            else:
                yield place, _decoded(dict(zip(names, fields, strict=True)))


def _json_lines(path: Path) -> Iterator[Found]:
    for place, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield place, f"no JSON: {error}"
            continue
        yield place, _decoded(values) if isinstance(values, dict) else "no JSON object"


def _text(path: Path) -> Iterator[Found]:
    for place, line in _lines(path):
        yield place, _decoded({TEXT: line})


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            yield f"line {number}", line.rstrip("\n")


def _parquet(path: Path) -> Iterator[Found]:
    parquet = pyarrow_parquet()
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(_BATCH):
            for values in batch.to_pylist():
                number += 1
                yield f"row {number}", values
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise UserError(f"{path} is no Parquet file that can be read ({error})") from None


def pyarrow_parquet() -> Any:
    """pyarrow's module for Parquet.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError("pyarrow is not installed: pip install 'secformer_jax[parquet]'") from None
    return parquet


def _decoded(values: dict[str, Any]) -> Mapping[str, Any] | str:
    """Bytes that are no UTF-8 have become lone surrogates; JSON's escapes have them too, where a pair was cut."""
    return "not UTF-8" if _SURROGATE.search(json.dumps(values, ensure_ascii=False)) else values


FORMATS: Mapping[str, Callable[[Path], Iterator[Found]]] = {
    ".csv": _csv,
    ".tsv": functools.partial(_csv, delimiter="\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt": _text,
}
