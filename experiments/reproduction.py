"""The tables of docs/reproduction.md, from results/ (`pages.py` writes them): the paper's claims on one runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ablation
import efficiency
import numpy as np
import scaling
from efficiency_lines import of
from network import NETWORKS
from published import FASTER
from readme import accuracy
from results import FOLDER, Entry, markdown_rows, read

SIDES = ("secformer", "mpcformer", "fast", "drop-in")
ON = ("LAN 1 Gbit/s", "WAN 200 Mbit/s")
TIMES = ("compute", *ON, "bytes", "sends")
"""What is compared: seconds of compute, seconds on networks, bytes and sends of one server; the encoder online."""
CLAIMED = {
    **dict.fromkeys(efficiency.MODELS, ""),
    "base-128-aby3-whole": ", ABY3",
    "base-32-cheetah": ", CHEETAH",
}
"""Cases, and what their protocol is where it is not SEMI2K."""
FUNCTIONS = {
    "gelu": ("puma", "fourier_segmented", "fourier", "opened"),
    "softmax": ("puma", "two_quad", "two_quad_goldschmidt", "opened two_quad", "opened exact"),
    "layer_norm": ("exact", "goldschmidt", "opened"),
}
"""By function, its variants; the first is Puma's."""
MEASURED, LESS = 128, ("times less: seconds", "bytes")
"""Rows that functions are measured with, and two columns."""


def measured(name: str) -> dict[str, Entry]:
    """The cells of an experiment; none where it was not run."""
    return read(name)["cells"] if (FOLDER / f"{name}.json").is_file() else {}


def or_missing(lines: list[str], command: str) -> list[str]:
    """What to say where nothing is measured."""
    return lines or [f"Not measured: `python experiments/{command}`."]


def quantities(entry: Entry) -> dict[str, float]:
    """What is compared, of one side's encoder."""
    seconds, sent, sends = (of(entry, "encoder", quantity) for quantity in efficiency.QUANTITIES)
    networks = {name: seconds + NETWORKS[name].seconds(sent, sends) for name in ON}
    return {"compute": seconds, **networks, "bytes": sent, "sends": sends}


def times(entry: Entry, other: Entry) -> list[str]:
    """How many times less an entry takes than another."""
    ours, theirs = quantities(entry), quantities(other)
    return [f"{theirs[name] / ours[name]:.2f}" for name in TIMES]


def everything(entry: Entry, network: str | None = None) -> float:
    """Seconds of all that a request needs: of all roles, and of the links of the server that gets most."""
    if network is None:
        return entry["whole_seconds"]
    received = entry["send_bytes"] + max(entry["dealt_bytes"]) + entry["input_bytes"]
    return entry["whole_seconds"] + NETWORKS[network].seconds(received, entry["send_actions"])


def claims() -> list[str]:
    """How many times less than Puma each side takes, by model and length."""
    cells, rows = measured("efficiency"), []
    for name, protocol in CLAIMED.items():
        case = efficiency.CASES[name]
        puma = cells.get(case.key("puma"))
        for side in SIDES:
            own = cells.get(case.key(side))
            if own is not None and puma is not None:
                what = f"{case.shape}, {case.layers} layers, {case.length} tokens{protocol}"
                whole = [f"{everything(puma, net) / everything(own, net):.2f}" for net in (None, *ON)]
                rows.append([what, side, *times(own, puma), *whole])
    told = ", ".join(f"{factor:.2f} for {model}" for model, factor in FASTER.items())
    columns = ("model", "side", *TIMES, "everything: compute", *ON)
    lines = markdown_rows(columns, rows, words=2) if rows else []
    published = f"Published, for SecFormer over Puma in seconds (512 tokens, CrypTen on GPUs; read): {told}."
    return [*or_missing(lines, "efficiency.py"), "", published]


def links() -> list[str]:
    """The model of a network beside two processes on a link of limited rate, one layer."""
    cells, rows = measured("network"), []
    for network in ON:
        found = {
            side: e for side in ("fast", "puma") for key, e in cells.items() if key.endswith(f", {side}, {network}")
        }
        for side, e in found.items():
            ratios = [f"{found['puma'][key] / e[key]:.1f}" for key in ("predicted_seconds", "measured_seconds")]
            rows.append([network, side, f"{e['predicted_seconds']:.2f}", f"{e['measured_seconds']:.2f}", *ratios])
    columns = ("network", "side", "seconds by the model", "measured", "puma's, times: by the model", "measured")
    return or_missing(markdown_rows(columns, rows, words=2) if rows else [], "network.py")


def ideas() -> list[str]:
    """Each row of the ablation against the one before, or against Puma."""
    cells, case = measured("ablation"), efficiency.CASES["base-128"]
    found = {name: cells[case.key(name)] for name in ablation.ROWS if case.key(name) in cells}
    puma = found.get(ablation.RESIDENT)
    names, rows = [name for name in ablation.CUMULATIVE if name in found], []
    for before, name in zip([None, *names], names, strict=False):
        against = times(found[name], found[before]) if before else ["" for _ in TIMES]
        rows.append([name, *against, _accuracy(cells, name)])
    if puma is not None:
        alone = [name for name in ablation.ALONE if name in found]
        rows += [[f"{name}, against puma", *times(found[name], puma), _accuracy(cells, name)] for name in alone]
    columns = ("times less than the row before", *TIMES, "STS-B, not distilled")
    return or_missing(markdown_rows(columns, rows) if rows else [], "ablation.py")


def _accuracy(cells: dict[str, Entry], name: str) -> str:
    cell = cells.get(f"STS-B, {name}")
    return f"{100 * cell['pearson']:.1f}" if cell else ""


def functions() -> list[str]:
    """Each function at BERT-base's size with 128 tokens: how many times less than Puma's."""
    cells, rows = measured("operators"), []
    for function, variants in FUNCTIONS.items():
        found = {name: cells.get(f"2pc_semi2k {function} 128 {name}") for name in variants}
        first = found[variants[0]]
        for name, e in found.items():
            if e and first:
                factors = [f"{first[key] / e[key]:.1f}" for key in ("seconds", "send_bytes", "send_actions")]
                figures = f"{e['seconds']:.2f}", f"{e['send_bytes'] / 1e6:,.1f}", f"{e['send_actions']}"
                rows.append([function, name, *figures, *factors, f"{e['own_form_max_error']:.4f}"])
    columns = ("function", "variant", "seconds", "MB sent", "sends", "times: seconds", "bytes", "sends", "error")
    return or_missing(markdown_rows(columns, rows, words=2) if rows else [], "operators.py")


def runtimes() -> list[str]:
    """SecFormer's functions against Puma's, on CrypTen and here: seconds of all, and bytes."""
    rows = []
    for (side, function), costs in papers().items():
        seconds, sent = costs.T
        figures = [f"{x:.2f}" for x in seconds] + [f"{x:,.1f}" for x in sent]
        rows.append([function, side, *figures, *_less(costs)])
    columns = ("function", "on", "seconds: SecFormer's", "Puma's", "MB: SecFormer's", "Puma's", *LESS)
    return or_missing(markdown_rows(columns, rows, words=2) if rows else [], "peers/crypten_operators.py")


def together() -> list[str]:
    """Both of one layer together, from the same figures: GeLU grows with the tokens, softmax with their square."""
    found, rows = papers(), []
    for side in dict.fromkeys(side for side, _ in found):
        for tokens in (MEASURED, 512):
            more = tokens / MEASURED
            rows.append([side, f"{tokens}", *_less(found[side, "gelu"] * more + found[side, "softmax"] * more**2)])
    return markdown_rows(("on", "tokens", *LESS), rows) if rows else []


def papers() -> dict[tuple[str, str], np.ndarray]:
    """By runtime and function [[seconds, MB] of SecFormer's, the same of Puma's], with what is dealt ahead."""
    cells, found = measured("peers"), {}
    for function, ours in {"gelu": "fourier_segmented", "softmax": "two_quad_goldschmidt"}.items():
        for side, names in {"CrypTen": ("secformer", "puma"), "SPU": (ours, "puma")}.items():
            both = [cells.get(f"{function} {MEASURED} {name}, {side}") for name in names]
            if all(both):
                costs = [(e["seconds"] + e["offline_seconds"], e["send_bytes"] / 1e6) for e in both if e]
                found[side, function] = np.array(costs)
    return found


def _less(costs: np.ndarray) -> list[str]:
    return [f"{x:.1f}" for x in costs[1] / costs[0]]


def growth() -> list[str]:
    """Fitted exponents."""
    curves = scaling.curves(measured("scaling"))
    rows = [
        [axis, side, *(f"{scaling.exponent(points, quantity):.2f}" for quantity in efficiency.QUANTITIES)]
        for (axis, side), points in curves.items()
        if len(points) > 1
    ]
    columns = ("growth with", "side", "seconds", "bytes", "sends")
    return or_missing(markdown_rows(columns, rows, words=2) if rows else [], "scaling.py")


def outside() -> list[str]:
    """Puma by Hugging Face's model on stock SPU, and by this package's preset."""
    checks = read("baseline")["notes"]["checks"] if measured("baseline") else []
    lines = [f"- {check['name']} {check['figure']:.2%}." for check in checks]
    return or_missing(lines, "baseline.py")


TABLES: Mapping[str, Callable[[], list[str]]] = {
    "claims": claims,
    "links": links,
    "ideas": ideas,
    "functions": functions,
    "runtimes": runtimes,
    "together": together,
    "growth": growth,
    "outside": outside,
    "accuracy": accuracy,
}
