"""A thousand random kills of every role of a cluster, two clients asking: nothing hangs, nothing is wrong.

    python experiments/kills.py [--count 1000] [--at-once 2] [--fresh]

SIGKILL to a server, a worker, the dealer, a client or an owner who publishes, at a random moment. Hours: a cell has 20
kills on a cluster of its own, and a later run goes on where this one stopped. Writes results/kills.json and .md.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import typer
from cluster_faults import LIMIT_SECONDS, ROLES, kills
from results import FOLDER, Check, Results, console, run, table

TOGETHER = 20


def main(
    count: Annotated[int, typer.Option(help="kills in all, by twenties")] = 1000,
    at_once: Annotated[int, typer.Option(help="clusters beside each other")] = 2,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Kill, look, print and write."""
    results, out = Results("kills", folder, fresh=fresh), console()
    names = {first: f"kills {first} to {first + TOGETHER - 1}" for first in range(0, count, TOGETHER)}
    with ProcessPoolExecutor(at_once) as pool:
        missing = {first: name for first, name in names.items() if fresh or name not in results.cells}
        ahead = {pool.submit(kills, first, TOGETHER): name for first, name in missing.items()}
        for done, future in enumerate(as_completed(ahead), len(names) - len(missing) + 1):
            # What a cell raises ends this run, and the cells that have been measured stay.
            try:
                results.cell(ahead[future], future.result)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            out.print(f"{done * TOGETHER} of {count}")
    trials = [trial for cell in results.cells.values() for trial in cell["trials"]]
    rows = []
    for role in ROLES:
        own = [trial for trial in trials if trial["role"] == role]
        reported, recovered = (
            [f"{max((trial[f'{what}_seconds'] for trial in own), default=0):.1f}"] for what in ("report", "recovery")
        )
        rows.append([role, str(len(own)), str(sum(bool(trial["failure"]) for trial in own)), *reported, *recovered])
    columns = ("role", "kills", "failures", "most seconds to report", "most seconds to recover")
    failures = Counter(trial["failure"] for trial in trials if trial["failure"])
    tables = [table("Random kills, two clients asking", columns, rows)]
    if failures:
        tables.append(table("Failures", ("what", "times"), [(text[:100], str(n)) for text, n in failures.items()]))
    checks = [
        Check("kills", len(trials), count, at_least=True),
        Check("hangs, wrong answers and other failures", sum(failures.values()), 0),
        Check("pieces of material used twice", sum(cell["pieces_twice"] for cell in results.cells.values()), 0),
        Check("most seconds to recover", max(trial["recovery_seconds"] for trial in trials), LIMIT_SECONDS),
    ]
    results.publish(out, tables, checks)
    raise typer.Exit(int(not all(check.holds for check in checks)))


if __name__ == "__main__":
    run(main)
