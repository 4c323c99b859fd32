"""Bad credentials for every link's test: how each is made, once."""

from __future__ import annotations

import dataclasses
import datetime
import json
import ssl
from collections.abc import Callable
from pathlib import Path

from secformer_jax.cluster import certs, config
from secformer_jax.cluster.loopback import free_ports
from secformer_jax.cluster.wire import tls
from secformer_jax.mpc.runtime.layout import CONFIG_DIR


def folder(path: Path, cluster: config.Cluster) -> config.Cluster:
    """Certificates for a cluster, and the cluster that finds them there."""
    certs.write(cluster, path)
    return config.load(cluster.path, tls=path, insecure_trusted_first_party=True)


def on_free_ports(path: Path) -> config.Cluster:
    """A cluster file of one's own in a folder, for ports that are free, with everybody's keys in tls/."""
    document = json.loads((CONFIG_DIR / "2pc_semi2k_dealer.json").read_text())
    ports = [f"127.0.0.1:{port}" for port in free_ports(5)]
    document["nodes"] = dict(zip(("S0", "S1"), ports, strict=False))
    document["devices"]["SPU"]["config"]["spu_internal_addrs"] = ports[2:4]
    document["secformer"] = {"dealer": ports[4], "clients": ["client"], "tls": "tls"}
    (path / "cluster.json").write_text(json.dumps(document))
    made = config.load(path / "cluster.json")
    certs.write(made, path / "tls")
    return made


def wrong_ca(cluster: config.Cluster, role: str, scratch: Path) -> ssl.SSLContext:
    """A certificate with the right name from another CA."""
    return _made(cluster, role, scratch, certs.Authority.create())


def expired(cluster: config.Cluster, role: str, scratch: Path) -> ssl.SSLContext:
    """A certificate with the right name that ended a minute ago."""
    ends = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    return _made(cluster, role, scratch, certs.Authority.load(cluster.tls(role).ca.parent), ends=ends)


def other_name(cluster: config.Cluster, role: str, scratch: Path) -> ssl.SSLContext:
    """A good certificate of the right CA, that of another role."""
    return _made(cluster, f"not-{role}", scratch, certs.Authority.load(cluster.tls(role).ca.parent))


def no_certificate(cluster: config.Cluster, role: str, scratch: Path) -> ssl.SSLContext:
    """A client that trusts the right CA and shows nothing."""
    context = ssl.create_default_context(cafile=cluster.tls(role).ca)
    return context


def plaintext(cluster: config.Cluster, role: str, scratch: Path) -> None:
    """No TLS at all."""


CLIENT_CASES: dict[str, Callable] = {
    case.__name__: case for case in (wrong_ca, expired, other_name, no_certificate, plaintext)
}
"""What a server has to refuse: case(cluster, role, scratch) is what the client connects with."""


def _made(cluster, role, scratch: Path, authority: certs.Authority, **options) -> ssl.SSLContext:
    scratch.mkdir(parents=True, exist_ok=True)
    certificate, key = authority.issue(role, **options)
    files = config.TlsFiles(cluster.tls(cluster.parties[0]).ca, scratch / "bad.pem", scratch / "bad.key")
    files.certificate.write_bytes(certificate)
    files.key.touch(mode=0o600)
    files.key.write_bytes(key)
    return tls.client_context(files)


def server_context(cluster: config.Cluster, name: str, scratch: Path, case: str) -> ssl.SSLContext:
    """A server that a client has to refuse: wrong_ca, expired or other_name."""
    scratch.mkdir(parents=True, exist_ok=True)
    right = certs.Authority.load(cluster.tls(name).ca.parent)
    authority = certs.Authority.create() if case == "wrong_ca" else right
    ends = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1) if case == "expired" else None
    certificate, key = authority.issue(f"not-{name}" if case == "other_name" else name, ["127.0.0.1"], ends=ends)
    files = dataclasses.replace(cluster.tls(name), certificate=scratch / "bad.pem", key=scratch / "bad.key")
    files.certificate.write_bytes(certificate)
    files.key.touch(mode=0o600)
    files.key.write_bytes(key)
    return tls.server_context(files)


SERVER_CASES = ("wrong_ca", "expired", "other_name")
