"""What the commands print: tables for people, or one JSON object; progress goes to standard error."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from secformer_jax.cli.printable import printable

PACKAGES = ("secformer_jax", "spu", "jax", "jaxlib", "flax", "transformers", "numpy")
Entry = dict[str, Any]


class Reporter:
    """Prints the results of one command.

    Args:
        as_json: one JSON object on standard output and nothing else; no progress.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # A file or a pipe has no width: 80 columns would break the tables.
        self._out = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        self._err = Console(stderr=True, highlight=False)
        self._shows_progress = not as_json and self._err.is_terminal

    def say(self, text: str) -> None:
        """A line for people; nothing under --json."""
        if not self.as_json:
            self._out.print(Text(printable(text)), soft_wrap=True)

    def part(self, text: str) -> None:
        """Part of a line, for people."""
        if not self.as_json:
            self._out.print(Text(printable(text)), end="", soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people, its first column on the left and the others on the right; nothing under --json."""
        if self.as_json:
            return
        self.say(title)
        table = Table(box=box.SIMPLE_HEAD)
        for i, column in enumerate(columns):
            table.add_column(Text(printable(column)), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._out.print(table)

    def results(self, entries: Sequence[Entry]) -> None:
        """The JSON object; nothing without --json."""
        if self.as_json:
            print(json.dumps({"results": entries, "versions": versions()}, indent=1))

    @contextmanager
    def progress(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar on standard error, moved by calls (done, total); a spinner until the first."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
        bar = Progress(*columns, *times, console=self._err, transient=True, disable=not self._shows_progress)
        with bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def versions() -> dict[str, str | None]:
    """Versions of what a figure depends on; None for what is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return {**found, "python": platform.python_version()}
