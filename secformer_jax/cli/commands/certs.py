"""`secformer certs`: a private CA, a certificate for each role of a cluster, and the dealer's SM2 key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.cli.commands.cluster import require_cluster_packages
from secformer_jax.cli.options import ClusterFile, Json
from secformer_jax.cli.report import Reporter
from secformer_jax.cluster import config
from secformer_jax.errors import UserError


def certs(
    cluster: ClusterFile,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into; made when missing.")],
    days: Annotated[int, typer.Option("--days", help="How long the certificates are valid.")] = 365,
    force: Annotated[bool, typer.Option("--force", help="Make all anew, what is there already too.")] = False,
    json: Json = False,
) -> None:
    """A private CA and a certificate for each role of a cluster."""
    reporter = Reporter(json)
    require_cluster_packages()
    from secformer_jax.cluster import certs

    if days < 1:
        raise UserError(f"--days {days}: at least 1 is expected")
    # Certificates are the same whatever runs over them.
    found = config.load(cluster, insecure_trusted_first_party=True)
    written = certs.write(found, out, days=days, force=force)
    for path in written:
        reporter.say(str(path))
    if not written:
        reporter.say(f"{out} has all of them already: --force makes them anew")
    reporter.say(
        f"Give each role its own .pem and .key, and everyone {config.TLS_FILES['ca']}; keep {certs.CA_KEY} away."
    )
    reporter.results([{"file": str(path)} for path in written])
