"""From Puma to fast, one change a row: what each idea brings on one runtime, and what it costs in accuracy.

    python experiments/ablation.py [--case base-128] [--row puma ...] [--fresh] [--quick]

First cumulatively: resident weights; then SecFormer's three ideas (GeLU by an opening, 2Quad, Goldschmidt's method for
its division and for LayerNorm); GeLU without comparisons; at last everything by openings, in narrow rings. Then each of
the three ideas alone in Puma's place. Costs of the encoder as in efficiency.py; seconds on networks by network.py's
formula. Accuracy: Pearson on STS-B's dev set of all-MiniLM-L6-v2's vectors, in plaintext and not distilled, which 2Quad
needs; the mean of five GLUE tasks with distilled students is results/accuracy.json's, for the sides that it has.
Writes results/ablation.json, .md and .png.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any

import efficiency
import matplotlib
import numpy as np
import typer
from accuracy import TABLE_2
from efficiency import NOT_RESIDENT, QUICK, Case, shown
from efficiency_lines import of
from network import NETWORKS
from results import FOLDER, ROOT, Entry, Results, console, run, table
from rich.progress import Progress

from secformer_jax.cli.commands import evaluate as evaluate_command
from secformer_jax.cli.commands.common import Choice, Protocol
from secformer_jax.cli.report import Reporter

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OPENED_GELU, GOLDSCHMIDT_2QUAD, GOLDSCHMIDT = "fourier_segmented", "two_quad_goldschmidt", "goldschmidt"
PUMA, RESIDENT = Choice("puma"), "puma: weights resident"
CUMULATIVE = {
    NOT_RESIDENT: PUMA,
    RESIDENT: PUMA,
    "+ GeLU by one opening, two comparisons": Choice("puma", OPENED_GELU),
    "+ 2Quad": Choice("puma", OPENED_GELU, "two_quad"),
    "+ its division by Goldschmidt": Choice("puma", OPENED_GELU, GOLDSCHMIDT_2QUAD),
    "+ LayerNorm by Goldschmidt: secformer": Choice("secformer"),
    "+ GeLU without comparisons": Choice("secformer", "fourier"),
    "everything by openings, narrow rings: fast": Choice("fast"),
    "the same with softmax itself: drop-in": Choice("drop-in"),
}
ALONE = {
    "puma with GeLU by an opening": Choice("puma", OPENED_GELU),
    "puma with 2Quad": Choice("puma", None, "two_quad"),
    "puma with 2Quad, divided by Goldschmidt": Choice("puma", None, GOLDSCHMIDT_2QUAD),
    "puma with Goldschmidt's LayerNorm": Choice("puma", None, None, GOLDSCHMIDT),
}
ROWS = CUMULATIVE | ALONE
"""Every row, with its functions."""

ON = ("LAN 1 Gbit/s", "WAN 200 Mbit/s")
"""Networks whose seconds are computed."""


def main(
    case: Annotated[str, typer.Option(help=", ".join(efficiency.CASES))] = "base-128",
    row: Annotated[list[str] | None, typer.Option(help="rows that hold this text; all by default")] = None,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model, no accuracy: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
    data_dir: Annotated[Path, typer.Option(help="of GLUE, for accuracy")] = ROOT / ".." / "shared" / "glue",
) -> None:
    """Measure what is missing, print and write."""
    one = QUICK["tiny-16"] if quick else efficiency.CASES[case]
    chosen = [name for name in ROWS if row is None or any(text in name for text in row)]
    results = Results("ablation", folder, fresh=fresh)
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=len(chosen))
        for name in chosen:
            progress.update(bar, description=name)
            results.cell(one.key(name), functools.partial(efficiency.measure, one, name, ROWS[name].approximations()))
            if not quick and data_dir.is_dir():
                results.cell(f"STS-B, {name}", functools.partial(pearson, ROWS[name], data_dir))
            progress.advance(bar)
    tables = [
        ablation_table(title, one, results.cells, rows, folder)
        for title, rows in (("from Puma to fast", CUMULATIVE), ("one idea in Puma's place", ALONE))
    ]
    results.publish(console(), tables)
    plot(one, results.cells, folder / "ablation.png")


def pearson(choice: Choice, data_dir: Path) -> Entry:
    """Of cosine similarities with the labels, in plaintext, with the model's own weights."""
    (row,) = evaluate_command.run(
        Reporter(True),
        model="minilm",
        names=["STS-B"],
        data_dir=data_dir,
        runtime="plaintext",
        choice=choice,
        protocol=Protocol(),
        calibration=None,
        limit=None,
        batch_size=16,
        max_length=128,
        truncate=True,
    )
    return {"pearson": row["metric"], "metric_name": row["metric_name"]}


def ablation_table(title: str, case: Case, cells: dict[str, Entry], rows: dict[str, Choice], folder: Path) -> Any:
    """One row a change: costs of the encoder, bytes compared with Puma's (resident weights), errors and accuracy."""
    found = {name: cells[case.key(name)] for name in rows if case.key(name) in cells}
    puma = cells.get(case.key(RESIDENT))
    lines: list[list[str]] = []
    for name, e in found.items():
        costs = {quantity: of(e, "encoder", quantity) for quantity in efficiency.QUANTITIES}
        line = [name, *(shown(quantity, value) for quantity, value in costs.items())]
        line += [f"{e['whole_seconds']:.1f}"]
        line += [f"{on_network(costs, network):.1f}" for network in ON]
        line += [f"{of(puma, 'encoder', 'send_bytes') / costs['send_bytes']:.2f}" if puma else ""]
        line += [f"{e['same_functions_max_abs_error']:.4f}"]
        accuracy = cells.get(f"STS-B, {name}")
        lines.append([*line, f"{100 * accuracy['pearson']:.1f}" if accuracy else "", distilled(rows[name], folder)])
    columns = ("", "seconds", "MB sent", "sends", "whole s", *(f"{network}, s" for network in ON), "times fewer bytes")
    columns = (*columns, "error", "STS-B, not distilled", "GLUE, distilled")
    return table(f"{title}: {case.key('').rstrip(', ')}", columns, lines)


def on_network(costs: dict[str, float], network: str) -> float:
    """Seconds of the encoder: compute here, and bytes and messages by the formula."""
    return costs["seconds"] + NETWORKS[network].seconds(costs["send_bytes"], costs["send_actions"])


def distilled(choice: Choice, folder: Path) -> str:
    """100 times the mean of Table 2's tasks in results/accuracy.json, where the row is a side of it."""
    path = folder / "accuracy.json"
    if choice != Choice(choice.preset) or not path.is_file():
        return ""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = [cells.get(f"{choice.preset}/{task}/0", {}).get("emulated") for task in TABLE_2]
    return "" if None in found else f"{100 * np.mean(found):.1f}"


def plot(case: Case, cells: dict[str, Entry], path: Path) -> None:
    """Bars of every row: seconds, bytes, sends of the encoder."""
    found = {name: cells[case.key(name)] for name in ROWS if case.key(name) in cells}
    labels = {"seconds": "seconds", "send_bytes": "MB sent", "send_actions": "sends"}
    figure, axes = plt.subplots(1, 3, figsize=(15, 0.6 + 0.4 * len(found)), layout="constrained", sharey=True)
    for axis, (quantity, label) in zip(axes, labels.items(), strict=True):
        values = [of(e, "encoder", quantity) / (1e6 if quantity == "send_bytes" else 1) for e in found.values()]
        axis.barh(list(found), values)
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    figure.suptitle(f"Encoder: {case.key('').rstrip(', ')}")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
