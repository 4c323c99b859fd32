"""Mutual TLS between roles: the chain is checked by TLS, and here who the certificate belongs to.

A chain alone says that somebody of the cluster is at the other end. So every server asks `require_peer` which role it
is, and every client gives TLS the role's name to find in the certificate: pass `server_hostname=NAME`.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from typing import Any

from secformer_jax.cluster.config import TlsFiles
from secformer_jax.cluster.wire.revocation import Revoked
from secformer_jax.errors import UserError


class PeerError(ConnectionError):
    """The other end is not who it has to be; the message says who it is."""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For a server that only answers those with a certificate of the cluster's CA.

    Raises:
        UserError: a file is missing, damaged, or a key that others can read.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For a client with a certificate of its own; connect with `server_hostname` set to the other role's name.

    Raises:
        UserError: as for `server_context`.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def peer_name(connection: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    """The role at the other end of a connection: the common name in its certificate, which TLS has checked.

    Raises:
        PeerError: plaintext, no certificate, or one that does not name its role twice (see certs).
    """
    certificate: Mapping[str, Any] = (connection.getpeercert() if connection is not None else None) or {}
    if not certificate:
        raise PeerError("no certificate: only those with one of this cluster are answered")
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    alternatives = [value for key, value in certificate.get("subjectAltName", ()) if key == "DNS"]
    if len(names) != 1 or names[0] not in alternatives:
        raise PeerError("the certificate does not name its role: make one with secformer certs")
    return names[0]


def require_peer(connection: ssl.SSLObject | ssl.SSLSocket | None, allowed: Collection[str]) -> str:
    """The role at the other end.

    Raises:
        PeerError: it is none of those allowed.
    """
    name = peer_name(connection)
    if name not in allowed:
        raise PeerError(f"the certificate is that of {name}, and {' or '.join(allowed)} is expected here")
    return name


def serial_number(connection: ssl.SSLObject | ssl.SSLSocket | None) -> int:
    """Of the certificate at the other end, as its CA numbers it; -1 for none."""
    certificate: Mapping[str, Any] = (connection.getpeercert() if connection is not None else None) or {}
    return int(str(certificate.get("serialNumber", "-1")), 16)


def _unless_revoked(revoked: Revoked) -> type[ssl.SSLObject]:
    """Connections that end with their handshake if the other end's certificate has been taken back."""

    class Connection(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if serial_number(self) in revoked:
                raise ssl.SSLCertVerificationError("the certificate at the other end has been revoked")

    return Connection


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.sslobject_class = _unless_revoked(Revoked(files.ca))
    # SPU's own client speaks TLS 1.2 in some builds.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        if files.key.stat().st_mode & 0o077:
            raise UserError(f"{files.key} can be read by others: chmod 600 {files.key}")
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"no TLS files that can be used ({error}): {files.certificate}, {files.key} and {files.ca} "
            "are expected; make them with secformer certs"
        ) from None
    return context
