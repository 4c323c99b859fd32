"""README.md's tables, from results/ and from the package's own registries (`pages.py` writes them)."""

from __future__ import annotations

import importlib
import pkgutil
import runpy
from collections.abc import Callable, Mapping

import compare
import numpy as np
from excerpts import tables_of
from results import FOLDER, ROOT, Entry, markdown_rows, read

from secformer_jax.functions import presets
from secformer_jax.functions.presets import Approximations
from secformer_jax.models import families
from secformer_jax.models.heads import HEADS

CASE, CASE_NAME = "bert-base, 12 layers, 1 x 128 tokens, 2pc_semi2k", "base-128"
SIDES = ("fast", "drop-in", "mpcformer", "secformer", "puma", "linear")
OUTSIDE_ENCODER = ("input", "embedding", "head")
LAN, WAN = "LAN 1 Gbit/s", "WAN 200 Mbit/s"

TASKS = ("STS-B", "MRPC", "RTE", "CoLA", "QNLI")
TRAINED = {"teacher": "the teachers'", "distilled": "distilled for {}", "tuned": "fine-tuned for {}, no teacher"}

ASKED = {
    "classification": ("several labels", "infer"),
    "multi_label": ("problem_type multi_label_classification", "infer"),
    "regression": ("one label", "infer"),
    "cross_encoder": ("one label, in a folder of sentence-transformers' CrossEncoder", "infer"),
    "tokens": ("", "infer"),
    "question": ("", "infer --text-pair"),
    "embedding": ("or a folder of sentence-transformers", "embed"),
    "similarity": ("a model of vectors, asked about two texts", "infer --text-pair"),
}
"""Which models have a head, and which command asks them."""

FORMULAS = {
    "gelu": {
        "exact": "x/2 (1 + erf(x/sqrt 2)), or the tanh form where the model has it",
        "quad": "0.125 x^2 + 0.25 x + 0.5",
        "puma": "piecewise polynomials",
        "fourier_segmented": "sine series for erf, cut at 1.7: one opening and two comparisons",
        "fourier": "x/2 + cosine series: one opening",
    },
    "softmax": {
        "exact": "exp; in drop-in by repeated squaring, without a comparison",
        "puma": "(1 + x/32)^32",
        "two_relu": "2ReLU: ReLU(x) + 0.01",
        "two_quad": "2Quad: (x + 5)^2",
        "two_quad_goldschmidt": "2Quad, divided by Goldschmidt's iteration",
    },
    "layer_norm": {"exact": "rsqrt", "goldschmidt": "Goldschmidt's iteration"},
}
OPENED_SOFTMAX_ERROR = 0.0025
"""Of drop-in's softmax: the bound in tests/openings/test_opened_softmax.py."""

ROUNDING = 1e-4
"""A bound below this is float32's rounding of the exact function."""


def speed() -> list[str]:
    """What one request costs, encoder alone, and what the same needs on two networks."""
    cells, network = read("efficiency")["cells"], read("network")
    predicted, rows = network["notes"]["predicted"][CASE_NAME], []
    for side in SIDES:
        cell, seconds = cells[f"{CASE}, {side}"], predicted[side]
        encoder = [cost for part, cost in cell["by_part"].items() if part not in OUTSIDE_ENCODER]
        compute, sent, sends = (sum(cost[key] for cost in encoder) for key in ("seconds", "send_bytes", "send_actions"))
        if abs(compute - seconds["compute"]) > 1e-6:
            raise SystemExit(f"{side} was measured after results/network.json: run python experiments/network.py")
        totals = (f"{compute + seconds[name]:.1f}" for name in (LAN, WAN))
        ahead = (
            f"{cell['offline_seconds']:.1f}",
            f"{cell['offline_bytes'] / 1e6:,.0f}" if cell["offline_bytes"] else "-",
        )
        rows.append((side, f"{compute:.1f}", f"{sent / 1e6:,.0f}", f"{sends:,}", *totals, *ahead))
    columns = ("", "seconds", "MB sent", "sends", "on a LAN", "on a WAN", "seconds ahead", "MB dealt")
    lines = markdown_rows(columns, rows)
    off = {
        side: max(abs(cell["relative_error"]) for key, cell in network["cells"].items() if f", {side}, " in key)
        for side in ("fast", "puma")
        if any(f", {side}, " in key for key in network["cells"])
    }
    if off:
        told = " and ".join(f"{error:.0%} for {side}" for side, error in off.items())
        lines += ["", f"The model of the networks is off by at most {told}: two processes on a link of limited rate"]
        lines += ["(results/network.md)."]
    return lines


def compared() -> list[str]:
    """Bytes, sends and errors of every preset on a small shape."""
    (cell,) = read("compare")["cells"].values()
    return markdown_rows(compare.COLUMNS, compare.rows(cell))


def accuracy() -> list[str]:
    """GLUE's metrics of each way to serve a model, the best mean first."""
    record = read("accuracy")
    found: dict[str, dict[str, list[Entry]]] = {}
    for key, cell in record["cells"].items():
        side, task, _ = key.split("/")
        found.setdefault(side, {}).setdefault(task, []).append(cell)
    ranked = []
    for side, tasks in found.items():
        if set(TASKS) <= set(tasks):
            column = "plaintext" if side == "plain" else "emulated"
            scores = [100 * float(np.mean([cell[column] for cell in tasks[task] if column in cell])) for task in TASKS]
            name = "plaintext" if side == "plain" else side.removesuffix(" without distillation")
            words = (name, _trained(tasks[TASKS[0]][0]["model"], TASKS[0]))
            ranked.append((float(np.mean(scores)), (*words, *(f"{x:.1f}" for x in (*scores, np.mean(scores))))))
    rows = [row for _, row in sorted(ranked, key=lambda each: -each[0])]
    seeds = len({key.rpartition("/")[2] for key in record["cells"]})
    told = "; ".join((f"{seeds} seed{'s' * (seeds > 1)}", *record["notes"]["splits"]))
    return [*markdown_rows(("", "weights", *TASKS, "mean"), rows, words=2), "", f"{told}."]


def _trained(model: str, task: str) -> str:
    """How a model came about, from its folder's name: minilm-distilled-secformer-STS-B-0."""
    kind, _, functions = model.partition(f"-{task}-")[0].partition("-")[2].partition("-")
    return TRAINED[kind].format(functions)


def student() -> list[str]:
    """Accuracy of the model that comes along."""
    cells = read("student")["cells"].values()
    rows = [(cell["runtime"], cell["preset"], f"{cell['count']:,}", f"{100 * cell['metric']:.1f}") for cell in cells]
    return markdown_rows(("runtime", "preset", "sentences", "accuracy"), rows, words=2)


def model_families() -> list[str]:
    """Every family: Hugging Face's names, and its module's first line."""
    rows = []
    for info in pkgutil.iter_modules(families.__path__):
        module = importlib.import_module(f"{families.__name__}.{info.name}")
        if hasattr(module, "FAMILY"):
            family = module.FAMILY
            classes = (f"{begin}..." for begin in family.classes.values())
            rows.append((", ".join(family.classes), ", ".join(classes), (module.__doc__ or "").split("\n")[0]))
    return markdown_rows(("model_type", "class", "what it is"), rows, words=3)


def heads() -> list[str]:
    """Every head: whose it is, who asks, and what that reveals."""
    _same("heads", HEADS, ASKED)
    rows = []
    for name, head in HEADS.items():
        which, command = ASKED[name]
        whose = ", ".join(words for words in (head.class_end and f"...{head.class_end}", which) if words)
        rows.append((name, whose, f"`secformer {command}`", head.reveals))
    return markdown_rows(("head", "class", "asked by", "what the client learns, and nobody else"), rows, words=4)


def model_presets() -> list[str]:
    """Every preset: its variants, their errors, and the models that it is for; equal ones share a row."""
    named: dict[Approximations, list[str]] = {}
    for name, chosen in presets.PRESETS.items():
        named.setdefault(chosen, []).append(name)
    rows = []
    for chosen, names in named.items():
        errors = error("gelu", chosen.gelu.name), error("softmax", chosen.softmax.name)
        if chosen.openings and chosen.softmax.name == "exact":
            errors = errors[0], str(OPENED_SOFTMAX_ERROR)
        computed = "all by masked openings" if chosen.openings else "one by one"
        rows.append((", ".join(names), *chosen.names().values(), computed, *errors, _for_models(chosen)))
    columns = ("preset", "GeLU", "softmax", "LayerNorm", "computed", "error of GeLU", "of softmax", "for which models")
    return markdown_rows(columns, rows, words=len(columns))


def _for_models(chosen: Approximations) -> str:
    others = [name for name in presets.family(chosen).split("/") if name != "exact"]
    models = f"distilled with {' and '.join(others)}" if others else "any"
    return f"{models}; calibrated" if presets.needs_calibration(chosen) else models


def variants() -> list[str]:
    """Every variant of the three functions."""
    rows = []
    parts = {"gelu": presets.GELU, "softmax": presets.SOFTMAX, "layer_norm": presets.LAYER_NORM}
    for part, registry in parts.items():
        _same(f"FORMULAS of {part}", registry, FORMULAS[part])
        for name, variant in registry.items():
            option, ranges = f"`--{part.replace('_', '-')} {name}`", "yes" if variant.needs_calibration else ""
            rows.append((option, FORMULAS[part][name], error(part, name), ranges))
    return markdown_rows(("option", "formula", "greatest error", "calibrated"), rows, words=4)


def error(part: str, variant: str) -> str:
    """A variant's greatest error: the bound that the tests hold it to."""
    registry = {"gelu": presets.GELU, "softmax": presets.SOFTMAX, "layer_norm": presets.LAYER_NORM}[part]
    if registry[variant].family != "exact":
        return "another function"
    bound = runpy.run_path(str(ROOT / "tests" / "sweeps.py"))["ERRORS"][part][variant].bound
    return f"{bound:.3g}" if bound > ROUNDING else "0"


def _same(what: str, known: Mapping[str, object], written: Mapping[str, object]) -> None:
    """Refuse words by hand that don't fit what there is."""
    if set(known) != set(written):
        wrong = ", ".join(sorted(set(known) ^ set(written)))
        raise SystemExit(f"experiments/readme.py: {what}: {wrong}: add a line, or take it out")


def demo() -> list[str]:
    """What `make demo` says of preset fast, from a run that was kept."""
    path = FOLDER / "demo.txt"
    if not path.is_file():
        raise SystemExit("no results/demo.txt: run python experiments/demo.py > results/demo.txt first")
    _, found, rest = path.read_text(encoding="utf-8").partition("preset fast\n")
    if not found:
        raise SystemExit("results/demo.txt has no part of preset fast: make it again")
    return ["", "    preset fast", *(f"    {line}" for line in rest.partition("\n\n")[0].rstrip().split("\n")), ""]


TABLES: Mapping[str, Callable[[], list[str]]] = {
    "demo": demo,
    "speed": speed,
    "generation": tables_of("generate", "A token"),
    "families": model_families,
    "heads": heads,
    "presets": model_presets,
    "variants": variants,
    "compare": compared,
    "accuracy": accuracy,
    "student": student,
}
