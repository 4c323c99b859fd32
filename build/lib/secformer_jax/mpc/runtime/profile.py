"""Costs as SPU reports them: the one place that reads its log.

SPU prints what a run cost only in its log. The log goes to a private file; each executable is named after the part of
the model that it computes, so that its report is attributed without guessing. Figures are those of one party.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spu import libspu

_EXECUTION = re.compile(r"SPU execution (\S+) completed.*total time ([\d.e+-]+)s")
_OPERATION = re.compile(
    r"- (pphlo\.[\w.: ]+), executed (\d+) times, duration ([\d.e+-]+)s, send bytes (\d+) .*send actions (\d+),"
)
_LINK = re.compile(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)")


@dataclass
class Cost:
    """What one party spends: wall seconds, bytes it sends, messages it sends (SPU's send actions)."""

    seconds: float = 0.0
    send_bytes: int = 0
    send_actions: int = 0

    def add(self, other: Cost) -> None:
        """Add another cost to this one."""
        self.seconds += other.seconds
        self.send_bytes += other.send_bytes
        self.send_actions += other.send_actions


@dataclass
class Profile:
    """Cost of a run in total, by part of the model and by SPU operation."""

    total: Cost = field(default_factory=Cost)
    by_part: dict[str, Cost] = field(default_factory=dict)
    by_operation: dict[str, Cost] = field(default_factory=dict)

    def add(self, other: Profile) -> None:
        """Add another profile to this one."""
        self.total.add(other.total)
        for own, others in ((self.by_part, other.by_part), (self.by_operation, other.by_operation)):
            for name, cost in others.items():
                own.setdefault(name, Cost()).add(cost)

    def add_own(self, part: str, operation: str, cost: Cost) -> None:
        """Add what a party did outside SPU."""
        for total in (
            self.total,
            self.by_part.setdefault(part, Cost()),
            self.by_operation.setdefault(operation, Cost()),
        ):
            total.add(cost)


@functools.cache
def log_file() -> Path:
    """The file that SPU logs to in this process: made on the first call, removed at exit."""
    folder = tempfile.mkdtemp(prefix="secformer-spu-log-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = str(Path(folder) / "spu.log")
    libspu.logging.setup_logging(options)
    return Path(options.system_log_path)


class LogReader:
    """Reads what SPU has logged since the last call."""

    def __init__(self) -> None:
        self._offset = log_file().stat().st_size

    def lines(self) -> list[str]:
        """The complete lines logged since the last call."""
        with log_file().open("rb") as log:
            log.seek(0, 2)
            # SPU starts a new file when this one is full: then read that from its start.
            log.seek(self._offset if log.tell() >= self._offset else 0)
            text = log.read()
            self._offset = log.tell()
        return text.decode(errors="replace").splitlines()


def parse(lines: Iterable[str], tag: str = "") -> Profile:
    """Build a profile from the log of a party that profiles.

    Args:
        lines: of the log; with a tag, what stands before the first execution is another runtime's.
        tag: ends the names of this party's executables; the rest of a name is the part.
    """
    profile = Profile()
    part = Cost()
    own = not tag
    for line in lines:
        match = _EXECUTION.search(line)
        if match:
            own = match[1].endswith(tag)
        if not own:
            continue
        if match:
            part = profile.by_part.setdefault(match[1].removesuffix(tag), Cost())
            part.seconds += float(match[2])
            profile.total.seconds += float(match[2])
        elif match := _OPERATION.search(line):
            cost = Cost(float(match[3]), int(match[4]), int(match[5]))
            profile.by_operation.setdefault(match[1].removeprefix("pphlo."), Cost()).add(cost)
        elif match := _LINK.search(line):
            cost = Cost(0.0, int(match[1]), int(match[2]))
            part.add(cost)
            profile.total.add(cost)
    return profile
