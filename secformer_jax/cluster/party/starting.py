"""What a worker is told when a session begins: who takes part, where its keys lie, and what is served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secformer_jax.cluster import certs
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.party.shelf import Shelf
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.wire.message import Message


def write_link_files(folder: Path, name: str, certificates: Mapping[str, str], key: bytes) -> dict[str, str]:
    """Write what a session's link needs where nobody else reads it; returns where each file is.

    Args:
        folder: the worker's.
        name: of this party.
        certificates: of all parties.
        key: of this party's certificate.
    """
    peers = "".join(pem for party, pem in certificates.items() if party != name)
    contents = {"certificate": certificates[name].encode(), "key": key, "peers": peers.encode()}
    paths = {kind: folder / f"link-{kind}.pem" for kind in contents}
    for kind, data in contents.items():
        paths[kind].touch(mode=0o600)
        paths[kind].write_bytes(data)
    return {kind: str(path) for kind, path in paths.items()}


def start_message(
    cluster: Cluster, name: str, shelf: Shelf, deployment: Published | None, session: Mapping[str, Any]
) -> Message:
    """The command "start".

    Args:
        cluster: who takes part.
        name: of this party.
        shelf: where its shares lie.
        deployment: what is served, if anything.
        session: what is this session's own: its name, certificates, lanes, and where its keys lie.
    """
    files = cluster.tls(name)
    dealer_key = certs.sm2_public(files).read_text() if cluster.uses_beaver else ""
    return Message(
        "start",
        {
            **session,
            "name": name,
            "addresses": {party: str(address) for party, address in cluster.links.items()},
            "identity": {key: str(getattr(files, key)) for key in ("ca", "certificate", "key")},
            "cluster_file": str(cluster.path),
            "runtime": cluster.party_runtime(name, dealer_key),
            "description": None if deployment is None else deployment.to_json(),
            "weights": None if deployment is None else str(shelf.weights(deployment.name)),
            "seal": str(shelf.seal),
            "audits": cluster.options.audits,
            "link_sources": cluster.options.link_sources,
        },
    )
