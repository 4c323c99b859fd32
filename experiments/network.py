"""What the measured costs mean on real networks, and a check of that model against two processes on a real link.

    python experiments/network.py [--fresh] [--quick]

The model: seconds = compute + sends x one-way latency + 8 x bytes / bandwidth. `compute` is the time of the simulation
on this machine, where all parties share its cores and the link is memory. `sends` and `bytes` are those of one party.
All sends count as sequential: SPU's two-party operations exchange (both parties send, then both wait), and the next
operation needs what came, so one message is one trip one way; where messages follow one another without waiting, the
model is too slow. Parties send at the same time, so bytes of one party count once. Dealer material travels ahead of
time and is not in these figures (results/efficiency.json has its volume).

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
import jax
import matplotlib
import numpy as np
import party
import rate_limited
import spu
import typer
from efficiency import QUICK, SIDES, Case
from jax.experimental import enable_x64
from results import FOLDER, Check, Entry, Results, console, run, table
from spu import libspu

from secformer_jax.functions import presets
from secformer_jax.inference.opened import OpenedServing
from secformer_jax.inference.serving import Serving, StandardServing
from secformer_jax.models import transformer as bert
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.program import LocalStage, Stage
from secformer_jax.mpc.runtime.shares import share

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAYLOAD_BYTES = 1 << 25
"""Largest message of SPU's link that is not cut into pieces; with its 1 MiB default each piece waits for an answer."""
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
}
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
    results.publish(out, tables, checks, predicted=predicted, link=missing or "measured")
    plot(predicted, results.cells, folder / "network.png")
    raise typer.Exit(int(not quick and not all(check.holds for check in checks)))


def predict(entry: Entry) -> Entry:
    """Seconds of the encoder: compute, and on each network the rest."""
    encoder = {q: efficiency.of(entry, "encoder", q) for q in efficiency.QUANTITIES}
    cost = encoder["send_bytes"], encoder["send_actions"]
    return {"compute": encoder["seconds"]} | {name: net.seconds(*cost) for name, net in NETWORKS.items()}


def required(predicted: dict[str, Any], cells: dict[str, Entry]) -> Iterator[Check]:
    """The lines that have to hold, of those measured."""
    name = "WAN 200 Mbit/s"
    fast, puma = (predicted.get("base-128", {}).get(side) for side in ("fast", "puma"))
    if fast and puma:
        whole = (puma["compute"] + puma[name]) / (fast["compute"] + fast[name])
        yield Check(f"{name}, BERT-base, 128 tokens: times faster than Puma, compute included", whole, 3, at_least=True)
        rest = puma[name] / fast[name]
        yield Check(f"{name}, BERT-base, 128 tokens: times faster than Puma but for compute", rest, 5, at_least=True)
    for key, e in cells.items():
        yield Check(f"model against link, relative error: {key}", abs(e["relative_error"]), TOLERANCE)


def measure(case: Case, side: str, name: str) -> Entry:
    """The second request of two processes on a link, beside what the model says from a simulation."""
    network = NETWORKS[name]
    jobs, simulated, io = _prepare(case, side)
    with tempfile.TemporaryDirectory(prefix="secformer-network-") as folder:
        found = _run_parties(jobs, network, Path(folder))
    logits = [io.reconstruct([each["results"][-1][0] for each in found])]
    total = simulated.profile.total
    expected = simulated.seconds + network.seconds(total.send_bytes, total.send_actions)
    seconds = max(each["seconds"][-1] for each in found)
    return {
        **dataclasses.asdict(case),
        "side": side,
        "network": name,
        "simulated_seconds": simulated.seconds,
        "send_bytes": total.send_bytes,
        "send_actions": total.send_actions,
        "predicted_seconds": expected,
        "measured_seconds": seconds,
        "relative_error": expected / seconds - 1,
        "max_difference_from_simulation": float(np.abs(logits[0] - simulated.value).max()),
    }


def _run_parties(jobs: list[Entry], network: Network, folder: Path) -> list[Entry]:
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


def _prepare(case: Case, side: str) -> tuple[list[Entry], Any, spu.Io]:
    """Each party's job for two requests, and the second request in simulation."""
    config, dealer = mpc_config.load(case.config), Dealer()
    model, batch = _small_subject(case)
    serving = _serving(case, side, config.fraction_bits, model)
    weights, inputs, module = serving.weights(dealer), serving.inputs(batch), serving.model(case.length)
    with enable_x64():
        material = jax.eval_shape(module.init, jax.random.key(0), *inputs).get("dealer", {})

    def forward(weights: Any, material: Any, *inputs: jax.Array) -> Any:
        return module.apply({**weights, "dealer": material}, *inputs)

    with Engine(config, part_of=bert.part_of) as engine:
        engine.publish(weights, public=serving.is_public)
        program = engine.compile(forward, material, *inputs)
        for _ in range(2):
            simulated = engine.run(program, dealer.deal(material), *inputs)
    io = spu.Io(config.world_size, config.runtime_config())
    named = {f"weights{jax.tree_util.keystr(path)}": x for path, x in jax.tree_util.tree_leaves_with_path(weights)}
    secret = {name: not serving.is_public(name.removeprefix("weights")) for name in named}
    read = {name for stage in program.stages for name in stage.inputs}

    local_only = program.local_only()

    def shares(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        kinds = {True: libspu.Visibility.VIS_SECRET, False: libspu.Visibility.VIS_PUBLIC}
        made = {
            name: [piece.stacked() for piece in share(array, "int64", config.protocol, config.world_size)]
            if name in local_only
            else io.make_shares(np.ascontiguousarray(array), kinds[secret.get(name, True)])
            for name, array in arrays.items()
            if name in read
        }
        return [{name: pieces[rank] for name, pieces in made.items()} for rank in range(config.world_size)]

    kept, requests = shares(named), []
    for _ in range(2):
        dealt = dealer.deal(material)
        arrays = {f"material{i}": dealt.take(i) for i in range(len(dealt))}
        requests.append(shares(arrays | {f"input{i}": np.asarray(x) for i, x in enumerate(inputs)}))
    common = {
        "config": config,
        "payload_bytes": PAYLOAD_BYTES,
        "stages": [_sent(stage) for stage in program.stages],
        "outputs": list(program.output_names),
    }
    jobs = [
        {**common, "weights": kept[rank], "requests": [request[rank] for request in requests]}
        for rank in range(config.world_size)
    ]
    return jobs, simulated, io


def _sent(stage: Stage | LocalStage) -> Stage | LocalStage:
    """A stage as another process can read it."""
    if isinstance(stage, Stage):
        return stage
    return dataclasses.replace(stage, function=party.Exported.of(stage))


def _small_subject(case: Case) -> tuple[Any, Encoded]:
    model, sentences = efficiency.subject(dataclasses.replace(case, vocab_size=128))
    return model, sentences.rows(slice(1))


def _serving(case: Case, side: str, fraction_bits: int, model: Any) -> Serving:
    approximations, ranges = SIDES[side], None
    if presets.needs_calibration(approximations):
        ranges = efficiency.calibrated(dataclasses.replace(case, vocab_size=128), presets.family(approximations))
    if approximations.openings:
        return OpenedServing(model, ranges, fraction_bits, exact=approximations.softmax.family == "exact")
    return StandardServing(model, approximations, ranges, fraction_bits, "client")


def _prediction_table(case: Case, predicted: dict[str, Entry]) -> Any:
    rows = []
    for side, p in predicted.items():
        totals = (f"{p['compute'] + p[name]:.1f} ({p[name]:.1f})" for name in NETWORKS)
        rows.append([side, f"{p['compute']:.1f}", *totals])
    title = f"Seconds of the encoder, in brackets all but compute: {case.key('').rstrip(', ')}"
    return table(title, ("side", "compute", *NETWORKS), rows)


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
    figure, axes = plt.subplots(1, len(NETWORKS) + 1, figsize=(5 * (len(NETWORKS) + 1), 4), layout="constrained")
    chosen: dict[str, Entry] = predicted.get("base-128") or next(iter(predicted.values()), {})
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
