"""A cluster of real processes with a tiny model, for the tests."""

import asyncio
import dataclasses
import socket
import time
from pathlib import Path

import numpy as np
from opened_bert import TINY, calibrate, opened_checkpoint, request

from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.clients.client import Answer, ClusterClient, statuses
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.requirements import describe
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.models import checkpoint
from secformer_jax.models.plaintext import Plaintext

CONFIG = dataclasses.replace(TINY, vocab_size=64)
TOLERANCE = 0.02
ONE = (9,)
"""One text of nine tokens."""


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "a", "dog", "sat", "ran")


class Tiny:
    """A published tiny model, and its answers in plaintext."""

    def __init__(self, preset: str) -> None:
        self.model, approximations = opened_checkpoint(CONFIG), presets.preset(preset)
        ranges = calibrate(self.model, preset, 32) if presets.needs_calibration(approximations) else None
        self.description = describe(self.model, approximations, ranges)
        self.plain = Plaintext(self.model, approximations, calibration=ranges)

    def publish(self, local: LocalCluster) -> None:
        self.published = asyncio.run(owner.publish(local.cluster, self.model, self.description))

    def client_folder(self, folder: Path) -> Path:
        """What a client has of it: no weights."""
        (folder / "tokens").mkdir()
        (folder / "tokens" / "vocab.txt").write_text("\n".join(WORDS))
        checkpoint.save(dataclasses.replace(self.model, tokenizer_dir=folder / "tokens"), folder / "model")
        (folder / "model" / "model.safetensors").unlink()
        return folder / "model"

    def text(self, seed: int, length: int = 16):
        return request(CONFIG, seed, ONE if length > ONE[0] else (5,), length)

    def error(self, encoded, answer: Answer) -> float:
        return float(np.abs(answer.logits - self.plain(encoded)).max())


def ask(local: LocalCluster, client: str, *texts) -> list[Answer]:
    """One client's requests, one after the other."""

    async def run() -> list[Answer]:
        async with ClusterClient(local.cluster, client) as asking:
            return [await asking.infer(text) for text in texts]

    return asyncio.run(run())


def status(local: LocalCluster, role: str = "owner") -> dict:
    return asyncio.run(statuses(local.cluster, role))


def until_ready(local: LocalCluster, seconds: float = 120) -> None:
    """Wait until a model is served, and is so for longer than it takes to miss a dealer that is gone."""
    ends, since = time.monotonic() + seconds, None
    while since is None or time.monotonic() < since + 2.5:
        found = status(local)
        ready = found[local.cluster.parties[0]].get("state") == "ready" and _dealer_listens(local)
        since = (since or time.monotonic()) if ready and all("error" not in each for each in found.values()) else None
        if time.monotonic() > ends:
            raise UserError(f"not ready: {found}")
        time.sleep(0.3)


def until_logged(local: LocalCluster, name: str, text: str, seconds: float) -> None:
    """Wait until a server has written these words to its log."""
    ends = time.monotonic() + seconds
    while text not in local.log(name).read_text():
        assert time.monotonic() < ends, f"{name} has not written {text!r} in {seconds} s"
        time.sleep(0.2)


def _dealer_listens(local: LocalCluster) -> bool:
    address = local.cluster.dealer
    if address is None:
        return True
    try:
        socket.create_connection((address.host, address.port), 5).close()
    except OSError:
        return False
    return True
