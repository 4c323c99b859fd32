"""docs/commands.md, the reference of every command of `secformer`, from the options that the commands have.

    python experiments/reference.py                     # write it
    python experiments/reference.py --check             # fail where it is not what the commands say

Read from click's own objects, not from what a terminal shows, so that it is the same everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from secformer_jax.cli.app import COMMANDS, app, command

FILE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
SHELL = ("install_completion", "show_completion")
"""Options that typer adds; what they take depends on the shell."""
INTRODUCTION = """\
Written by `python experiments/reference.py` from the commands themselves; a change is made there. `secformer COMMAND
--help` says the same in a terminal. An option without a default is left out, or does what its description says.
"""


def reference() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    commands = {name: command(name) for name in COMMANDS}
    parts = ["# Commands\n", INTRODUCTION, f"## secformer\n\n{root.help}\n"]
    parts += [_table(("command", "what it does"), [(_code(name), line) for name, line in COMMANDS.items()])]
    parts += [options(root)]
    for name, each in commands.items():
        parts += [f"## secformer {name}\n", f"{_help(each)}\n", options(each)]
    return "\n".join(parts)


def options(command: click.Command) -> str:
    """The table of a command's options, in the order of its --help."""
    rows = [row(each) for each in command.params if isinstance(each, click.Option) and each.name not in SHELL]
    return _table(("option", "type", "default", "description"), rows)


def row(option: click.Option) -> tuple[str, str, str, str]:
    """Names, type, default and help of an option."""
    names = " / ".join(_code(name) for name in (*option.opts, *option.secondary_opts))
    kind = "flag" if option.is_flag else option.type.name.strip("<>")
    return names, f"{kind}, repeatable" if option.multiple else kind, _default(option), option.help or ""


def _default(option: click.Option) -> str:
    value = option.default
    if option.required:
        return "required"
    if option.is_flag:  # One with two names is on or off; any other is off.
        return _code((option.opts if value else option.secondary_opts)[0]) if option.secondary_opts else ""
    if value in (None, ""):
        return ""
    return _code(f"{value:g}" if isinstance(value, float) else str(value))


def _help(command: click.Command) -> str:
    return " ".join((command.help or "").split())


def _code(text: str) -> str:
    return f"`{text}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main(
    check: Annotated[bool, typer.Option("--check", help="Compare it with what there is; write nothing.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The file.")] = FILE,
) -> None:
    """Write the reference of all commands, or compare."""
    page = reference()
    if not check:
        out.write_text(page, encoding="utf-8")
    elif not out.is_file() or out.read_text(encoding="utf-8") != page:
        print(f"{out} is not what the commands say: run python experiments/reference.py", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
