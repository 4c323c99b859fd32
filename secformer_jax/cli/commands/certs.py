"""`secformer certs`: a private CA, a certificate for each role of a cluster, and the dealer's SM2 key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.cli.options import ClusterFile, Json
from secformer_jax.cli.report import Reporter
from secformer_jax.cluster import certs as certificates
from secformer_jax.cluster import config, signing
from secformer_jax.errors import UserError


def certs(
    cluster: ClusterFile,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into; made when missing.")],
    request: Annotated[str | None, typer.Option("--request", help="At a role: its key and a request to sign.")] = None,
    sign: Annotated[list[Path] | None, typer.Option("--sign", help="At the CA: sign this request.")] = None,
    revoke: Annotated[
        Path | None, typer.Option("--revoke", help="At the CA: take this certificate back, by a list for all roles.")
    ] = None,
    days: Annotated[int, typer.Option("--days", help="How long the certificates are valid.")] = 365,
    force: Annotated[bool, typer.Option("--force", help="Make all anew, what is there already too.")] = False,
    json: Json = False,
) -> None:
    """Keys and certificates: every role's own, signed by a CA, or all in one folder to try things out."""
    reporter = Reporter(json)
    if days < 1:
        raise UserError(f"--days {days}: at least 1 is expected")
    if sum(map(bool, (request is not None, sign, revoke, force))) > 1:
        raise UserError(
            "--request is for a role, --sign and --revoke for the CA, and --force for a new CA: one of them"
        )
    # Certificates are the same whatever runs over them.
    found = config.load(cluster, insecure_trusted_first_party=True)
    if request is not None:
        written = signing.request(found, request, out)
        reporter.say(f"Send these to the CA: {', '.join(map(str, written))}. The keys beside them stay here.")
    elif sign:
        written = list(dict.fromkeys(path for each in sign for path in signing.sign(found, each, out, days=days)))
        reporter.say(f"Send these back: {', '.join(map(str, written))}. {out / certificates.CA_KEY} stays here.")
    elif revoke:
        written = [signing.revoke(revoke, out, days=days)]
        reporter.say(f"Send {written[0]} to every role: it goes beside {config.TLS_FILES['ca']}, and counts at once.")
    else:
        written = certificates.write(found, out, days=days, force=force)
        for path in written:
            reporter.say(str(path))
        if not written:
            reporter.say(f"{out} has all of them already: --force makes them anew")
        reporter.say(
            f"To try things out: who has {out} has every key, and can read every text and every weight. Elsewhere "
            "each role runs --request and the CA --sign (docs/cluster.md)."
        )
    reporter.results([{"file": str(path)} for path in written])
