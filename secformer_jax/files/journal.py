"""Answers on disk as they come: what is there when a run is killed is not asked again.

Beside the output lies a journal of JSON lines. Its first line says what is asked of which file; each answered row is a
line. When all rows are there, the output is made of it, whole or not at all, and the journal goes.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.files.rows import pyarrow_parquet

Entry = Mapping[str, Any]
ROW = "row"
"""The key of a row's number."""
_CHUNK = 4096


class Journal:
    """The answers to one file's rows, in order; to be entered with `with`.

    Args:
        out: the output; its name tells the format, one of `FORMATS`.
        job: what is asked, as JSON values.

    Raises:
        UserError: the output is there already or can't be written, another format, or a journal of something else.
    """

    def __init__(self, out: Path, job: Mapping[str, Any]) -> None:
        if out.suffix.lower() not in FORMATS:
            raise UserError(f"{out}: answers are written to {', '.join(FORMATS)}")
        if out.exists():
            raise UserError(f"{out} is there already: choose another name or remove it")
        self.out, self.path = out, out.with_name(f"{out.name}.partial")
        self._write, job = FORMATS[out.suffix.lower()], json.loads(json.dumps(job))
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise UserError(f"{out} can't be written ({error.strerror}): choose another folder") from None
        try:
            self._lock()
            self.done = self._resume(job)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep the answers to the next rows: they are on disk when this returns."""
        self._append(entries)
        self.done += len(entries)

    def finish(self) -> None:
        """Make the output of all answers, and remove the journal."""
        whole = self.path.with_suffix(".whole")
        try:
            self._write(whole, self._entries)
            with open(whole, "rb") as file:
                os.fsync(file.fileno())
            os.replace(whole, self.out)
        finally:
            whole.unlink(missing_ok=True)
        self.path.unlink()

    def errors(self) -> list[Entry]:
        """The rows that could not be answered."""
        return [entry for entry in self._entries() if "error" in entry]

    def _lock(self) -> None:
        """One process writes: a second one would mix its lines with these."""
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process writes {self.out} now: wait for it") from None

    def _resume(self, job: Entry) -> int:
        """How many rows are answered; a last line that was cut is removed."""
        end, lines = 0, 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            end, lines = end + len(line), lines + 1
        self._file.truncate(end)
        if not lines:
            self._append([job])
            return 0
        if self._first() != job:
            raise UserError(f"{self.path} has answers to something else: remove it, or choose another output")
        return lines - 1

    def _first(self) -> Any:
        with self.path.open(encoding="utf-8") as file, contextlib.suppress(ValueError):
            return json.loads(next(file))
        return None

    def _append(self, entries: Iterable[Entry]) -> None:
        self._file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _entries(self) -> Iterator[Entry]:
        with self.path.open(encoding="utf-8") as file:
            yield from map(json.loads, itertools.islice(file, 1, None))


Entries = Callable[[], Iterator[Entry]]
"""Gives all answers, each time anew."""


def _json_lines(path: Path, entries: Entries) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries())


def _csv(path: Path, entries: Entries) -> None:
    """Lists are JSON in their cell."""
    names = list(dict.fromkeys(name for entry in entries() for name in entry))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([_cell(entry.get(name)) for name in names] for entry in entries())


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _parquet(path: Path, entries: Entries) -> None:
    parquet = pyarrow_parquet()
    import pyarrow

    names = list(dict.fromkeys(name for entry in entries() for name in entry))

    def tables() -> Iterator[Any]:
        found = entries()
        while chunk := list(itertools.islice(found, _CHUNK)):
            yield pyarrow.table({name: [entry.get(name) for entry in chunk] for name in names})

    schema = pyarrow.unify_schemas([table.schema for table in tables()], promote_options="permissive")
    with parquet.ParquetWriter(path, schema) as writer:
        for table in tables():
            writer.write_table(table.cast(schema))


FORMATS: Mapping[str, Callable[[Path, Entries], None]] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
