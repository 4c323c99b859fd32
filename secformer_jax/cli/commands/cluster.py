"""What the commands of a cluster share: the packages that they need, the cluster file, and levels of a log."""

from __future__ import annotations

from pathlib import Path

from secformer_jax.cluster import config
from secformer_jax.errors import UserError

LEVELS = ("debug", "info", "warning", "error")


def read(cluster: str, tls: Path | None, insecure: bool = False) -> config.Cluster:
    """The cluster file."""
    return config.load(cluster, tls=tls, insecure_trusted_first_party=insecure)


def check_level(log_level: str) -> None:
    """Refuse a level that there is not."""
    if log_level not in LEVELS:
        raise UserError(f"--log-level {log_level}: one of {', '.join(LEVELS)} is expected")
