"""`secformer certs`: a private CA, a certificate for each role of a cluster, and the dealer's SM2 key."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.cluster import config
from secformer_jax.errors import UserError


def require_cluster_packages() -> None:
    """Refuse when what only clusters need is not installed."""
    for package in ("aiohttp", "prometheus_client", "gmssl_pyx", "cryptography", "uvloop"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed, and clusters need it: pip install 'secformer_jax[cluster]'")


def run(reporter: Reporter, *, cluster: str, out: Path, days: int, force: bool) -> list[Entry]:
    """Write the files and say which, for whom."""
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
    return [{"file": str(path)} for path in written]
