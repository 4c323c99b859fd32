"""The guide's own commands: blocks of a page, run in the order in which a reader runs them."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "guide").glob("*.md")))
BLOCK = re.compile(r"^```(bash|python)(?: title=\"([^\"\n]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 400


@dataclass(frozen=True)
class Block:
    """Commands of one page: in which language, where ("at S0"; "" for the reader's own machine), and what."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All of a page."""
    return [Block(*found.groups(default="")) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> list[str]:
    """Every command of ours in its bash blocks, on one line."""
    lines = "\n".join(block.text for block in blocks(page) if block.language == "bash").replace("\\\n", " ").split("\n")
    found = (re.search(r"^\s*secformer ((?:(?! 2>)[^|&;>])*)", line) for line in lines)
    return [each.group(1).strip() for each in found if each]


class Reader:
    """Runs blocks in a folder, one folder a machine; what was left running is ended at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, list[subprocess.Popen]()
        self._tools = folder / "tools"
        self._tools.mkdir()
        secformer = self._tools / "secformer"
        secformer.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m secformer_jax "$@"\n')
        # Between machines a file is copied by name: FILE... HOST:[FOLDER/]
        scp = self._tools / "scp"
        scp.write_text(
            '#!/bin/sh\nfor to; do :; done\nhost="${to%%:*}"\nwhile [ $# -gt 1 ]; do\n'
            f'  cp "$1" "{folder}/$host/${{to#*:}}" || exit 1\n  shift\ndone\n'
        )
        for tool in (secformer, scp):
            tool.chmod(0o755)

    def machine(self, title: str) -> Path:
        """The folder of a machine: "at S0", "at the dealer"; any other title is the reader's own."""
        name = title.removeprefix("at ").removeprefix("the ").lower() if title.startswith("at ") else "here"
        place = self._folder / name
        place.mkdir(exist_ok=True)
        return place

    def run(self, block: Block) -> str:
        """Run a block; returns what it printed on both streams.

        Raises:
            AssertionError: it failed.
        """
        command = ["bash", "-eu", "-c", block.text] if block.language == "bash" else [sys.executable, "-c", block.text]
        path = f"{self._tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        printed = self._folder / "printed"
        with printed.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=self.machine(block.title),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )
            self._running.append(process)
            code = process.wait(SECONDS)
        text = printed.read_text()
        assert code == 0, f"{block.text}\n{text[-3000:]}"
        return text

    def close(self) -> None:
        """End what still runs."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
