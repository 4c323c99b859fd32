"""What the measured costs mean on real networks, and a check of that model against two processes on a real link.

    python experiments/network.py [--fresh] [--quick]

The model: seconds = compute + sends x one-way latency + 8 x bytes / bandwidth. `compute` is the time of the simulation
on this machine, where all parties share its cores and the link is memory. `sends` and `bytes` are those of one party.
All sends count as sequential: SPU's two-party operations exchange (both parties send, then both wait), and the next
operation needs what came, so one message is one trip one way; where messages follow one another without waiting, the
model is too slow. Parties send at the same time, so bytes of one party count once. Dealer material travels ahead of
time and is not in these figures (results/efficiency.json has its volume). Two of the networks are those of published
systems, whose bytes and messages stand beside ours in a table of their own, marked as published.

It is applied to results/efficiency.json (run that first), to the encoder: all but the embedding and the head. Then it
is checked: the same programs by two processes, each in a network namespace of its own, over a link whose rate the
kernel limits, with a relay that delays every byte (rate_limited.py); a model of one layer with a small vocabulary,
whole request, SEMI2K. Where the machine can't do that (no root, no namespaces) it says so and leaves it out.
Writes results/network.json and .png.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import efficiency
import matplotlib
import numpy as np
import party
import rate_limited
import typer
from efficiency import QUICK, SIDES, Case
from efficiency_lines import BASE
from published import SYSTEMS, System
from results import FOLDER, Check, Entry, Results, console, run, table

from secformer_jax.functions import presets
from secformer_jax.inference.serving import serving_for
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Result
from secformer_jax.mpc.runtime.shares import decode, join

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PARTY_SECONDS = 1_800
TOLERANCE = 0.25


@dataclasses.dataclass(frozen=True)
class Network:
    """Between any two parties, each way."""

    bits_per_second: float
    latency_seconds: float

    def seconds(self, send_bytes: float, send_actions: float) -> float:
        """The part that is not compute."""
        return send_actions * self.latency_seconds + 8 * send_bytes / self.bits_per_second


NETWORKS = {
    "LAN 1 Gbit/s": Network(1e9, 0.0005),
    "LAN 5 Gbit/s": Network(5e9, 0.0005),
    "WAN 200 Mbit/s": Network(2e8, 0.020),
    "1 GB/s, 0.5 ms": Network(8e9, 0.0005),
    "400 MB/s, 4 ms": Network(3.2e9, 0.004),
}
"""The last two are those that FuseFSS is published for."""
COMMUNICATION = {"1 GB/s, 0.5 ms": 0.45, "400 MB/s, 4 ms": 1.7}
"""On these, the most seconds of `fast` for BERT-base at 128 tokens, all but compute."""
MEASURED = ("LAN 1 Gbit/s", "WAN 200 Mbit/s")


def main(
    side: Annotated[list[str] | None, typer.Option(help="sides to measure on a link")] = None,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    quick: Annotated[bool, typer.Option(help="a tiny model: a test of this script")] = False,
    folder: Annotated[Path, typer.Option(help="where the results are")] = FOLDER,
) -> None:
    """Apply the model, check it, print the tables and the required lines."""
    out, results = console(), Results("network", folder, fresh=fresh)
    measured = folder / "efficiency.json"
    if not measured.is_file():
        raise SystemExit(f"no {measured}: run `python experiments/efficiency.py` first")
    cells = json.loads(measured.read_text(encoding="utf-8"))["cells"]
    predicted: dict[str, Any] = {}
    tables = []
    for name, case in (QUICK if quick else efficiency.CASES).items():
        entries = {each: cells[case.key(each)] for each in SIDES if case.key(each) in cells}
        if entries:
            predicted[name] = {each: predict(entry) for each, entry in entries.items()}
            tables.append(_prediction_table(case, predicted[name]))
    tables.append(_published_table(predicted.get(BASE, {})))
    case = Case("tiny", 1, 16, real_ranges=False) if quick else Case("bert-base", 1, 128)
    missing = rate_limited.why_not()
    if missing:
        out.print(f"The check on a real link is left out: {missing}")
    else:
        for each in side or ("fast", "puma"):
            for network in MEASURED[1:] if quick else MEASURED:
                key = f"{case.key(each)}, {network}"
                out.print(f"two processes: {key}")
                results.cell(key, functools.partial(measure, case, each, network))
        tables.append(_measured_table(results.cells))
    checks = list(required(predicted, results.cells))
    published = {system: figures._asdict() for system, figures in SYSTEMS.items()}
    results.publish(out, tables, checks, predicted=predicted, published=published, link=missing or "measured")
    plot(predicted, results.cells, folder / "network.png")
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def predict(entry: Entry) -> Entry:
    """Seconds of the encoder: compute, and on each network the rest."""
    encoder = {q: efficiency.of(entry, "encoder", q) for q in efficiency.QUANTITIES}
    cost = encoder["send_bytes"], encoder["send_actions"]
    figures = {"compute": encoder["seconds"], "send_bytes": cost[0], "send_actions": cost[1]}
    return figures | {name: net.seconds(*cost) for name, net in NETWORKS.items()}


def required(predicted: dict[str, Any], cells: dict[str, Entry]) -> Iterator[Check]:
    """The lines that have to hold, of those measured."""
    name = "WAN 200 Mbit/s"
    fast, puma = (predicted.get(BASE, {}).get(side) for side in ("fast", "puma"))
    if fast and puma:
        whole = (puma["compute"] + puma[name]) / (fast["compute"] + fast[name])
        yield Check(f"{name}, BERT-base, 128 tokens: times faster than Puma, compute included", whole, 3, at_least=True)
        rest = puma[name] / fast[name]
        yield Check(f"{name}, BERT-base, 128 tokens: times faster than Puma but for compute", rest, 5, at_least=True)
    for name, seconds in COMMUNICATION.items():
        if fast:
            yield Check(f"{name}, BERT-base, 128 tokens: seconds of fast but for compute", fast[name], seconds)
    for key, e in cells.items():
        yield Check(f"model against link, relative error: {key}", abs(e["relative_error"]), TOLERANCE)


def measure(case: Case, side: str, name: str) -> Entry:
    """The second request of two processes on a link, beside what the model says from a simulation."""
    network = NETWORKS[name]
    jobs, simulated = _prepare(case, side)
    with tempfile.TemporaryDirectory(prefix="secformer-network-") as folder:
        found = [each[-1] for each in _run_parties(jobs, network, Path(folder))]
    dtypes, components = zip(*(each["results"][0] for each in found), strict=True)
    logits = decode(join(components), dtypes[0], jobs[0]["config"].fraction_bits)
    total = simulated.profile.total
    expected = simulated.seconds + network.seconds(total.send_bytes, total.send_actions)
    seconds = max(each["seconds"] for each in found)
    return {
        **dataclasses.asdict(case),
        "side": side,
        "network": name,
        "simulated_seconds": simulated.seconds,
        "send_bytes": total.send_bytes,
        "send_actions": total.send_actions,
        "process_send_bytes": found[0]["bytes"],
        "process_send_actions": found[0]["sends"],
        "predicted_seconds": expected,
        "measured_seconds": seconds,
        "relative_error": expected / seconds - 1,
        "max_difference_from_simulation": float(np.abs(logits - simulated.value).max()),
    }


def _run_parties(jobs: list[Entry], network: Network, folder: Path) -> list[list[Entry]]:
    script = Path(__file__).resolve().with_name("party.py")
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    with (
        rate_limited.namespaces(network.bits_per_second) as names,
        rate_limited.relays(names, network.latency_seconds),
    ):
        running, outs = [], []
        try:
            for rank, (namespace, job) in enumerate(zip(names, jobs, strict=True)):
                path, out = folder / f"job-{rank}", folder / f"out-{rank}"
                path.write_bytes(pickle.dumps({**job, "addresses": rate_limited.addresses(rank)}))
                command = [sys.executable, str(script), str(path), str(rank), str(out)]
                inside = ["ip", "netns", "exec", namespace, *command]
                running.append(subprocess.Popen(inside, cwd=folder, env=environment, stdout=subprocess.DEVNULL))
                outs.append(out)
            for process in running:
                if process.wait(PARTY_SECONDS):
                    raise SystemExit(f"a party ended with status {process.returncode}")
        finally:
            for process in running:
                process.kill()
    return [pickle.loads(out.read_bytes()) for out in outs]


def _prepare(case: Case, side: str) -> tuple[list[Entry], Result]:
    """Each party's job for two requests, and the second request in simulation."""
    config, case = mpc_config.load(case.config), dataclasses.replace(case, vocab_size=128)
    model, sentences = efficiency.subject(case)
    approximations, ranges = SIDES[side], None
    if presets.needs_calibration(approximations):
        ranges = efficiency.calibrated(case, presets.family(approximations))
    serving = serving_for(model, approximations, ranges, config.fraction_bits, "client")
    return party.jobs(config, serving, sentences.rows(slice(1)), case.length)


def _prediction_table(case: Case, predicted: dict[str, Entry]) -> Any:
    rows = []
    for side, p in predicted.items():
        totals = (f"{p['compute'] + p[name]:.1f} ({p[name]:.1f})" for name in NETWORKS)
        rows.append([side, f"{p['compute']:.1f}", *totals])
    title = f"Seconds of the encoder, in brackets all but compute: {case.key('').rstrip(', ')}"
    return table(title, ("side", "compute", *NETWORKS), rows)


def _published_table(measured: dict[str, Entry]) -> Any:
    rows = []
    figures = {
        side: System(p["send_bytes"] / 1e6, round(p["send_actions"]), f"compute {p['compute']:.1f}", "measured here")
        for side, p in measured.items()
    }
    for system, p in (figures | SYSTEMS).items():
        cells = [""] * (1 + len(COMMUNICATION))
        if p.messages is not None:
            found = (NETWORKS[network].seconds(p.megabytes * 1e6, p.messages) for network in COMMUNICATION)
            cells = [f"{p.messages:,}", *(f"{seconds:.2f}" for seconds in found)]
        rows.append([system, p.reported, p.source, f"{p.megabytes:,.0f}", *cells])
    title = "BERT-base, 128 tokens: seconds of communication by one formula, beside published figures"
    columns = ("system", "seconds reported", "source", "MB", "messages", *COMMUNICATION)
    return table(title, columns, rows, text_columns=3)


def _measured_table(cells: dict[str, Entry]) -> Any:
    columns = ("", "simulated s", "MB sent", "sends", "predicted s", "measured s", "error")
    rows = []
    for key, e in cells.items():
        seconds = (f"{e[name]:.2f}" for name in ("predicted_seconds", "measured_seconds"))
        costs = f"{e['simulated_seconds']:.2f}", f"{e['send_bytes'] / 1e6:,.1f}", f"{e['send_actions']:,}"
        rows.append([key, *costs, *seconds, f"{e['relative_error']:+.0%}"])
    return table("Two processes on a rate-limited link, one request", columns, rows)


def plot(predicted: dict[str, Any], cells: dict[str, Entry], path: Path) -> None:
    """Predicted seconds by network, and measured against predicted."""
    figure, grid = plt.subplots(2, len(NETWORKS) // 2 + 1, figsize=(15, 8), layout="constrained")
    axes = grid.reshape(-1)
    chosen: dict[str, Entry] = predicted.get(BASE) or next(iter(predicted.values()), {})
    for axis, name in zip(axes, NETWORKS, strict=False):
        compute, rest = ([p[key] for p in chosen.values()] for key in ("compute", name))
        axis.barh(list(chosen), compute, label="compute")
        axis.barh(list(chosen), rest, left=compute, label="network")
        axis.set(title=name, xlabel="seconds, encoder")
        axis.invert_yaxis()
    axes[0].legend(fontsize="small")
    for e in cells.values():
        axes[-1].scatter(e["predicted_seconds"], e["measured_seconds"], label=f"{e['side']}, {e['network']}")
    if cells:
        most = max(e["measured_seconds"] for e in cells.values())
        axes[-1].plot([0, most], [0, most], color="gray", linewidth=0.8)
        axes[-1].legend(fontsize="x-small")
    axes[-1].set(title="two processes", xlabel="predicted seconds", ylabel="measured seconds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
