"""SecFormer's and Puma's nonlinear functions on CrypTen, where SecFormer's paper has them, and here: in one run.

    pip install '.[peers]' && pip install --no-deps crypten==0.4.1      # here, or into an environment of its own
    python experiments/peers/crypten_operators.py [--crypten-python ENV/bin/python] [--rows 128 ...]
        [--function gelu ...] [--fresh] [--quick]

GeLU rows x 3072, softmax 12 x rows x rows, LayerNorm's inverse square root rows x 1: inputs and this project's side are
those of experiments/operators.py (SEMI2K, parties as threads that send nothing over a socket). CrypTen's two parties
and its trusted third party are processes with TCP on the loopback. That favours this project's seconds; bytes and
messages do not depend on it.

Seconds: median of 3 runs after a warm-up. "Ahead" is on CrypTen the filling of its own tuple cache and the dealing of
sines (SecFormer's Pi_Sin, which its third party is extended by), and here the dealing and the servers' work for masked
openings. SPU deals for its own products within "seconds". So ratios are of both together.

CrypTen counts, for a party, 8 bytes for each number that it sends and for each that it receives, and a round for each
collective. Bytes here are half of that: what each of two parties sends, in the mean. SPU's sends are messages of one
server. Dealt: what the third party and party 0 exchange (party 1's shares follow from a seed), and for SPU what the
dealer gives the server that gets most.

Both sides have the same formulas and constants, with one exception: 2Quad's division has the paper's constants on
CrypTen (5000, 13 steps) and calibrated ones here. CrypTen has 16 fraction bits, SPU 18; it truncates without a message,
and a product z is far off with a probability of about abs(z) 2^-32. Its erf is a Taylor series, good for abs(x) up to
2; this domain goes to 11. Errors: against the function in float64 (2Quad's: 2Quad), and against the variant's own form.
Writes results/peers.json and .md.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import operators
from opened_operators import Operator
from results import FOLDER, Check, Entry, Results, console, run, table

from secformer_jax.functions import gelu
from secformer_jax.functions.calibration import Range
from secformer_jax.functions.deflation import choose_rsqrt
from secformer_jax.mpc.int64 import enable_x64

PARTY = Path(__file__).with_name("crypten_party.py")
INSTALL = "pip install '.[peers]' && pip install --no-deps crypten==0.4.1"
ROWS = (32, 128)
RUNS, TIMEOUT = 3, 600
CONFIG = "2pc_semi2k"
COMPARED = {
    "gelu secformer": ("fourier_segmented", "opened"),
    "gelu puma": ("puma", "opened"),
    "gelu tanh": ("exact", "opened"),
    "gelu erf": ("exact",),
    "softmax secformer": ("two_quad_goldschmidt", "opened two_quad"),
    "softmax puma": ("puma", "opened exact"),
    "softmax default": ("exact", "opened exact"),
    "rsqrt secformer": ("goldschmidt", "opened"),
    "rsqrt default": ("spu", "opened"),
}
"""CrypTen's variants, and what this project has beside each: the same function, and what fast and drop-in do. An opened
softmax has both products of the attention in its costs."""
QUICK = {"gelu secformer", "softmax puma", "rsqrt secformer"}
CLOSE, FAR_SHARE = 0.002, 0.01
"""How far a value may be from its variant's own form, and the share of values that may be further off."""
Case = tuple[Operator, operators.Truth]


def main(
    rows: Annotated[list[int] | None, typer.Option()] = None,
    function: Annotated[list[str] | None, typer.Option(help="gelu, softmax, rsqrt")] = None,
    crypten_python: Annotated[
        Path, typer.Option(envvar="CRYPTEN_PYTHON", help="the interpreter that has CrypTen")
    ] = Path(sys.executable),
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="one small size: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure both sides, print the tables and the ratios."""
    versions = crypten_versions(crypten_python)
    results, out = Results("peers", folder, fresh=fresh), console()
    chosen = [key for key in COMPARED if (key in QUICK if quick else key.split()[0] in (function or key))]
    for size in [16] if quick else sorted(rows or ROWS):
        for kind in dict.fromkeys(key.split()[0] for key in chosen):
            cases = {name.split(",")[0]: (operator, truth) for name, operator, truth in operators.cases(kind, size)}
            for key in (key for key in chosen if key.startswith(f"{kind} ")):
                variant, against = key.split()[1], COMPARED[key]
                for name in against:
                    with out.status(f"{kind} {size} rows, {name}"):
                        measure = functools.partial(operators.measure, CONFIG, *cases[name])
                        results.cell(f"{kind} {size} {name}, SPU", measure)
                with out.status(f"{kind} {size} rows, {variant} on CrypTen"):
                    measure = functools.partial(on_crypten, crypten_python, key, cases[against[0]])
                    results.cell(f"{kind} {size} {variant}, CrypTen", measure)
    side = f"CrypTen {versions['crypten']} on torch {versions['torch']}, its trusted third party; SPU: SEMI2K"
    tables = [costs_table(side, results.cells), ratio_table(results.cells)]
    checks = list(same_functions(results.cells))
    results.publish(out, tables, checks, crypten_versions=versions)
    raise typer.Exit(int(not all(check.holds for check in checks)))


def crypten_versions(python: Path) -> dict[str, str]:
    """Of CrypTen and torch, as that interpreter has them.

    Raises:
        Exit: with status 2 and one line that says what is missing.
    """
    try:
        done = subprocess.run([python, PARTY, "--check"], capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        reason = done.stderr.strip().rpartition("\n")[2]
    except OSError as error:
        reason = error.strerror or str(error)
    print(
        f"CrypTen does not run in {python} ({reason}): {INSTALL}, or name another by --crypten-python", file=sys.stderr
    )
    raise typer.Exit(2)


def constants(key: str) -> Entry:
    """What the variant's function takes, as secformer_jax/functions has it."""
    if key == "gelu secformer":
        series = gelu.SEGMENT_SERIES
        rescale = series.high / gelu.SECFORMER_SINE.high * math.sqrt(0.5)
        return {"rescale": rescale, "limit": series.high, "period": series.period, "coefficients": series.sin}
    if key == "gelu puma":
        return {"cubic": gelu._PUMA_CUBIC, "sextic": gelu._PUMA_SEXTIC}
    if key == "softmax secformer":
        return {"deflation": 5000.0, "steps": 13}
    if key == "rsqrt secformer":
        deflation, steps = choose_rsqrt(Range(0.1, 10.0))
        return {"deflation": deflation, "steps": steps}
    return {}


def on_crypten(python: Path, key: str, case: Case) -> Entry:
    """Costs and errors of CrypTen's variant, on the inputs of this project's own of the same function."""
    operator, truth = case
    # The two parties share the cores; the third party waits while they compute.
    threads = max(1, (os.cpu_count() or 2) // 2)
    job = {"function": key, "constants": constants(key), "runs": RUNS, "threads": threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", *operator.inputs)
        (folder / "job.json").write_text(json.dumps(job))
        take_part(python, folder)
        value = np.load(folder / "value.npy").astype(np.float64)
        parties = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    ours, theirs = ({name: runs[-1][name] for name in ("bytes", "rounds")} for runs in parties)
    if ours != theirs:
        raise SystemExit(f"{key}: party 0 counted {ours} and party 1 {theirs}: something was dealt while they computed")
    entry: Entry = {"shape": list(operator.plain[0].shape), "runs": RUNS, "threads": threads}
    for prefix, quantity in (("", "seconds"), ("ahead_", "offline_seconds")):
        slower = [max(run[f"{prefix}seconds"] for run in both) for both in zip(*parties, strict=True)]
        entry[quantity] = median(slower)
    entry |= {"send_bytes": ours["bytes"] / 2, "send_actions": ours["rounds"]}
    entry["offline_bytes"] = parties[0][-1]["ahead_bytes"]
    with enable_x64():
        exact, own = (np.asarray(form(*operator.plain)) for form in (truth, operator.own_form or truth))
    for name, form in (("", exact), ("own_form_", own)):
        error = np.abs(value - form)
        entry |= {f"{name}max_error": float(error.max()), f"{name}mean_error": float(error.mean())}
    return entry | {"far_share": float((np.abs(value - own) > CLOSE).mean())}


def take_part(python: Path, folder: Path) -> None:
    """Run the three processes to their end; none is left behind.

    Raises:
        SystemExit: one failed, with its last line, or they took too long.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in range(3):
            log = stack.enter_context((folder / f"{rank}.log").open("w"))
            process = subprocess.Popen([python, PARTY, str(rank), folder], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        end = time.monotonic() + TIMEOUT
        while any(status := [process.poll() for process in processes]) or None in status:
            for rank, code in enumerate(status):
                if code:
                    last = (folder / f"{rank}.log").read_text().strip().rpartition("\n")[2]
                    raise SystemExit(f"party {rank} ended with status {code}: {last}")
            if time.monotonic() > end:
                raise SystemExit(f"CrypTen's parties did not end within {TIMEOUT} s")
            time.sleep(0.1)


def split(key: str) -> tuple[str, str, str]:
    """A cell's function with its rows, its variant, and "CrypTen" or "SPU"."""
    words, _, side = key.partition(", ")
    kind, rows, variant = words.split(" ", 2)
    return f"{kind} {rows}", variant, side


def costs_table(title: str, cells: Mapping[str, Entry]) -> Any:
    """What was measured, both sides in one table."""
    costs = ("seconds", "ahead", "MB sent", "rounds or sends", "MB dealt")
    rows = []
    for key, e in sorted(cells.items(), key=lambda item: split(item[0])[0]):
        seconds = (f"{e[name]:.3f}" for name in ("seconds", "offline_seconds"))
        sent, dealt = (f"{e[name] / 1e6:,.3f}" for name in ("send_bytes", "offline_bytes"))
        errors = (f"{e[name]:.2g}" for name in ("max_error", "mean_error", "own_form_max_error"))
        rows.append((key, *seconds, sent, f"{e['send_actions']:,}", dealt, *errors))
    return table(title, ("", *costs, "max error", "mean", "max from own form"), rows)


def ratio_table(cells: Mapping[str, Entry]) -> Any:
    """CrypTen's costs divided by this project's."""
    rows = []
    for key, theirs in cells.items():
        place, variant, side = split(key)
        for name in COMPARED[f"{place.split()[0]} {variant}"] if side == "CrypTen" else ():
            ours = cells[f"{place} {name}, SPU"]
            ratios = [whole_seconds(theirs) / whole_seconds(ours)]
            ratios += [theirs[quantity] / ours[quantity] for quantity in ("send_bytes", "send_actions")]
            rows.append((f"{place} {variant}", name, *(f"{ratio:,.1f}" for ratio in ratios)))
    columns = ("CrypTen's", "divided by", "seconds, with ahead", "bytes sent", "rounds by sends")
    return table("CrypTen divided by this project", columns, rows, text_columns=2)


def whole_seconds(entry: Entry) -> float:
    """With what is dealt ahead."""
    return entry["seconds"] + entry["offline_seconds"]


def same_functions(cells: Mapping[str, Entry]) -> Iterator[Check]:
    """CrypTen's side computes what is compared: without this its costs would say nothing."""
    for key, entry in cells.items():
        _, variant, side = split(key)
        if side == "CrypTen" and variant in ("secformer", "puma"):
            yield Check(f"{key}: share of values off by over {CLOSE}", entry["far_share"], FAR_SHARE)


if __name__ == "__main__":
    run(main)
