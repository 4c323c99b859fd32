"""What the commands of a cluster share: the packages that they need, the cluster file, and levels of a log."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from secformer_jax.cluster import config
from secformer_jax.errors import UserError

LEVELS = ("debug", "info", "warning", "error")


def require_cluster_packages() -> None:
    """Refuse when what only clusters need is not installed."""
    for package in ("aiohttp", "prometheus_client", "gmssl_pyx", "cryptography", "uvloop"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed, and clusters need it: pip install 'secformer_jax[cluster]'")


def read(cluster: str, tls: Path | None, insecure: bool = False) -> config.Cluster:
    """The cluster file."""
    require_cluster_packages()
    return config.load(cluster, tls=tls, insecure_trusted_first_party=insecure)


def check_level(log_level: str) -> None:
    """Refuse a level that there is not."""
    if log_level not in LEVELS:
        raise UserError(f"--log-level {log_level}: one of {', '.join(LEVELS)} is expected")
