"""The tables of README.md and of docs/, from results/ and from the package's own registries.

    python experiments/pages.py [--check]

Rewrites what stands between ``<!-- table NAME: begin -->`` and ``<!-- table NAME: end -->``, for each of a page's
tables: no figure in them is typed in. With --check it writes nothing, and fails in one line where a page differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import excerpts
import readme
import reproduction
import typer
from results import ROOT, run

Tables = Mapping[str, Callable[[], list[str]]]
PAGES: dict[Path, Tables] = {
    ROOT / "README.md": readme.TABLES,
    ROOT / "docs" / "reproduction.md": reproduction.TABLES,
    **{ROOT / "docs" / name: tables for name, tables in excerpts.TABLES.items()},
}
"""By page, what makes the lines of each of its tables."""
COMMAND = "python experiments/pages.py"


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a page differs.")] = False,
) -> None:
    """Rewrite the pages' tables."""
    for path, tables in PAGES.items():
        write(path, tables, check)


def write(path: Path, tables: Tables, check: bool) -> None:
    """Rewrite one page's tables, or refuse a page that is not up to date.

    Raises:
        SystemExit: markers that don't fit; with `check`, other tables than there have to be.
    """
    text = path.read_text(encoding="utf-8")
    wanted = filled(path.name, text, tables)
    if wanted == text:
        return
    if check:
        old, new = bodies(path.name, text, tables), bodies(path.name, wanted, tables)
        names = ", ".join(name for name in new if old[name] != new[name])
        raise SystemExit(f"{path.name} is not up to date: {names}: run {COMMAND}")
    partial = path.with_suffix(".partial")
    partial.write_text(wanted, encoding="utf-8")
    partial.replace(path)


def markers(name: str) -> tuple[str, str]:
    """What a table stands between."""
    return f"<!-- table {name}: begin -->\n", f"<!-- table {name}: end -->\n"


def bodies(page: str, text: str, tables: Tables) -> dict[str, str]:
    """What stands between the markers of each table.

    Raises:
        SystemExit: markers that are missing, there twice, in the wrong order or of no table.
    """
    found = {}
    for name in tables:
        begin, end = markers(name)
        counts = text.count(begin), text.count(end)
        if counts != (1, 1) or text.index(begin) > text.index(end):
            told = f"{counts[0]} begin and {counts[1]} end"
            raise SystemExit(f"{page}: markers of the table {name}: {told}, and one pair in this order was expected")
        found[name] = text.split(begin)[1].split(end)[0]
    unknown = sorted(set(re.findall(r"<!-- table (.*?): (?:begin|end) -->", text)) - set(tables))
    if unknown:
        raise SystemExit(f"{page}: markers of {', '.join(unknown)}, and the tables are {', '.join(tables)}")
    return found


def filled(page: str, text: str, tables: Tables) -> str:
    """A page's text with every table as it has to be."""
    for name, old in bodies(page, text, tables).items():
        begin, end = markers(name)
        text = text.replace(f"{begin}{old}{end}", begin + "\n".join(tables[name]()) + "\n" + end)
    return text


if __name__ == "__main__":
    run(main)
