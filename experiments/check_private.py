"""Private against plaintext cosines of all-MiniLM-L6-v2 on STS-B pairs, on two protocols.

    python experiments/check_private.py --data-dir DIR/glue --pairs 20

For preset puma and the whole preset secformer (2Quad without distillation: its cosines mean little, and only their
agreement is of interest) it prints the largest |private - plaintext|, where plaintext runs the same functions in the
clear, and the same against exact functions. Writes results/check_private.json. Fails above 0.02.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from secformer_jax.cli import report as reports
from secformer_jax.evaluation import tasks
from secformer_jax.functions import presets
from secformer_jax.inference.private import Plaintext, PrivateModel
from secformer_jax.models import checkpoint
from secformer_jax.models.calibrate import calibrate_model, calibration_sentences
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded, Tokenizer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "check_private.json"
PROTOCOLS = ("2pc_semi2k", "3pc_aby3")
PRESETS = ("puma", "secformer")
TOLERANCE = 0.02


def main(
    data_dir: Annotated[Path, typer.Option(help="folder that holds STS-B")],
    pairs: Annotated[int, typer.Option(min=1)] = 20,
    max_length: Annotated[int, typer.Option(help="public padded length")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="pairs in one request")] = 4,
) -> None:
    """Compare, print, and write the result file whole or not at all."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    model = checkpoint.load("minilm")
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    examples = tasks.read(tasks.find("STS-B"), data_dir, "dev", pairs)
    requests = requests_of(examples, tokenizer, max_length, batch)
    exact = np.concatenate([Plaintext(model, presets.preset("exact"))(request) for request in requests])
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("private requests", total=len(PROTOCOLS) * len(PRESETS) * len(requests))
        for preset in PRESETS:
            for protocol in PROTOCOLS:
                results.append(check(model, preset, protocol, requests, exact, lambda: progress.advance(bar)))
    console.print(table(results))
    settings = {"commit": commit or None, "pairs": len(examples), "max_length": max_length, "pairs_a_request": batch}
    write({**settings, "results": results})
    raise typer.Exit(int(max(result["max_abs_error"] for result in results) > TOLERANCE))


def requests_of(examples: tasks.Examples, tokenizer: Tokenizer, max_length: int, batch: int) -> list[Encoded]:
    """Requests of up to `batch` pairs, the two texts of a pair in neighbouring rows."""
    assert examples.pairs is not None
    both = list(zip(examples.texts, examples.pairs, strict=True))
    groups = [both[start : start + batch] for start in range(0, len(both), batch)]
    return [tokenizer.encode([text for pair in group for text in pair], None, max_length, True) for group in groups]


def check(model: Checkpoint, preset: str, protocol: str, requests: list[Encoded], exact: np.ndarray, step) -> dict:
    """One preset on one protocol: differences, and the cost of the last full-size request."""
    functions, ranges = presets.preset(preset), None
    if presets.needs_calibration(functions):
        tokenizer = Tokenizer(model.tokenizer_dir, model.config)
        sentences = tokenizer.encode(calibration_sentences(), None, requests[0].input_ids.shape[1], True)
        (ranges,) = calibrate_model(model, sentences, [presets.family(functions)])
    plain = Plaintext(model, functions, calibration=ranges)
    expected = np.concatenate([plain(request) for request in requests])
    started = time.perf_counter()
    with PrivateModel(model, functions, protocol, calibration=ranges) as private:
        answers = []
        for request in requests:
            answers.append(private(request))
            step()
    found = np.concatenate([answer.logits for answer in answers])
    cost = max(answers[1:] or answers, key=lambda answer: answer.logits.size).result
    return {
        "preset": preset,
        "protocol": protocol,
        "max_abs_error": float(np.abs(found - expected).max()),
        "max_abs_error_from_exact": float(np.abs(found - exact).max()),
        "seconds": time.perf_counter() - started,
        "request_send_bytes": cost.profile.total.send_bytes,
        "request_send_actions": cost.profile.total.send_actions,
        "private": [round(float(cosine), 6) for cosine in found],
        "plaintext": [round(float(cosine), 6) for cosine in expected],
    }


def table(results: list[dict]) -> Table:
    """What a person reads."""
    found = Table(title="largest |private - plaintext| cosine")
    for column in ("preset", "protocol", "same functions", "exact functions", "seconds"):
        found.add_column(column, justify="left" if column in ("preset", "protocol") else "right")
    for r in results:
        errors = f"{r['max_abs_error']:.5f}", f"{r['max_abs_error_from_exact']:.5f}"
        found.add_row(r["preset"], r["protocol"], *errors, f"{r['seconds']:.0f}")
    return found


def write(record: dict[str, Any]) -> None:
    """The result file, with what the figures depend on."""
    options = f"--pairs {record['pairs']} --max-length {record['max_length']} --batch {record['pairs_a_request']}"
    record = {
        "command": f"python {Path(__file__).relative_to(ROOT)} --data-dir GLUE {options}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": reports.versions(),
        **record,
    }
    RESULT.parent.mkdir(exist_ok=True)
    partial = RESULT.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(RESULT)


if __name__ == "__main__":
    typer.run(main)
