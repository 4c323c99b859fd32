"""SPU's own JSON layout of a protocol on named hosts (nodes, devices), read without SPU itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError

EMULATION = "1pc_ref2k"
"""The configuration of one party on SPU's plain ring: the same arithmetic, and no masks."""

PARTIES = {"REF2K": 1, "SEMI2K": 2, "ABY3": 3, "CHEETAH": 2}
"""Computing parties by protocol. SEMI2K runs with more as well, but the setting here is two servers and a dealer."""

_PACKAGE = Path(__file__).resolve().parents[2]
_INSTALLED = _PACKAGE / "spu_configs"
CONFIG_DIR = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.with_name("spu_configs")
"""Inside the package where it is installed, and beside it in a checkout."""


@dataclass(frozen=True)
class Layout:
    """What a file says, unchecked.

    Attributes:
        path: the file.
        nodes: the computing parties' names, by rank, and the addresses where they are asked to work.
        links: one address a party, by rank, for what the parties send each other.
        runtime: SPU's runtime_config as a JSON object.
        compiler: SPU's compiler options, by their SPU names.
        extra: the part of the file that is this project's own (key "secformer"), or None.
    """

    path: Path
    nodes: Mapping[str, str]
    links: tuple[str, ...]
    runtime: dict[str, Any]
    compiler: dict[str, Any]
    extra: Any


def names() -> list[str]:
    """Names of the configurations that come with the project."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.json"))


def read(path_or_name: str | Path) -> Layout:
    """Read a file by its path, or by the name of one in spu_configs/.

    Raises:
        UserError: no such file, or not SPU's layout.
    """
    path = Path(path_or_name)
    if not path.is_file():
        path = CONFIG_DIR / f"{path_or_name}.json"
    if not path.is_file():
        raise UserError(f"no config file {path_or_name}: give a path, or one of {', '.join(names())}")
    try:
        document = json.loads(path.read_text())
        device = document["devices"]["SPU"]["config"]
        nodes = {name: document["nodes"][name] for name in device["node_ids"]}
        return Layout(
            path=path,
            nodes=nodes,
            links=tuple(device.get("spu_internal_addrs") or nodes.values()),
            runtime=dict(device["runtime_config"]),
            compiler=dict(device.get("compiler_options", {})),
            extra=document.get("secformer"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"config {path} is not in SPU's layout ({error!r}): expected nodes, devices.SPU.config.runtime_config"
        ) from None


def check_parties(name: str, protocol: Any, count: int) -> None:
    """Refuse a protocol that is unknown, and one that does not run with so many parties.

    Raises:
        UserError: either.
    """
    if not isinstance(protocol, str) or protocol not in PARTIES:
        raise UserError(f"config {name}: unknown protocol {protocol!r}, expected one of {', '.join(PARTIES)}")
    if count != PARTIES[protocol]:
        raise UserError(
            f"config {name}: {protocol} runs with {PARTIES[protocol]} parties and the file lists {count}: mend "
            "node_ids and spu_internal_addrs"
        )
