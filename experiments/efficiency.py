"""Where the seconds, bytes and messages of a private BERT go, for every preset in one run: SecFormer's Table 3.

    python experiments/efficiency.py [--case base-128 ...] [--side fast ...] [--fresh] [--quick]

Random weights and tokens (costs don't depend on values), one text. Public constants are those of real ranges: the
random model's joined with all-MiniLM-L6-v2's, layer by layer, so that periods, harmonics and squarings are what a
trained model needs. Weights stay resident on every side (Puma also without). Figures are rank 0's in the second
request; embedding and head stand apart; what the dealer sent ahead stands beside. `linear` is the floor: the same
graph with every nonlinear function replaced by the identity. Cases with fewer layers than the model say so.
Writes results/efficiency.json and .png.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import matplotlib
import numpy as np
import typer
from efficiency_lines import BASE, COLUMNS, layer, of, ratio, required
from results import FOLDER, Check, Entry, Results, console, run, table
from rich.progress import Progress

from secformer_jax.cli.commands.compare import random_sentences
from secformer_jax.cli.costs import WHOLE, costs, restart_peak_memory, whole_cells
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.presets import Approximations, Variant
from secformer_jax.inference.private import Plaintext, PrivateModel
from secformer_jax.models import checkpoint
from secformer_jax.models import transformer as bert
from secformer_jax.models.calibrate import calibrate_model, calibration_sentences
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded, Tokenizer

matplotlib.use("Agg")
from matplotlib import pyplot as plt

QUANTITIES = ("seconds", "send_bytes", "send_actions")
NOT_RESIDENT = "puma, weights not resident"


@dataclasses.dataclass(frozen=True)
class Case:
    """A model's shape with this many layers, a padded length, a protocol.

    Attributes:
        real_ranges: join MiniLM's ranges to the model's own.
        vocab_size: None for the shape's own.
    """

    shape: str
    layers: int
    length: int
    config: str = "2pc_semi2k"
    batch: int = 1
    real_ranges: bool = True
    vocab_size: int | None = None

    def key(self, side: str) -> str:
        """The name of a cell."""
        return f"{self.shape}, {self.layers} layers, {self.batch} x {self.length} tokens, {self.config}, {side}"


CASES = {
    "base-128": Case("bert-base", 12, 128),
    "base-512": Case("bert-base", 12, 512),
    "large-128": Case("bert-large", 24, 128),
    "large-512": Case("bert-large", 2, 512),
    "base-128-aby3-whole": Case("bert-base", 12, 128, "3pc_aby3"),
    "base-32-cheetah": Case("bert-base", 1, 32, "2pc_cheetah", vocab_size=1024),
    "base-128-aby3": Case("bert-base", 2, 128, "3pc_aby3"),
    "base-128-two-layers": Case("bert-base", 2, 128),
}
MODELS = ("base-128", "base-512", "large-128", "large-512")
"""Two servers and a dealer. BERT-large with 128 tokens takes up to 23 GB: with 512 it has two layers."""
THREE_SERVERS = {"ABY3": "base-128-aby3", "SEMI2K, the third server deals": "base-128-two-layers"}
"""The same trust: of three servers, no two combine what they hold."""
QUICK = {"tiny-16": Case("tiny", 2, 16, real_ranges=False)}


def _linear() -> Approximations:
    def gelu(x: jax.Array) -> jax.Array:
        return x

    def softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
        return scores

    def layer_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        return x

    def variant(function: Callable) -> Variant:
        return Variant("none", lambda place: function)

    return Approximations(variant(gelu), variant(softmax), variant(layer_norm))


SIDES: dict[str, Approximations] = {
    "fast": presets.preset("fast"),
    "puma": presets.preset("puma"),
    "drop-in": presets.preset("drop-in"),
    "linear": _linear(),
    NOT_RESIDENT: presets.preset("puma"),
    "mpcformer": presets.preset("mpcformer"),
    "secformer": presets.preset("secformer"),
    "spu": presets.preset("spu"),
}


def main(
    case: Annotated[list[str] | None, typer.Option(help=", ".join(CASES))] = None,
    side: Annotated[list[str] | None, typer.Option(help=", ".join(SIDES))] = None,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure what is missing, print the tables and the required lines."""
    cases = QUICK if quick else {name: CASES[name] for name in case or CASES}
    results, out = Results("efficiency", folder, fresh=fresh), console()
    sides = side or (["fast", "puma", "linear"] if quick else list(SIDES))
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=len(cases) * len(sides))
        for case_name in cases:
            for name in sides:
                one = cases[case_name]
                progress.update(bar, description=one.key(name))
                results.cell(one.key(name), functools.partial(measure, one, name))
                progress.advance(bar)
    checks: list[Check] = []
    tables = []
    for name, one in (QUICK if quick else CASES).items():
        entries = {each: results.cells[key] for each in SIDES if (key := one.key(each)) in results.cells}
        if entries:
            # What made these rows; the page names only the command that wrote it last.
            title = f"{one.key('').rstrip(', ')} ({'--quick' if quick else f'--case {name}'})"
            tables += [cost_table(title, entries, quantity) for quantity in QUANTITIES]
            whole = {each: entry for each, entry in entries.items() if "whole_seconds" in entry}
            tables += [whole_table(title, whole, whole.get("puma"))] if whole else []
            plot(one, entries, folder / f"efficiency_{name}.png")
            checks += required(name, entries, *base_ratio(results.cells, one.layers))
    tables += three_servers(results.cells)
    results.publish(out, tables, checks, columns=COLUMNS)
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def base_ratio(cells: dict[str, Entry], layers: int) -> list[float]:
    """How many times fewer bytes `fast` has than Puma for BERT-base with 128 tokens, if that is measured.

    With as many layers, or with all: rings follow from ranges, and those of the first layers are wider.
    """
    for case in (dataclasses.replace(CASES[BASE], layers=layers), CASES[BASE]):
        entries = {side: cells[key] for side in ("fast", "puma") if (key := case.key(side)) in cells}
        if len(entries) == 2:
            return [ratio(entries, "send_bytes")]
    return []


def measure(case: Case, side: str, approximations: Approximations | None = None) -> Entry:
    """Two requests of one side, or of these functions under its name; the figures are those of the second."""
    model, sentences = subject(case)
    approximations, ranges = approximations or SIDES[side], None
    if presets.needs_calibration(approximations):
        ranges = calibrated(case, presets.family(approximations))
    rows = np.arange(case.batch) % len(sentences.input_ids)
    batch = sentences.rows(rows)
    expected = Plaintext(model, approximations, calibration=ranges)(batch)
    restart_peak_memory()
    keep = side != NOT_RESIDENT
    with PrivateModel(model, approximations, case.config, calibration=ranges, keep_weights=keep) as private:
        first = private(batch)
        steady = private(batch)
    entry = costs(first, steady)
    top = sorted(entry["by_operation"].items(), key=lambda item: -item[1]["seconds"])[:12]
    return {
        **dataclasses.asdict(case),
        "side": side,
        **entry,
        "by_operation": dict(top),
        "same_functions_max_abs_error": float(np.abs(steady.logits - expected).max()),
    }


@functools.lru_cache(maxsize=1)
def subject(case: Case) -> tuple[Checkpoint, Encoded]:
    """A model with random weights, and a few sentences of random tokens; the first fills the length."""
    shape = bert.SHAPES[case.shape]
    config = dataclasses.replace(shape, num_hidden_layers=case.layers, vocab_size=case.vocab_size or shape.vocab_size)
    params = jax.tree.map(np.asarray, bert.init_params(config, "classification", jax.random.key(0)))
    model = Checkpoint(config, params, "classification", tokenizer_dir=Path(case.shape), path=Path(case.shape))
    return model, random_sentences(model, case.length)


@functools.lru_cache(maxsize=4)
def calibrated(case: Case, family: str) -> Calibration:
    """The random model's ranges, widened to hold MiniLM's at the same depth."""
    model, sentences = subject(case)
    (own,) = calibrate_model(model, sentences, [family])
    if not case.real_ranges:
        return own
    real, places = _real_ranges(family), {}
    layers = 1 + max(int(place.split(".")[1]) for place in real.places if place.startswith("layer."))
    for place, ranges in own.places.items():
        at = place.split(".")
        if at[0] == "layer":
            at[1] = str(int(at[1]) * layers // case.layers)
        like = real.places[".".join(at)]
        places[place] = {quantity: found.union(like[quantity]) for quantity, found in ranges.items()}
    return dataclasses.replace(own, places=places)


@functools.cache
def _real_ranges(family: str) -> Calibration:
    model = checkpoint.load("minilm")
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    (found,) = calibrate_model(model, tokenizer.encode(calibration_sentences(), None, 128, True), [family])
    return found


def shown(quantity: str, value: float) -> str:
    """A figure as a table's cell."""
    return {"seconds": f"{value:.2f}", "send_bytes": f"{value / 1e6:,.1f}", "send_actions": f"{value:,.0f}"}[quantity]


def cost_table(title: str, entries: dict[str, Entry], quantity: str) -> Any:
    """One quantity of all sides by part."""
    unit = {"seconds": "seconds", "send_bytes": "MB sent", "send_actions": "sends"}[quantity]
    columns = ("side", *COLUMNS, "encoder", "a layer", "total", "offline s", "offline MB", "peak GB", "error")
    rows = []
    for side, e in entries.items():
        row = [shown(quantity, of(e, column, quantity)) for column in (*COLUMNS, "encoder")]
        row += [shown(quantity, layer(e, quantity)), shown(quantity, e[quantity]), f"{e['offline_seconds']:.1f}"]
        row += [f"{e['offline_bytes'] / 1e6:,.0f}", f"{e['peak_memory_bytes'] / 1e9:.1f}"]
        rows.append([side, *row, _error(e)])
    return table(f"{unit}: {title}", columns, rows)


def _error(entry: Entry) -> str:
    error = entry["same_functions_max_abs_error"]
    return f"{error:.4f}" if math.isfinite(error) else "overflow"


def whole_table(title: str, entries: dict[str, Entry], puma: Entry | None) -> Any:
    """Everything that a request needs, by who does it and by link: seconds on this machine, megabytes by server."""
    rows = []
    for side, e in entries.items():
        rows.append([side, *whole_cells(e), f"{e['whole_seconds'] / puma['whole_seconds']:.2f}" if puma else ""])
    return table(f"whole: {title}", ("side", *WHOLE, "of puma's"), rows)


def three_servers(cells: dict[str, Entry]) -> list[Any]:
    """What a third server is worth as a computing party, and as a dealer; compared with Puma on ABY3."""
    found = {
        f"{side} ({protocol})": cells[CASES[case].key(side)]
        for side in SIDES
        for protocol, case in THREE_SERVERS.items()
        if CASES[case].key(side) in cells
    }
    puma = cells.get(CASES[THREE_SERVERS["ABY3"]].key("puma"))
    return [whole_table("bert-base, 2 layers, 1 x 128 tokens, three servers", found, puma)] if found else []


def plot(case: Case, entries: dict[str, Entry], path: Path) -> None:
    """Stacked bars by part: seconds, bytes, sends."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 1.0 + 0.45 * len(entries)), layout="constrained", sharey=True)
    sides: Sequence[str] = list(entries)
    labels = {"seconds": "seconds", "send_bytes": "MB sent", "send_actions": "sends"}
    for axis, quantity in zip(axes, QUANTITIES, strict=True):
        left = np.zeros(len(sides))
        for column in COLUMNS:
            values = np.array([of(e, column, quantity) for e in entries.values()])
            values = values / 1e6 if quantity == "send_bytes" else values
            axis.barh(sides, values, left=left, label=column)
            left += values
        axis.set_xlabel(labels[quantity])
        axis.invert_yaxis()
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLUMNS), fontsize="small"
    )
    figure.suptitle(case.key("").rstrip(", "))
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
