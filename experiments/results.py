"""Result files of the experiments: whole or not at all, resumable, with what their figures depend on beside them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secformer_jax.cli import report as reports

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results"
Entry = dict[str, Any]


def write(path: Path, record: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def provenance(command: str) -> Entry:
    """Command, commit, date, machine and versions."""
    return {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": reports.versions(),
    }


def commit() -> str | None:
    """The commit that runs, marked where the package or the experiments have been changed since."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "secformer_jax", "experiments", "spu_configs")
    return f"{head} with changes" if head and changed else head or None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def command_line() -> str:
    """The command that runs, from the repository; absolute paths, which only one machine has, are given by name."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:] if word != "--fresh"]
    return " ".join(["python", str(name), *words])


def run(main: Callable[..., None]) -> None:
    """Run a script's main with the command line's options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()


def console() -> Console:
    """A file or a pipe has no width: 80 columns would break the tables."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Check:
    """One line that has to hold: a figure and its limit."""

    name: str
    figure: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure is within the limit; NaN is not."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def cells(self) -> tuple[str, str, str, str]:
        """For a table."""
        sign = "at least" if self.at_least else "at most"
        return self.name, f"{self.figure:.4g}", f"{sign} {self.limit:g}", "PASS" if self.holds else "FAIL"


class Results:
    """One experiment's file: a cell is kept as soon as it is measured, and a later run does not measure it again.

    Processes that measure different cells can share a file.

    Args:
        name: of the file, without its suffix.
        folder: where it goes.
        fresh: measure what is asked for again; the other cells stay.
    """

    def __init__(self, name: str, folder: Path = FOLDER, *, fresh: bool = False) -> None:
        self.path = folder / f"{name}.json"
        self._about = provenance(command_line())
        self.cells: dict[str, Entry] = {}
        self._notes: Entry = {}
        self._fresh, self._measured = fresh, set[str]()
        self._read()

    def _read(self) -> None:
        """Take over what is in the file: another process may have added cells."""
        if self.path.is_file():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            about = {name: stored[name] for name in ("machine", "versions")}
            self.cells = {key: about | cell for key, cell in stored["cells"].items()}
            self._notes = stored["notes"] | self._notes

    def cell(self, key: str, measure: Callable[[], Entry]) -> Entry:
        """The cell of this name, measured unless it is there and need not be fresh."""
        self._read()
        if key not in self.cells or (self._fresh and key not in self._measured):
            about = {name: self._about[name] for name in ("command", "commit", "date", "machine", "versions")}
            measured = {**measure(), **about}
            self._read()
            self.cells[key] = measured
            self._measured.add(key)
            self.save()
        return self.cells[key]

    def save(self, **notes: Any) -> None:
        """Write the file; notes are kept until they are given anew."""
        self._notes |= notes
        write(self.path, {**self._about, "notes": self._notes, "cells": self.cells})

    def publish(self, out: Console, tables: Sequence[Table], checks: Sequence[Check] = (), **notes: Any) -> None:
        """Print the tables and the required lines, and write both files: .json, and .md for people."""
        shown = [*tables, *([check_table(checks)] if checks else [])]
        for each in shown:
            out.print(each)
        self.save(checks=[{**asdict(check), "holds": check.holds} for check in checks], **notes)
        about = self._about
        dates = sorted({cell["date"] for cell in self.cells.values()})
        commits = sorted({str(cell["commit"])[:12] for cell in self.cells.values()})
        machines = {
            f"{cell['machine']}; {', '.join(f'{name} {version}' for name, version in cell['versions'].items())}"
            for cell in self.cells.values()
        }
        measured = f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else "Nothing measured"
        lines = [
            f"# {self.path.stem}",
            f"Written by `{about['command']}`; every cell is in {self.path.name}.",
            f"{measured} at {', '.join(commits)} on {' and '.join(sorted(machines))}.",
            *map(markdown, shown),
        ]
        page = self.path.with_suffix(".md")
        partial = page.with_suffix(".partial-md")
        partial.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(page)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> Table:
    """A table whose first columns are words and the others figures."""
    found = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        found.add_column(Text(column), justify="right" if i >= text_columns else "left", overflow="fold")
    for row in rows:
        found.add_row(*(Text(cell) for cell in row))
    return found


def markdown(shown: Table) -> str:
    """A table for a Markdown page, its title as a heading."""
    columns = [[str(cell) for cell in column.cells] for column in shown.columns]
    header = [str(column.header) for column in shown.columns]
    words = sum(column.justify != "right" for column in shown.columns)
    return "\n".join([f"## {shown.title}", "", *markdown_rows(header, list(zip(*columns, strict=True)), words)])


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A table's lines; columns after the first `words` are figures. A cell of several lines becomes one."""
    rules = ["---" if i < words else "---:" for i in range(len(header))]
    return [
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"
        for row in (header, rules, *rows)
    ]


def read(name: str) -> Entry:
    """A file of results.

    Raises:
        SystemExit: it is not there.
    """
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"no results/{path.name}: its experiment has to be run first")
    return json.loads(path.read_text(encoding="utf-8"))


def check_table(checks: Sequence[Check]) -> Table:
    """Required lines with their figures."""
    return table("Required", ("", "figure", "limit", ""), [check.cells() for check in checks])
