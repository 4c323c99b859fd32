"""`secformer dealer`: the assistant server of a cluster."""

from __future__ import annotations

from pathlib import Path

from secformer_jax.cli.commands.certs import require_cluster_packages
from secformer_jax.errors import UserError

LEVELS = ("debug", "info", "warning", "error")


def check_level(log_level: str) -> None:
    """Refuse a level that there is not."""
    if log_level not in LEVELS:
        raise UserError(f"--log-level {log_level}: one of {', '.join(LEVELS)} is expected")


def run(*, cluster: str, tls: Path | None, state: Path | None, memory_limit: float, log_level: str) -> None:
    """Serve until stopped."""
    require_cluster_packages()
    import uvloop

    from secformer_jax.cluster import config, logs
    from secformer_jax.cluster.dealer import server as dealer

    check_level(log_level)
    if not 0.1 <= memory_limit <= 1024:
        raise UserError(f"--memory-limit {memory_limit:g}: 0.1 to 1024 gigabytes are expected")
    found = config.load(cluster, tls=tls)
    found.dealer_address()
    logs.start(config.DEALER, log_level)
    # Thousands of small requests wait for each other: this loop takes half the time for one that asyncio's does.
    uvloop.run(dealer.run(found, dealer.state_folder(found, state), memory_limit=int(memory_limit * 1e9)))
