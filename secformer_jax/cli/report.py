"""What the commands print: tables for people, or one JSON object; progress goes to standard error."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from secformer_jax.inference.private import Answer
    from secformer_jax.mpc.runtime.profile import Cost

PACKAGES = ("secformer_jax", "spu", "jax", "jaxlib", "flax", "transformers", "numpy")
MEGABYTE = 1e6
Entry = dict[str, Any]
NOTHING: Entry = {"seconds": 0.0, "send_bytes": 0, "send_actions": 0}


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
            self._out.print(Text(text), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people, its first column on the left and the others on the right; nothing under --json."""
        if self.as_json:
            return
        self.say(title)
        table = Table(box=box.SIMPLE_HEAD)
        for i, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def results(self, entries: Sequence[Entry]) -> None:
        """The JSON object; nothing without --json."""
        if self.as_json:
            print(json.dumps({"results": entries, "versions": versions()}, indent=1))

    @contextmanager
    def progress(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar on standard error, moved by calls (done, total); a spinner until the first."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(
            *columns, TimeElapsedColumn(), console=self._err, transient=True, disable=not self._shows_progress
        )
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


def restart_peak_memory() -> None:
    """Let `peak_memory_bytes` count from here, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def costs(first: Answer, steady: Answer) -> Entry:
    """The cost of a request in the steady state, and under first_* that of the engine's first of this shape."""
    profile = steady.result.profile
    return {
        "seq_length": steady.seq_length,
        "seconds": steady.result.seconds,
        "compile_seconds": first.compile_seconds,
        "send_bytes": profile.total.send_bytes,
        "send_actions": profile.total.send_actions,
        "offline_bytes": steady.result.offline_bytes,
        "offline_seconds": steady.result.offline_seconds,
        "dealing_seconds": steady.result.dealing_seconds,
        "preparing_seconds": steady.result.preparing_seconds,
        "whole_seconds": steady.result.whole_seconds,
        "input_bytes": steady.result.input_bytes,
        "dealt_bytes": list(steady.result.dealt_bytes),
        "client_bytes": list(steady.result.client_bytes),
        "first_seconds": first.result.seconds,
        "first_send_bytes": first.result.profile.total.send_bytes,
        "first_send_actions": first.result.profile.total.send_actions,
        "first_offline_bytes": first.result.offline_bytes,
        "setup_send_bytes": first.result.setup.total.send_bytes,
        "by_part": _by_name(profile.by_part),
        "by_operation": _by_name(profile.by_operation),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _by_name(by_name: Mapping[str, Cost]) -> dict[str, Entry]:
    return {
        name: {"seconds": cost.seconds, "send_bytes": cost.send_bytes, "send_actions": cost.send_actions}
        for name, cost in by_name.items()
    }


WHOLE = (
    *("online s", "dealer s", "servers ahead s", "whole s"),
    *("server to server MB", "dealer to servers MB", "client to servers MB"),
)
"""Everything that a request needs: seconds by role, megabytes by link (of the servers, what rank 0 sends)."""


def whole_cells(cost: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures under `WHOLE`, as table cells; those of several servers stand side by side."""
    seconds = (f"{cost[name]:.2f}" for name in ("seconds", "dealing_seconds", "preparing_seconds", "whole_seconds"))
    to_servers = (
        " + ".join(f"{each / MEGABYTE:,.2f}" for each in cost[name]) for name in ("dealt_bytes", "client_bytes")
    )
    return (*seconds, f"{cost['send_bytes'] / MEGABYTE:,.1f}", *to_servers)


def cost_cells(cost: Mapping[str, Any], prefix: str = "") -> tuple[str, str, str]:
    """Seconds, MB sent and sends of an entry or of one of its parts, as table cells."""
    megabytes = cost[f"{prefix}send_bytes"] / MEGABYTE
    return f"{cost[f'{prefix}seconds']:.2f}", f"{megabytes:,.1f}", f"{cost[f'{prefix}send_actions']:,}"
