"""Each nonlinear function alone, every variant, sizes swept: SecFormer's Figures 5 to 9.

    python experiments/operators.py [--function gelu ...] [--rows 128 ...] [--config 2pc_semi2k ...] [--fresh] [--quick]

GeLU rows x 3072 over its calibrated domain; softmax 12 x rows x rows, an eighth of the keys padding; LayerNorm
rows x 768 with gamma and beta, variances from 0.14 to 130; reciprocal 12 x rows on [0.1, 1] and rsqrt on [0.1, 10].
`opened` is what presets fast and drop-in do. An opened softmax starts from queries and keys and ends with the product
with the values, so its costs are those of the whole attention, both products in them; the others' are those of the
softmax alone. Probabilities are read out with the identity as values. Then the opened ones and Puma's on what
all-MiniLM-L6-v2 really has at every place, on sentences that it was not calibrated on.

Seconds: median of 3 runs after a warm-up (one run where that took over 10 s; a size is left out where the one before
took over 20 s). Errors: against the function in float64 (for 2Quad, 2ReLU and so on: against their own formula; for
Quad: GeLU), and against the variant's own plaintext form. Writes results/operators.json and .png.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import jax
import matplotlib
import numpy as np
import opened_operators as opened
import typer
from opened_operators import Operator
from results import FOLDER, Check, Entry, Results, console, run, table
from rich.progress import Progress
from scipy.special import erf

from secformer_jax.functions import calibration as calibrate
from secformer_jax.functions import goldschmidt, presets
from secformer_jax.functions.deflation import choose_reciprocal, choose_rsqrt
from secformer_jax.functions.measure import update
from secformer_jax.models import transformer as bert
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.primitives.masked import MaskedSeries
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.openings.plan import make_plan

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROWS = (16, 32, 64, 128, 256, 512)
CONFIGS = ("2pc_semi2k", "3pc_aby3")
QUANTITIES = (("send_bytes", 1e6, "MB sent"), ("seconds", 1, "seconds"))
FUNCTIONS = ("gelu", "softmax", "layer_norm", "reciprocal", "rsqrt")
REACH, HEADS, HEAD_DIM, HIDDEN = 10.0, 12, 64, 768
SLOW_SECONDS, TOO_SLOW_SECONDS = 10.0, 20.0
ONE_LAYER = bert.Architecture(num_hidden_layers=1)
Truth = Callable[..., np.ndarray]


def main(
    rows: Annotated[list[int] | None, typer.Option()] = None,
    config: Annotated[list[str] | None, typer.Option()] = None,
    function: Annotated[list[str] | None, typer.Option(help=", ".join((*FUNCTIONS, "minilm")))] = None,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="one small size, no MiniLM: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure what is missing, print the tables and the required lines."""
    results, out = Results("operators", folder, fresh=fresh), console()
    sizes = [16] if quick else sorted(rows or ROWS)
    functions = [f for f in function or FUNCTIONS if f != "minilm"]
    jobs = [(c, f) for c in (CONFIGS[:1] if quick else config or CONFIGS) for f in functions]
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=len(jobs) * len(sizes))
        for name, kind in jobs:
            too_slow: set[str] = set()
            for size in sizes:
                progress.update(bar, description=f"{name} {kind} {size} rows")
                sweep(results, name, kind, size, too_slow, quick)
                progress.advance(bar)
        if not quick and "minilm" in (function or ["minilm"]):
            progress.update(bar, description="all-MiniLM-L6-v2")
            for key, operator, truth, rows_of in opened.on_minilm(softmax_truth, layer_norm_truth):
                results.cell(f"minilm {key}", functools.partial(measure, "2pc_semi2k", operator, truth, only=rows_of))
    titles = {f"{name}: {kind}": f"{name} {kind} " for name in CONFIGS for kind in FUNCTIONS}
    titles["on all-MiniLM-L6-v2's own values, 2pc_semi2k"] = "minilm"
    tables = []
    for title, start in titles.items():
        entries = {k: e for k, e in results.cells.items() if k.startswith(start)}
        tables += [_table(title, entries)] if entries else []
    checks = list(required(results.cells))
    results.publish(out, tables, checks)
    plot(results.cells, folder / "operators.png")
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def sweep(results: Results, config: str, kind: str, rows: int, too_slow: set[str], quick: bool) -> None:
    """Every variant of a function at one size."""
    for variant, operator, truth in cases(kind, rows):
        if variant not in too_slow and (not quick or variant.startswith(("opened", "puma"))):
            entry = results.cell(
                f"{config} {kind} {rows} {variant}", functools.partial(measure, config, operator, truth)
            )
            if entry["seconds"] > TOO_SLOW_SECONDS:
                too_slow.add(variant)


def measure(config: str, operator: Operator, truth: Truth, only: np.ndarray | None = None) -> Entry:
    """Costs of a steady run, and errors (at the indices `only`)."""
    with Engine(mpc_config.load(config), part_of=bert.part_of) as engine:
        engine.publish(operator.weights, public=lambda path: path.startswith("['opened']"))
        program = engine.compile(operator.call, operator.material, *operator.inputs)

        def request() -> Any:
            return engine.run(program, operator.dealer.deal(operator.material), *operator.inputs)

        first = request()
        runs = [request() for _ in range(1 if first.seconds > SLOW_SECONDS else 3)]
    last = runs[-1]
    entry: Entry = {}
    for name, form in (("", truth), ("own_form_", operator.own_form or truth)):
        with enable_x64():
            error = np.abs(last.value - operator.read(np.asarray(form(*operator.plain))))
        error = error if only is None else error[only]
        entry |= {f"{name}max_error": float(error.max()), f"{name}mean_error": float(error.mean())}
    total = last.profile.total
    return {
        "config": config,
        "shape": list(operator.plain[0].shape),
        "seconds": median(run.seconds for run in runs),
        "runs": len(runs),
        "send_bytes": total.send_bytes,
        "send_actions": total.send_actions,
        "offline_bytes": last.offline_bytes,
        "offline_seconds": last.offline_seconds,
        **entry,
        "by_part": {
            name: [cost.seconds, cost.send_bytes, cost.send_actions] for name, cost in last.profile.by_part.items()
        },
    }


def cases(kind: str, rows: int) -> Iterator[tuple[str, Operator, Truth]]:
    """(variant, what to run, the function in float64)."""
    rng = np.random.default_rng(rows)
    x = np.linspace(-1, 1, rows * 3072).reshape(rows, 3072) * REACH * presets.GELU_MARGIN
    x = (np.rint(x * 2**18) / 2**18).astype(np.float32)
    deviations = np.sqrt(np.geomspace(0.14, 130.0, rows))[:, None]
    hidden = ((rng.normal(size=(rows, HIDDEN)) + 0.3) * deviations).astype(np.float32)
    gamma, beta = (
        rng.normal(size=HIDDEN).astype(np.float32) * 0.2 + offset for offset in (np.float32(1), np.float32(0))
    )
    q, k = (rng.normal(size=(1, HEADS, rows, HEAD_DIM)).astype(np.float32) * 1.7 for _ in range(2))
    q, mask = q / math.sqrt(HEAD_DIM), (np.arange(rows) >= rows // 8).astype(np.float32)[None]
    scores = np.einsum("bhqd,bhkd->bhqk", q, k)
    norms = dict.fromkeys(("embeddings", "layer.0.attention", "layer.0.output"), hidden[None])
    inside = x[None] / presets.GELU_MARGIN
    ranges = update(
        None,
        {f"{name}.layer_norm": value for name, value in norms.items()}
        | {"layer.0.softmax": scores, "layer.0.gelu": inside}
        | {"layer.0.query": q, "layer.0.key": k, "layer.0.value": np.ones(1)},
        mask,
    )

    def variants(registry: Any, place: str, *inputs: np.ndarray) -> Iterator[tuple[str, Operator]]:
        where = presets.Place(place, rows, 1e-12, ranges, presets.unmasked)
        private = presets.Place(place, rows, 1e-12, ranges, functools.partial(MaskedSeries, fraction_bits=18))
        for name, variant in registry.items():
            yield name, opened.alone(variant.build(private), *inputs, own_form=variant.build(where))

    if kind == "gelu":
        yield "opened", opened.gelu(make_plan(ONE_LAYER, ranges, rows).layers[0], x), gelu_truth
        for name, operator in variants(presets.GELU, "layer.0.gelu", x):
            yield name, operator, gelu_truth
    elif kind == "softmax":
        for name, formula, exact in (("two_quad", two_quad_truth, False), ("exact", softmax_truth, True)):
            plan = make_plan(ONE_LAYER, ranges, rows, exact=exact).layers[0]
            yield f"opened {name}", opened.attention(plan, q, k, mask), formula
        formulas = {"two_relu": two_relu_truth, "two_quad": two_quad_truth, "two_quad_goldschmidt": two_quad_truth}
        for name, operator in variants(presets.SOFTMAX, "layer.0.softmax", scores, mask[:, None, None, :]):
            yield name, operator, formulas.get(name, softmax_truth)
    elif kind == "layer_norm":
        layer = make_plan(ONE_LAYER, ranges, rows).layers[0]
        yield "opened", opened.layer_norm(layer.output_norm, hidden, gamma, beta, layer.feed_width), layer_norm_truth
        for name, operator in variants(presets.LAYER_NORM, "layer.0.output.layer_norm", hidden, gamma, beta):
            yield name, operator, layer_norm_truth
    else:
        yield from _row_functions(kind, rows)


def _row_functions(kind: str, rows: int) -> Iterator[tuple[str, Operator, Truth]]:
    low, high, count = (0.1, 1.0, HEADS * rows) if kind == "reciprocal" else (0.1, 10.0, rows)
    x = np.geomspace(low, high, count).astype(np.float32)[:, None]
    power, spu = (-1.0, lambda x: 1 / x) if kind == "reciprocal" else (-0.5, jax.lax.rsqrt)

    def truth(x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float64) ** power

    choose = choose_reciprocal if kind == "reciprocal" else choose_rsqrt
    deflation, steps = choose(calibrate.Range(low, high))
    iterate = functools.partial(getattr(goldschmidt, kind), deflation=deflation, steps=steps)
    yield "opened", opened.row(kind, low, high, x), truth
    yield "spu", opened.alone(spu, x), truth
    yield f"goldschmidt, {steps} steps", opened.alone(iterate, x, own_form=iterate), truth


def gelu_truth(x: np.ndarray) -> np.ndarray:
    """GeLU."""
    return x / 2 * (1 + erf(x / math.sqrt(2)))


def _distribution(numerator: Callable[[np.ndarray], np.ndarray]) -> Truth:
    def truth(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        numerators = numerator(scores - 0.0) * mask
        return numerators / numerators.sum(-1, keepdims=True)

    return truth


softmax_truth = _distribution(lambda s: np.exp(s - s.max(-1, keepdims=True)))
two_quad_truth = _distribution(lambda s: np.square(s + 5))
two_relu_truth = _distribution(lambda s: np.maximum(s, 0) + 0.01)


def layer_norm_truth(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """LayerNorm."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * gamma + beta


def required(cells: dict[str, Entry]) -> Iterator[Check]:
    """The lines that have to hold, of those measured."""
    semi2k, aby3 = ({k.split(" ", 1)[1]: e for k, e in cells.items() if k.startswith(c)} for c in CONFIGS)
    if {"gelu 128 opened", "gelu 128 puma"} <= set(semi2k):
        gelu, puma = semi2k["gelu 128 opened"], semi2k["gelu 128 puma"]
        yield from _costs("GeLU 128x3072", gelu, 8.0, 3, 0.002)
        fewer = puma["send_bytes"] / gelu["send_bytes"]
        yield Check("GeLU 128x3072: times fewer bytes than Puma", fewer, 14, at_least=True)
        yield Check("GeLU 128x3072: times faster than Puma", puma["seconds"] / gelu["seconds"], 2, at_least=True)
    if "gelu 128 opened" in aby3:
        yield from _costs("ABY3: GeLU 128x3072", aby3["gelu 128 opened"], 11.5, 5, 0.002)
    if "softmax 128 opened two_quad" in semi2k:
        yield from _costs("2Quad 12x128x128, with both products", semi2k["softmax 128 opened two_quad"], 8.7, 8, 5e-4)
    if "layer_norm 128 opened" in semi2k:
        yield from _costs("LayerNorm 128x768", semi2k["layer_norm 128 opened"], math.inf, 10, math.inf)
    if {"softmax 128 opened exact", "softmax 128 puma"} <= set(semi2k):
        ours, puma = semi2k["softmax 128 opened exact"], semi2k["softmax 128 puma"]
        name = "softmax 12x128x128, with both products"
        yield Check(f"{name}: of Puma's bytes", ours["send_bytes"] / puma["send_bytes"], 0.7)
        yield Check(f"{name}: of Puma's sends", ours["send_actions"] / puma["send_actions"], 1 / 3)
        yield Check(f"{name}: of Puma's max error", ours["max_error"] / puma["max_error"], 1.0)
    real = {k: e for k, e in cells.items() if k.startswith("minilm")}
    for name, kind, limit in (("softmax", "softmax opened", 0.002), ("LayerNorm", "layer_norm opened", 5e-3)):
        errors = [e["max_error"] for k, e in real.items() if kind in k]
        if errors:
            yield Check(f"{name} at every place of MiniLM: max error", max(errors), limit)


def _costs(name: str, entry: Entry, megabytes: float, sends: int, error: float) -> Iterator[Check]:
    for what, figure, limit in (
        ("MB", entry["send_bytes"] / 1e6, megabytes),
        ("sends", entry["send_actions"], sends),
        ("max error", entry["max_error"], error),
    ):
        if limit < math.inf:
            yield Check(f"{name}: {what}", figure, limit)


def _table(title: str, entries: dict[str, Entry]) -> Any:
    columns = ("", "seconds", "MB sent", "sends", "offline MB", "offline s", "max error", "mean", "max from own form")
    rows = []
    for key, e in sorted(entries.items(), key=lambda entry: _rows(entry[0])):
        costs = f"{e['seconds']:.3f}", f"{e['send_bytes'] / 1e6:,.2f}", f"{e['send_actions']:,}"
        errors = (f"{e[name]:.2g}" for name in ("max_error", "mean_error", "own_form_max_error"))
        offline = f"{e['offline_bytes'] / 1e6:,.1f}", f"{e['offline_seconds']:.2f}"
        rows.append((key.removeprefix(title.replace(":", "")).strip(), *costs, *offline, *errors))
    return table(title, columns, rows)


def _rows(key: str) -> int:
    """So that sizes are in order; what has none stays as it is."""
    return next((int(word.rstrip(",")) for word in key.split() if word.rstrip(",").isdigit()), 0)


def plot(cells: dict[str, Entry], path: Path) -> None:
    """Bytes and seconds over the rows, one row of plots a function, SEMI2K."""
    figure, axes = plt.subplots(len(FUNCTIONS), 2, figsize=(11, 3.2 * len(FUNCTIONS)), layout="constrained")
    for row, kind in zip(axes, FUNCTIONS, strict=True):
        series: dict[str, list[tuple[int, Entry]]] = {}
        for key, entry in cells.items():
            config, function, *rest = key.split(" ", 3)
            if (config, function) == (CONFIGS[0], kind):
                series.setdefault(rest[1].split(",")[0], []).append((int(rest[0]), entry))
        for plot, (quantity, unit, label) in zip(row, QUANTITIES, strict=True):
            for variant, points in series.items():
                xs, ys = zip(*sorted((rows, e[quantity] / unit) for rows, e in points), strict=True)
                plot.loglog(xs, ys, marker="o", label=variant)
            plot.set(title=f"{kind}: {label}", xlabel="rows")
            plot.minorticks_off()
            plot.set_xticks(xs, map(str, xs))
        row[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle("SEMI2K; an opened softmax includes both products of the attention")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
