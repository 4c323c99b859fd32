"""How seconds, bytes and messages grow with the tokens, the layers and the texts of a batch.

    python experiments/scaling.py [--axis tokens ...] [--side fast ...] [--fresh] [--quick]

BERT-base's layers with random weights and MiniLM's ranges (see efficiency.py), the encoder alone, steady state, SEMI2K:
tokens 16 to 512 with one layer and one text; layers 1 to 24 and texts 1 to 16 at 32 tokens. Exponents are fitted in
log-log scale: the slope of a straight line through all points, and of the last two. Bytes of fast have to be linear in
layers and texts. Writes results/scaling.json, .md and .png.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import efficiency
import matplotlib
import numpy as np
import typer
from efficiency import Case, of, shown
from results import FOLDER, Check, Entry, Results, console, run, table
from rich.progress import Progress

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BASE = Case("bert-base", 1, 32, vocab_size=1024)
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "tokens": ("length", (16, 32, 64, 128, 256, 512)),
    "layers": ("layers", (1, 2, 4, 8, 16, 24)),
    "texts": ("batch", (1, 2, 4, 8, 16)),
}
SIDES = ("fast", "drop-in", "puma")
LINEAR, LEAST, MOST = ("layers", "texts"), 0.95, 1.05
"""Axes on which the bytes of fast are linear: what their exponent is within."""


def main(
    axis: Annotated[list[str] | None, typer.Option(help=", ".join(AXES))] = None,
    side: Annotated[list[str] | None, typer.Option(help=", ".join(SIDES))] = None,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure what is missing and print the tables."""
    results = Results("scaling", folder, fresh=fresh)
    sides = side or (SIDES[:1] if quick else SIDES)
    jobs = [(one, name) for chosen in axis or AXES for one in cases(chosen, quick).values() for name in sides]
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=len(jobs))
        for one, name in jobs:
            progress.update(bar, description=one.key(name))
            results.cell(one.key(name), functools.partial(efficiency.measure, one, name))
            progress.advance(bar)
    found = curves(results.cells, quick)
    checks = list(required(found))
    results.publish(console(), [growth_table(chosen, found) for chosen in AXES], checks)
    plot(found, folder / "scaling.png")
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def curves(cells: Mapping[str, Entry], quick: bool = False) -> dict[tuple[str, str], dict[int, Entry]]:
    """The cells that are measured, by axis and side and then by size."""
    found = {
        (axis, side): {size: cells[one.key(side)] for size, one in cases(axis, quick).items() if one.key(side) in cells}
        for axis in AXES
        for side in SIDES
    }
    return {key: points for key, points in found.items() if points}


def cases(axis: str, quick: bool) -> dict[int, Case]:
    """The cases of an axis, by their size on it."""
    field, sizes = AXES[axis]
    base = Case("tiny", 1, 16, real_ranges=False) if quick else BASE
    sizes = {"tokens": (16, 32), "layers": (1, 2), "texts": (1, 2)}[axis] if quick else sizes
    changes: dict[int, dict[str, Any]] = {size: {field: size} for size in sizes}
    return {size: dataclasses.replace(base, **changed) for size, changed in changes.items()}


def growth_table(axis: str, curves: dict[tuple[str, str], dict[int, Entry]]) -> Any:
    """Each side's encoder over one axis, and how each quantity grows at its end."""
    columns = (axis, "side", "seconds", "MB sent", "sends", "offline MB", "peak GB")
    rows = []
    for (chosen, side), points in curves.items():
        if chosen != axis:
            continue
        for size, e in points.items():
            figures = [shown(quantity, of(e, "encoder", quantity)) for quantity in efficiency.QUANTITIES]
            rows.append([f"{size}", side, *figures, f"{e['offline_bytes'] / 1e6:,.1f}", _gigabytes(e)])
        for title, used in (("exponent", points), ("of the last two", dict(list(points.items())[-2:]))):
            if len(used) > 1:
                exponents = [f"{exponent(used, quantity):.2f}" for quantity in efficiency.QUANTITIES]
                rows.append([title, side, *exponents, "", ""])
    return table(f"The encoder by {axis}", columns, rows, text_columns=2)


def _gigabytes(entry: Entry) -> str:
    return f"{entry['peak_memory_bytes'] / 1e9:.1f}"


def exponent(points: dict[int, Entry], quantity: str) -> float:
    """Slope of the straight line that fits all points best, in log-log scale."""
    slope, _ = np.polyfit(np.log(list(points)), np.log([of(e, "encoder", quantity) for e in points.values()]), 1)
    # Of equal figures it is 0, and rounding may have made it less.
    return abs(float(slope)) if abs(slope) < 1e-6 else float(slope)


def required(curves: dict[tuple[str, str], dict[int, Entry]]) -> Iterator[Check]:
    """Bytes of fast grow with the layers and the texts as a straight line through 0 does."""
    for axis in LINEAR:
        points = curves.get((axis, "fast"), {})
        if len(points) > 1:
            found = exponent(points, "send_bytes")
            yield Check(f"exponent of fast's bytes in the {axis}", found, LEAST, at_least=True)
            yield Check(f"exponent of fast's bytes in the {axis}", found, MOST)


def plot(curves: dict[tuple[str, str], dict[int, Entry]], path: Path) -> None:
    """One row an axis, one column a quantity."""
    figure, axes = plt.subplots(3, 3, figsize=(12, 10), layout="constrained")
    for row, chosen in enumerate(AXES):
        for column, quantity in enumerate(efficiency.QUANTITIES):
            for (axis, side), points in curves.items():
                if axis == chosen:
                    unit = 1e6 if quantity == "send_bytes" else 1
                    values = [of(e, "encoder", quantity) / unit for e in points.values()]
                    axes[row, column].loglog(list(points), values, marker="o", label=side)
                    axes[row, column].set_xticks(list(points), [str(size) for size in points])
                    axes[row, column].minorticks_off()
            label = {"seconds": "seconds", "send_bytes": "MB sent", "send_actions": "sends"}[quantity]
            axes[row, column].set(xlabel=chosen, ylabel=label)
    axes[0, 0].legend(fontsize="small")
    figure.suptitle("The encoder of BERT-base's layers, SEMI2K")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
