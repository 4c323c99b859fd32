"""Bytes, sends and errors of every preset on a small shape: README.md's table, by `secformer compare` itself.

    python experiments/compare.py [--shape minilm] [--tokens 32] [--fresh] [--quick]

Random weights and tokens, one text, SEMI2K, steady state. Writes results/compare.json and .md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from results import FOLDER, Entry, Results, console, run, table

PRESETS = ("spu", "puma", "mpcformer", "secformer", "fast", "drop-in")
COLUMNS = ("preset", "MB sent", "sends", "dealt MB", "error")


def main(
    shape: Annotated[str, typer.Option(help="of the model")] = "minilm",
    tokens: Annotated[int, typer.Option(help="padded length")] = 32,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Compare, print and write."""
    results = Results("compare", folder, fresh=fresh)
    shape, tokens = ("tiny", 16) if quick else (shape, tokens)
    cell = results.cell(f"{shape}, {tokens} tokens", lambda: compared(shape, tokens))
    title = f"{shape}, one text of {tokens} tokens, random weights, SEMI2K"
    results.publish(console(), [table(title, COLUMNS, rows(cell))])


def compared(shape: str, tokens: int) -> Entry:
    """What the command says, by preset."""
    command = [sys.executable, "-m", "secformer_jax", "compare", "--shape", shape, "--presets", ",".join(PRESETS)]
    command += ["--max-length", str(tokens), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {entry["preset"]: entry for entry in json.loads(done.stdout)["results"]}


def rows(cell: Entry) -> list[list[str]]:
    """A line of each preset."""
    found = []
    for name in PRESETS:
        e = cell[name]
        sent, dealt = (f"{e[key] / 1e6:.1f}" for key in ("send_bytes", "offline_bytes"))
        found.append([name, sent, f"{e['send_actions']:,}", dealt, f"{e['same_functions_max_abs_error']:.4f}"])
    return found


if __name__ == "__main__":
    run(main)
