"""The cluster file: SPU's JSON layout, and one key "secformer" with what SPU has no place for.

    "nodes":     a party's name -> host:port where the model owner and the clients reach it
    "devices":   SPU's device: node_ids (by rank), spu_internal_addrs (the parties' links), runtime_config
    "secformer": {"dealer": "host:port", "clients": ["client"], "tls": "certs"}

"tls" is a folder, or three paths {"ca", "certificate", "key"} in which {name} stands for the role; both are relative to
the file. Without it, the folder is tls/ beside the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secformer_jax.cluster.options import KEYS as OPTIONS
from secformer_jax.cluster.options import Options, name_list
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import layout

DEALER, OWNER = "dealer", "owner"
TRUSTED_FIRST_PARTY, TRUSTED_THIRD_PARTY = "TrustedFirstParty", "TrustedThirdParty"
INSECURE_FLAG = "--insecure-trusted-first-party"
KEYS = ("dealer", "clients", "tls", *OPTIONS)
TLS_FILES = {"ca": "ca.pem", "certificate": "{name}.pem", "key": "{name}.key"}
DEFAULT_TLS = "tls"
DEALER_CA = "dealer-ca.pem"
"""Beside the common CA's certificate: the CA of the dealer alone, for SPU's client, which checks no name."""
# Depth 0 means no check at all in SPU; the certificates here come straight from the CA, so one step is enough.
VERIFY_DEPTH = 1
# A name is also a host name in certificates and a file's name: no dots, no wildcards.
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """Where a process listens; a host is a name, an IPv4 address, or an IPv6 address without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class TlsFiles:
    """Paths of one role's certificate and key, and of the CA that signed the others'."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Cluster:
    """Who takes part, and where.

    Attributes:
        path: the cluster file, which is also what `mpc.config.load` reads.
        control: the computing parties' names, by rank, and where the owner and the clients reach them.
        links: where the parties reach each other, by name.
        dealer: where the parties reach the dealer; None without one.
        clients: names of those who may ask for predictions.
        runtime: SPU's runtime_config as the file has it.
        tls_paths: absolute path templates by the keys of `TLS_FILES`.
        options: what its operators choose.
    """

    path: Path
    control: Mapping[str, Address]
    links: Mapping[str, Address]
    dealer: Address | None
    clients: tuple[str, ...]
    runtime: Mapping[str, Any]
    tls_paths: Mapping[str, str]
    options: Options

    @property
    def fraction_bits(self) -> int:
        """Of the runtime's numbers."""
        return int(self.runtime["fxp_fraction_bits"])

    @property
    def protocol(self) -> str:
        """SPU's name of the protocol."""
        return str(self.runtime["protocol"])

    @property
    def name(self) -> str:
        """What reports call it, the file's stem."""
        return self.path.stem

    @property
    def parties(self) -> tuple[str, ...]:
        """The computing parties' names, by rank."""
        return tuple(self.control)

    @property
    def roles(self) -> tuple[str, ...]:
        """Everyone who needs a certificate."""
        return (*dict.fromkeys((*self.operators, *self.clients)),)

    @property
    def operators(self) -> tuple[str, ...]:
        """Those who may see how much everybody uses a server: its peers, the owner, and who is named besides."""
        return (*self.parties, *([DEALER] if self.dealer else []), OWNER, *self.options.operators)

    @property
    def uses_beaver(self) -> bool:
        """Whether SPU itself asks the dealer for correlated randomness."""
        return self.runtime.get("beaver_type") == TRUSTED_THIRD_PARTY

    def rank(self, party: str) -> int:
        """A party's rank.

        Raises:
            UserError: no party has this name.
        """
        if party not in self.control:
            raise UserError(f"no party {party!r} in {self.path}: its parties are {', '.join(self.parties)}")
        return self.parties.index(party)

    def hosts(self, role: str) -> tuple[str, ...]:
        """The hosts on which a role listens; none for the owner and the clients."""
        found = [addresses[role].host for addresses in (self.control, self.links) if role in addresses]
        if role == DEALER and self.dealer:
            found.append(self.dealer.host)
        return tuple(dict.fromkeys(found))

    def dealer_address(self) -> Address:
        """Where the dealer listens.

        Raises:
            UserError: the file names none.
        """
        if self.dealer is None:
            raise UserError(f'{self.path} has no dealer: add "secformer": {{"dealer": "host:port"}}')
        return self.dealer

    def tls(self, role: str) -> TlsFiles:
        """The paths of a role's TLS files.

        Raises:
            UserError: the file knows no such role.
        """
        if role not in self.roles:
            raise UserError(f"no role {role!r} in {self.path}: its roles are {', '.join(self.roles)}")
        return TlsFiles(**{key: Path(path.replace("{name}", role)) for key, path in self.tls_paths.items()})

    def party_runtime(self, party: str, dealer_key: str) -> dict[str, Any]:
        """SPU's runtime_config for one party, with its connection to the dealer when SPU needs one.

        Args:
            party: its name.
            dealer_key: the dealer's public SM2 key, as PEM text.
        """
        runtime = dict(self.runtime)
        if self.uses_beaver:
            files = self.tls(party)
            runtime["ttp_beaver_config"] = {
                "adjust_rank": 0,
                **runtime.get("ttp_beaver_config", {}),
                "server_host": str(self.dealer_address()),
                "asym_crypto_schema": "SM2",
                "server_public_key": dealer_key,
                "transport_protocol": "http",
                "ssl_config": {
                    "certificate": str(files.certificate),
                    "private_key": str(files.key),
                    "ca_file_path": str(files.ca.with_name(DEALER_CA)),
                    "verify_depth": VERIFY_DEPTH,
                },
            }
        return runtime


def load(path_or_name: str | Path, *, tls: Path | None = None, insecure_trusted_first_party: bool = False) -> Cluster:
    """Read and check a cluster file, by its path or by the name of one in spu_configs/.

    Args:
        path_or_name: the file.
        tls: a folder of certificates that goes before the file's own.
        insecure_trusted_first_party: allow SEMI2K whose rank 0 knows all randomness.

    Raises:
        UserError: not SPU's layout, a bad address or name, too few parties for secrets, or SEMI2K without a dealer.
    """
    found = layout.read(path_or_name)
    path = found.path.resolve()
    extra = found.extra if found.extra is not None else {}
    if not isinstance(extra, dict) or set(extra) - set(KEYS):
        raise UserError(f'{path}: "secformer" is an object with the keys {", ".join(KEYS)}; see spu_configs/')
    if len(found.links) != len(found.nodes):
        raise UserError(
            f"{path}: {len(found.nodes)} node_ids and {len(found.links)} spu_internal_addrs: one for each is expected"
        )
    _check_protocol(path, found)
    control = {name: _address(text, f"node {name}", path) for name, text in found.nodes.items()}
    links = {name: _address(text, f"link of {name}", path) for name, text in zip(found.nodes, found.links, strict=True)}
    clients = name_list(path, "clients", extra.get("clients", ["client"]))
    dealer = None if extra.get("dealer") is None else _address(extra["dealer"], "dealer", path)
    paths, chosen = _tls_paths(path, extra, tls), Options.read(path, extra)
    cluster = Cluster(path, control, links, dealer, clients, found.runtime, paths, chosen)
    _check_names(cluster)
    _check_ports(cluster)
    _check_beaver(cluster, insecure_trusted_first_party)
    return cluster


def _address(text: Any, what: str, path: Path) -> Address:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or any(c.isspace() or c == "/" for c in host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{path}: {what} is at {text!r}, and host:port was expected, the port from 1 to 65535")
    return Address(host, int(port))


def _tls_paths(path: Path, extra: Mapping[str, Any], folder: Path | None) -> dict[str, str]:
    given = str(folder.resolve()) if folder is not None else extra.get("tls", DEFAULT_TLS)
    if isinstance(given, str):
        given = {key: f"{given}/{name}" for key, name in TLS_FILES.items()}
    if (
        not isinstance(given, dict)
        or set(given) != set(TLS_FILES)
        or not all(isinstance(value, str) for value in given.values())
    ):
        raise UserError(f'{path}: "tls" is a folder, or paths for {", ".join(TLS_FILES)}, with {{name}} for the role')
    return {key: str(path.parent / value) for key, value in given.items()}


def _check_names(cluster: Cluster) -> None:
    names = [*cluster.parties, DEALER, OWNER, *cluster.clients, *cluster.options.operators]
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"{cluster.path}: the name {name!r} can't stand in a certificate: letters, digits, hyphens")
        if [other.lower() for other in names if isinstance(other, str)].count(name.lower()) > 1:
            raise UserError(f"{cluster.path}: the name {name!r} is given twice ({DEALER} and {OWNER} are taken)")
    for name in cluster.options.answers:
        if name not in cluster.clients:
            raise UserError(f'{cluster.path}: "answers" has a limit for {name!r}, who is no client')
    for role in (*cluster.parties, *([DEALER] if cluster.dealer else [])):
        for host in cluster.hosts(role):
            # A certificate names the hosts of its role as well as the role.
            if host.lower() != role.lower() and host.lower() in [name.lower() for name in names]:
                raise UserError(f"{cluster.path}: {role} is at {host}, which is another role's name: use its address")


def _check_ports(cluster: Cluster) -> None:
    addresses = [*cluster.control.values(), *cluster.links.values(), *([cluster.dealer] if cluster.dealer else [])]
    for address in addresses:
        if addresses.count(address) > 1:
            raise UserError(f"{cluster.path}: {address} is given to two listeners: give each a port of its own")


def _check_protocol(path: Path, found: layout.Layout) -> None:
    """One party alone would get texts and weights as they are; who shares them asks this file how many there are."""
    protocol = found.runtime.get("protocol")
    layout.check_parties(str(path), protocol, len(found.nodes))
    if len(found.nodes) < 2:
        raise UserError(f"{path}: {protocol} is an emulation by one party, which sees everything: set another protocol")


def _check_beaver(cluster: Cluster, insecure: bool) -> None:
    if cluster.uses_beaver:
        cluster.dealer_address()
    elif cluster.runtime.get("protocol") == "SEMI2K" and not insecure:
        raise UserError(
            f"{cluster.path}: SEMI2K with {TRUSTED_FIRST_PARTY} lets party {cluster.parties[0]} know every mask: set "
            f'"beaver_type": "{TRUSTED_THIRD_PARTY}" and a dealer, or pass {INSECURE_FLAG} to measure without privacy'
        )
