"""Models, requests and figures that cluster.py and cluster_faults.py share."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secformer_jax.cli.commands.calibrate import encode_lines
from secformer_jax.cli.commands.compare import random_model, random_sentences
from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.clients.client import Answer, ClusterClient, statuses
from secformer_jax.cluster.config import OWNER
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.requirements import describe
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.models import checkpoint, folders
from secformer_jax.models.calibrate import calibrate_model, calibration_sentences
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.ranges import load_calibration
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Encoded, Tokenizer

TINY_LENGTH = 16


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with its functions, requests for it, and what they are answered in plaintext.

    Attributes:
        same: plaintext logits with the same functions, by request.
    """

    model: Checkpoint
    preset: str
    calibration: Calibration | None
    requests: list[Encoded]
    same: list[np.ndarray]

    def publish(self, local: LocalCluster) -> owner.Publication:
        """Publish it as its owner."""
        chosen = presets.preset(self.preset)
        described = describe(self.model, chosen, self.calibration)
        return asyncio.run(owner.publish(local.cluster, self.model, described))

    def error(self, index: int, answer: Answer) -> float:
        """Greatest difference of a logit from plaintext."""
        return float(np.abs(answer.logits - self.same[index % len(self.requests)]).max())


def tiny(preset: str) -> Subject:
    """Random weights and tokens."""
    model = random_model("tiny")
    sentences = random_sentences(model, TINY_LENGTH)
    rows = [sentences.rows(slice(i, i + 1)) for i in range(len(sentences.input_ids))]
    return _subject(model, preset, _measured(model, preset, sentences), rows)


def minilm(preset: str, length: int = 16) -> Subject:
    """The real model, and pairs of the package's own sentences."""
    model, lines = checkpoint.load("minilm"), calibration_sentences()
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    pairs = zip(lines[0::2], lines[1::2], strict=False)
    rows = [encode_request(model, tokenizer, *pair, length, truncate=True) for pair in pairs]
    return _subject(model, preset, _measured(model, preset, encode_lines(model, lines, 128)), rows)


def student(preset: str, length: int = 32) -> Subject:
    """The model of this package with its own ranges, and its own sentences."""
    model = checkpoint.load(folders.SHIPPED)
    tokenizer = Tokenizer(model.tokenizer_dir, model.config)
    rows = [encode_request(model, tokenizer, line, None, length, truncate=True) for line in calibration_sentences()]
    return _subject(model, preset, load_calibration(model, presets.preset(preset)), rows)


def _measured(model: Checkpoint, preset: str, sentences: Encoded) -> Calibration | None:
    chosen = presets.preset(preset)
    return calibrate_model(model, sentences, [presets.family(chosen)])[0] if presets.needs_calibration(chosen) else None


def _subject(model: Checkpoint, preset: str, ranges: Calibration | None, rows: list[Encoded]) -> Subject:
    chosen = presets.preset(preset)
    plain = Plaintext(model, chosen, calibration=ranges)
    return Subject(model, preset, ranges, rows, [plain(row) for row in rows])


async def ask(local: LocalCluster, client: str, requests: Sequence[Encoded]) -> list[Answer]:
    """One client's requests, one after the other over the same connections."""
    async with ClusterClient(local.cluster, client) as asking:
        return [await asking.infer(request) for request in requests]


async def ask_again(asking: ClusterClient, request: Encoded, tries: int = 5) -> tuple[Answer, int]:
    """One answer, and how often the request had to be sent again: a machine that pauses looks like a dead peer."""
    for again in range(tries):
        try:
            return await asking.infer(request), again
        except UserError:
            if again == tries - 1:
                raise
            await asyncio.sleep(20)
    raise AssertionError


UNNOTICED_SECONDS = 2.5
"""For so long a dealer can be gone without a word."""


def until_ready(local: LocalCluster, stays: float = UNNOTICED_SECONDS, seconds: float = 180) -> float:
    """Wait until the published model is served, and for so long; returns seconds until it was."""
    started, since = time.monotonic(), None
    while since is None or time.monotonic() < since + stays:
        found = asyncio.run(statuses(local.cluster, OWNER))
        ready = found[local.cluster.parties[0]].get("state") == "ready" and not any(
            "error" in f for f in found.values()
        )
        since = (since or time.monotonic()) if ready else None
        if time.monotonic() > started + seconds:
            raise UserError(f"not ready after {seconds:.0f} s: {found}")
        time.sleep(0.2)
    return since - started


def processes(local: LocalCluster) -> dict[str, int]:
    """Process numbers by role, the workers' too."""
    found = {name: process.pid for name, process in local.processes.items()}
    states = asyncio.run(statuses(local.cluster, OWNER))
    workers = {f"worker of {name}": state["worker"] for name, state in states.items() if state.get("worker")}
    return found | workers


def memory(pid: int) -> dict[str, float]:
    """Megabytes in memory now, and at most."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {"now": int(fields["VmRSS"].split()[0]) / 1e3, "peak": int(fields["VmHWM"].split()[0]) / 1e3}
