"""What the assistant server adds to a request on loopback: SPU's own dealer inside rank 0 against ours in a process.

    python experiments/dealer.py [--shape minilm] [--max-length 32] [--presets puma,secformer,fast] [--rounds 5]

Random weights and tokens. Both sides are simulations (parties are threads) that stay alive and answer the same requests
by turns; seconds are the medians after the first round, in which the weights are opened. Our dealer runs as `secformer
dealer` with mutual TLS, as on a cluster. Writes results/dealer.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from results import Check, Entry, Results, console, run, table

from secformer_jax.cli.commands.compare import random_model, random_sentences
from secformer_jax.cluster import certs
from secformer_jax.cluster import config as cluster_config
from secformer_jax.functions import presets
from secformer_jax.inference.private import PrivateModel
from secformer_jax.models.calibrate import calibrate_model
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime import layout

LIMIT = 1.3
START_SECONDS = 60


@contextlib.contextmanager
def running_dealer(folder: Path) -> Iterator[cluster_config.Cluster]:
    """A dealer on a free port of loopback, stopped in the end."""
    document = json.loads((layout.CONFIG_DIR / "2pc_semi2k_dealer.json").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        document["secformer"]["dealer"] = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "cluster.json").write_text(json.dumps(document))
    cluster = cluster_config.load(folder / "cluster.json")
    certs.write(cluster, folder / "tls")
    code = "from secformer_jax.cli.app import main; main()"
    arguments = ["dealer", "--cluster", str(folder / "cluster.json"), "--log-level", "warning"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    try:
        _wait_for(cluster, process)
        yield cluster
    finally:
        process.terminate()
        process.wait()


def metrics(cluster: cluster_config.Cluster) -> dict[str, float]:
    """The dealer's counts by their names in Prometheus, labels left out and added up."""
    files = cluster.tls(cluster_config.OWNER)
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    with urllib.request.urlopen(f"https://{cluster.dealer_address()}/metrics", context=context, timeout=10) as answer:
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", answer.read().decode(), re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found


def _wait_for(cluster: cluster_config.Cluster, process: subprocess.Popen) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            metrics(cluster)
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > ends:
                raise SystemExit("the dealer did not start") from None
            time.sleep(0.1)


def measure(preset: str, shape: str, length: int, rounds: int) -> Entry:
    """Seconds of a request on both sides, and what the dealer did for one."""
    model, chosen = random_model(shape), presets.preset(preset)
    sentences = random_sentences(model, length)
    batch = sentences.rows(slice(1))
    family = presets.family(chosen)
    calibration = calibrate_model(model, sentences, [family])[0] if presets.needs_calibration(chosen) else None
    with tempfile.TemporaryDirectory() as scratch, running_dealer(Path(scratch)) as cluster:
        key = certs.sm2_public(cluster.tls("S0")).read_text()
        ours = dataclasses.replace(mpc_config.load(cluster.path), runtime=cluster.party_runtime("S0", key))
        with contextlib.ExitStack() as stack:
            sides = {
                name: stack.enter_context(PrivateModel(model, chosen, config, calibration=calibration))
                for name, config in (("first party", mpc_config.load("2pc_semi2k")), ("dealer", ours))
            }
            logits = {name: private(batch).logits for name, private in sides.items()}
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            before = metrics(cluster)
            for round_ in range(rounds):
                for name in sorted(sides, reverse=bool(round_ % 2)):
                    answer = sides[name](batch)
                    seconds[name].append(answer.result.seconds)
                    logits[name] = answer.logits
            after = metrics(cluster)
    spent = {name: (after.get(name, 0.0) - before.get(name, 0.0)) / rounds for name in after}
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "all_seconds": seconds,
        "ratio": statistics.median(seconds["dealer"]) / statistics.median(seconds["first party"]),
        "dealer_calls": spent["secformer_dealer_requests_total"],
        "dealer_bytes": spent.get("secformer_dealer_sent_bytes_total", 0.0),
        "dealer_seconds": spent.get("secformer_dealer_seconds_sum", 0.0),
        "logits_difference": float(abs(logits["dealer"] - logits["first party"]).max()),
    }


def main(
    shape: Annotated[str, typer.Option("--shape")] = "minilm",
    max_length: Annotated[int, typer.Option("--max-length")] = 32,
    names: Annotated[str, typer.Option("--presets")] = "puma,secformer,fast",
    rounds: Annotated[int, typer.Option("--rounds")] = 5,
    fresh: Annotated[bool, typer.Option("--fresh")] = False,
) -> None:
    """Measure, print and write."""
    results = Results("dealer", fresh=fresh)
    cells = {
        name: results.cell(
            f"{shape}, {max_length} tokens, {name}", functools.partial(measure, name, shape, max_length, rounds)
        )
        for name in names.split(",")
    }
    rows = [
        (
            name,
            f"{cell['seconds']['first party']:.2f}",
            f"{cell['seconds']['dealer']:.2f}",
            f"{cell['ratio']:.2f}",
            f"{cell['dealer_calls']:,.0f}",
            f"{cell['dealer_bytes'] / 1e6:,.1f}",
            f"{cell['dealer_seconds']:.2f}",
            f"{cell['logits_difference']:.4f}",
        )
        for name, cell in cells.items()
    ]
    columns = ("preset", "first party s", "dealer s", "ratio", "calls", "MB", "dealer's own s", "logits differ")
    tables = [table(f"{shape}, {max_length} tokens, SEMI2K on loopback", columns, rows)]
    checks = [
        Check(f"{name}: seconds with the dealer over without", cell["ratio"], LIMIT) for name, cell in cells.items()
    ]
    results.publish(console(), tables, checks)


if __name__ == "__main__":
    run(main)
