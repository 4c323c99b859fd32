"""`secformer status`: what every server of a cluster says of itself."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from secformer_jax.cli.commands.cluster import read
from secformer_jax.cli.options import ClusterFile, Json, TlsFolder
from secformer_jax.cli.report import Reporter
from secformer_jax.cluster.clients import client


def status(
    cluster: ClusterFile,
    role: Annotated[
        str, typer.Option("--role", help="Who asks: owner, an operator, or a client, who sees less.")
    ] = "owner",
    tls: TlsFolder = None,
    json: Json = False,
) -> None:
    """Parties, model, requests, queue and bytes of a cluster."""
    reporter = Reporter(json)
    asked = read(cluster, tls, insecure=True)

    found = asyncio.run(client.statuses(asked, role))
    rows = []
    for name, each in found.items():
        if "error" in each:
            rows.append((name, each["error"], "", "", "", ""))
            continue
        if "counts" not in each:
            rows.append((name, each["state"], (each["model"] or "none")[:12], "", "", ""))
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
    reporter.table(f"Cluster {asked.name}", columns, rows)
    reporter.results([{key: value for key, value in each.items() if key != "description"} for each in found.values()])
