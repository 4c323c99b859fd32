"""What a request cost, as entries of --json and as cells of tables."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secformer_jax.cli.report import Entry

if TYPE_CHECKING:
    from secformer_jax.inference.private import Answer
    from secformer_jax.mpc.runtime.profile import Cost

MEGABYTE = 1e6
NOTHING: Entry = {"seconds": 0.0, "send_bytes": 0, "send_actions": 0}


def restart_peak_memory() -> None:
    """Let `peak_memory_bytes` count from here, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def costs(first: Answer, steady: Answer) -> Entry:
    """The cost of a request in the steady state, and under first_* that of the engine's first of this shape."""
    profile = steady.result.profile
    return {
        "seq_length": steady.seq_length,
        "seconds": steady.result.seconds,
        "compile_seconds": first.compile_seconds,
        "send_bytes": profile.total.send_bytes,
        "send_actions": profile.total.send_actions,
        "offline_bytes": steady.result.offline_bytes,
        "offline_seconds": steady.result.offline_seconds,
        "dealing_seconds": steady.result.dealing_seconds,
        "preparing_seconds": steady.result.preparing_seconds,
        "whole_seconds": steady.result.whole_seconds,
        "input_bytes": steady.result.input_bytes,
        "dealt_bytes": list(steady.result.dealt_bytes),
        "client_bytes": list(steady.result.client_bytes),
        "first_seconds": first.result.seconds,
        "first_send_bytes": first.result.profile.total.send_bytes,
        "first_send_actions": first.result.profile.total.send_actions,
        "first_offline_bytes": first.result.offline_bytes,
        "setup_send_bytes": first.result.setup.total.send_bytes,
        "by_part": _by_name(profile.by_part),
        "by_operation": _by_name(profile.by_operation),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _by_name(by_name: Mapping[str, Cost]) -> dict[str, Entry]:
    return {
        name: {"seconds": cost.seconds, "send_bytes": cost.send_bytes, "send_actions": cost.send_actions}
        for name, cost in by_name.items()
    }


WHOLE = (
    *("online s", "dealer s", "servers ahead s", "whole s"),
    *("server to server MB", "dealer to servers MB", "client to servers MB"),
)
"""Everything that a request needs: seconds by role, megabytes by link (of the servers, what rank 0 sends)."""


def whole_cells(cost: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures under `WHOLE`, as table cells; those of several servers stand side by side."""
    seconds = (f"{cost[name]:.2f}" for name in ("seconds", "dealing_seconds", "preparing_seconds", "whole_seconds"))
    to_servers = (
        " + ".join(f"{each / MEGABYTE:,.2f}" for each in cost[name]) for name in ("dealt_bytes", "client_bytes")
    )
    return (*seconds, f"{cost['send_bytes'] / MEGABYTE:,.1f}", *to_servers)


def cost_cells(cost: Mapping[str, Any], prefix: str = "") -> tuple[str, str, str]:
    """Seconds, MB sent and sends of an entry or of one of its parts, as table cells."""
    megabytes = cost[f"{prefix}send_bytes"] / MEGABYTE
    return f"{cost[f'{prefix}seconds']:.2f}", f"{megabytes:,.1f}", f"{cost[f'{prefix}send_actions']:,}"
