"""Private sentiment by a cluster: two servers, a dealer, a model owner and a client as processes of their own.

All on this machine's loopback, over mutual TLS. The owner publishes the student that comes with the package (preset
fast), and the client sends three sentences, or those that are given; where the student is missing it is MiniLM (preset
drop-in), and three pairs of sentences are compared. Prints the answers, and what each process received. Run by `make
demo-cluster`; stops everything that it started.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.models import checkpoint, folders
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Tokenizer

SENTENCES = (
    "A warm and funny film that I would happily watch again.",
    "The plot makes no sense, and two hours feel like four.",
    "Go and see it with somebody you love.",
)
MODEL, PRESET = folders.SHIPPED, "fast"
TOLERANCE = 0.02
Answer = dict[str, Any]


def main(own: Sequence[str]) -> int:
    """Run the demo; returns 1 if an answer is too far from plaintext."""
    started, console = time.perf_counter(), Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print("Private inference by five processes: dealer, S0, S1, owner, client (SEMI2K, mutual TLS)\n")
    asked = [word for text in own or SENTENCES for word in ("--text", text)]
    with tempfile.TemporaryDirectory(prefix="secformer-demo-") as folder:
        with LocalCluster(Path(folder), "2pc_semi2k_dealer") as local:
            at = ["--cluster", str(local.path), "--json"]
            [published] = secformer("publish", *at, "--model", MODEL, "--preset", PRESET)
            answers = secformer("infer", *at, "--model", MODEL, *asked)
            found = secformer("status", *at)
        worst = report(console, answers)
        who_saw_what(console, published, answers, found)
        ended = {name: process.returncode for name, process in local.processes.items()}
    console.print(f"\nEverything is stopped (exit status {', '.join(f'{n} {code}' for n, code in ended.items())}).")
    verdict = "within" if worst <= TOLERANCE else "NOT within"
    console.print(f"Greatest difference {worst:.4f}: {verdict} {TOLERANCE} of plaintext.")
    console.print(f"The whole run took {time.perf_counter() - started:.0f} s.")
    return int(not worst <= TOLERANCE or any(ended.values()))


def secformer(*arguments: str) -> list[Answer]:
    """Run a command of the owner's or the client's as a process; its --json results."""
    done = subprocess.run([sys.executable, "-m", "secformer_jax", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["no word"])[-1])
    return json.loads(done.stdout)["results"] if "--json" in arguments else []


def report(console: Console, answers: list[Answer]) -> float:
    """Print each answer beside plaintext; returns the greatest difference."""
    loaded = checkpoint.load(MODEL)
    plain = Plaintext(loaded, presets.families()[presets.family(presets.preset(PRESET))])
    tokenizer, worst = Tokenizer(loaded.tokenizer_dir, loaded.config), 0.0
    for answer in answers:
        plaintext = plain(encode_request(loaded, tokenizer, answer["text"])).reshape(-1)
        difference = float(np.abs(np.array(answer["logits"]) - plaintext).max())
        worst = max(worst, difference)
        console.print("  " + escape(answer["text"]))
        console.print(
            f"    {answer['label']}, difference from plaintext {difference:.4f}; {answer['seconds']:.1f} s, "
            f"{answer['party']['send_bytes'] / 1e6:.1f} MB from server to server"
        )
    return worst


def who_saw_what(console: Console, published: Answer, answers: list[Answer], found: list[Answer]) -> None:
    """What each process received, in bytes and in words."""

    def received(server: Answer, link: str) -> str:
        return f"{server['counts'].get(f'secformer_received_bytes_total {link}', 0) / 1e6:.1f} MB"

    console.print("\nWho saw what")
    for server in found:
        sent = server["counts"]["secformer_sent_bytes_total link"] / 1e6
        console.print(
            f"  {server['role']}: {received(server, 'owner')} from the owner, {received(server, 'clients')} from the "
            f"client, {received(server, 'dealer')} from the dealer: its shares alone, uniformly random. It sent the "
            f"other server {sent:.1f} MB under fresh masks."
        )
    console.print("  dealer: the architecture and what shapes of masks were needed; no text, no weight, no share.")
    console.print(f"  owner: nothing; it sent {published['tensors']} tensors and left.")
    console.print(f"  client: its own {len(answers)} answers.")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"demo: {error}")
