"""`secformer party`, `publish`, `status`, and `infer --cluster`: servers, model owner and clients of a cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secformer_jax.cli.commands.certs import require_cluster_packages
from secformer_jax.cli.commands.common import Choice, choice_for
from secformer_jax.cli.commands.dealer import check_level
from secformer_jax.cli.commands.infer import checked_head, described
from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster import config
from secformer_jax.errors import UserError
from secformer_jax.inference.answers import decode
from secformer_jax.models.calibrate import DEFAULT_LENGTH, ensure_calibration
from secformer_jax.models.checkpoint import load, resolve
from secformer_jax.models.heads import HEADS
from secformer_jax.models.plaintext import encode_request
from secformer_jax.models.text import Tokenizer


@dataclass(frozen=True)
class Texts:
    """What is asked, and how it is cut."""

    texts: Sequence[str]
    pairs: Sequence[str]
    max_length: int | None
    truncate: bool

    def requests(self) -> list[tuple[str, str | None]]:
        """Texts, or pairs of texts.

        Raises:
            UserError: none, or another number of second texts than of first ones.
        """
        if not self.texts:
            raise UserError("no text: pass --text")
        if self.pairs and len(self.pairs) != len(self.texts):
            raise UserError(f"{len(self.texts)} --text and {len(self.pairs)} --text-pair: pass one pair for each text")
        return list(itertools.zip_longest(self.texts, self.pairs))


def read(cluster: str, tls: Path | None, insecure: bool = False) -> config.Cluster:
    """The cluster file."""
    require_cluster_packages()
    return config.load(cluster, tls=tls, insecure_trusted_first_party=insecure)


def party(cluster: config.Cluster, *, name: str, state: Path | None, log_level: str) -> None:
    """Run a computing server until it is stopped."""
    from secformer_jax.cluster import logs
    from secformer_jax.cluster.party import server

    cluster.rank(name)
    check_level(log_level)
    logs.start(name, log_level)
    folder = state or cluster.tls(name).key.parent / f"{name}-state"
    asyncio.run(server.PartyServer(cluster, name, folder.resolve()).run())


def publish(
    reporter: Reporter,
    cluster: config.Cluster,
    *,
    model: str,
    choice: Choice,
    calibration: str | None,
    embedding: str,
    keep_weights: bool,
    head: str | None = None,
) -> list[Entry]:
    """Share a checkpoint among the servers."""
    from secformer_jax.cluster.clients import owner
    from secformer_jax.cluster.deployment import Deployment

    loaded = load(model)
    head = checked_head(loaded, head)
    choice = choice_for(loaded, choice)
    approximations = choice.approximations()
    length = min(DEFAULT_LENGTH, loaded.config.positions)
    ranges = ensure_calibration(loaded, approximations, length=length, path=calibration, say=reporter.say)
    deployment = Deployment.describe(
        loaded, approximations, ranges, embedding=embedding, keep_weights=keep_weights, head=head
    )
    done = asyncio.run(owner.publish(cluster, loaded, deployment))
    megabytes = [sent / 1e6 for sent in done.sent_bytes]
    reporter.say(
        f"{done.tensors} tensors published as {done.deployment}: "
        + ", ".join(f"{mb:,.1f} MB to {party}" for party, mb in zip(cluster.parties, megabytes, strict=True))
    )
    sent = dict(zip(cluster.parties, done.sent_bytes, strict=True))
    return [{"deployment": done.deployment, "tensors": done.tensors, **choice.entry(), "sent_bytes": sent}]


def infer(
    reporter: Reporter,
    cluster: config.Cluster,
    *,
    client: str,
    model: str,
    texts: Texts,
    head: str | None = None,
) -> list[Entry]:
    """Answer each text, or each pair of texts; of the model's folder only the tokenizer is read.

    Raises:
        UserError: the published model answers otherwise than by the head asked for.
    """
    return asyncio.run(_infer(reporter, cluster, client, resolve(model), texts, head))


async def _infer(
    reporter: Reporter, cluster: config.Cluster, client: str, folder: Path, texts: Texts, head: str | None
) -> list[Entry]:
    from secformer_jax.cluster.clients.client import ClusterClient
    from secformer_jax.cluster.plans import without_weights

    entries = []
    async with ClusterClient(cluster, client) as asking:
        deployment = await asking.deployment()
        if head is not None and head != deployment.head:
            raise UserError(
                f"the published model answers with {deployment.head}, and {head} was asked for: it has to be published "
                f"with --head {head}"
            )
        model, head = without_weights(deployment), deployment.head
        tokenizer = Tokenizer(folder, deployment.config)
        for text, pair in texts.requests():
            encoded = encode_request(model, tokenizer, text, pair, texts.max_length, texts.truncate, head=head)
            answer = await asking.infer(encoded)
            found = decode(model.config, head, answer.logits[0], encoded.tokens[0], (text, pair))
            entry: dict[str, Any] = {"text": text, "text_pair": pair, "head": head, "reveals": HEADS[head].reveals}
            entry |= {**found, "seconds": answer.seconds}
            entry["sent_bytes"] = dict(zip(cluster.parties, answer.sent_bytes, strict=True))
            entries.append(entry | {"party": answer.party})
            reporter.say(" / ".join(part for part in (text, pair) if part))
            for line in described(found):
                reporter.say(f"  {line}")
            reporter.say(f"  {answer.seconds:.1f} s")
    return entries


def status(reporter: Reporter, cluster: config.Cluster, *, role: str) -> list[Entry]:
    """What every server says of itself."""
    from secformer_jax.cluster.clients import client

    found = asyncio.run(client.statuses(cluster, role))
    rows = []
    for name, each in found.items():
        if "error" in each:
            rows.append((name, each["error"], "", "", "", ""))
            continue
        counts = each["counts"]
        sent = sum(value for key, value in counts.items() if key.startswith("secformer_sent_bytes_total"))
        received = sum(value for key, value in counts.items() if key.startswith("secformer_received_bytes_total"))
        answered = counts.get("secformer_requests_total answered", 0)
        rows.append(
            (
                name,
                each["state"],
                (each["model"] or "none")[:12],
                f"{answered:.0f}",
                str(each["waiting"]),
                f"{sent / 1e6:,.1f} / {received / 1e6:,.1f}",
            )
        )
    columns = ("server", "state", "model", "answered", "waiting", "MB sent / received")
    reporter.table(f"Cluster {cluster.name}", columns, rows)
    return [{key: value for key, value in each.items() if key != "description"} for each in found.values()]
