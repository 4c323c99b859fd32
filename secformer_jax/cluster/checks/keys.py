"""A role's key and certificate, the CA and what lies beside it, looked at on the role's own machine."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secformer_jax.cluster import certs
from secformer_jax.cluster.checks.finding import Finding
from secformer_jax.cluster.config import DEALER, DEALER_CA, Cluster
from secformer_jax.cluster.wire import revocation
from secformer_jax.errors import UserError

SOON = datetime.timedelta(days=30)
"""A certificate that ends sooner is to be renewed."""


def roles_here(cluster: Cluster) -> list[str]:
    """The roles whose keys lie on this machine."""
    return [role for role in cluster.roles if cluster.tls(role).key.exists()]


def examine(cluster: Cluster, role: str, now: datetime.datetime) -> Iterator[Finding]:
    """Everything that this role needs, one finding a file.

    Args:
        cluster: of which the role is one.
        role: whose machine this is.
        now: for the certificates' dates, with its time zone.

    Raises:
        UserError: the cluster has no such role.
    """
    files = cluster.tls(role)
    make_ca = f"get {files.ca.name} from the CA, who made it with secformer certs"
    make_own = f"secformer certs --request {role} here, and --sign at the CA"
    key, key_finding = _key(role, files.key, make_own)
    ca, ca_finding = _certificate("certificate of the CA", files.ca, now, make_ca)
    own, own_finding = _certificate(f"certificate of {role}", files.certificate, now, make_own)
    yield ca_finding
    yield key_finding
    if own is None or own_finding.verdict == "mend":
        yield own_finding
    else:
        fault = _mismatch(cluster, role, own, key)
        yield Finding(own_finding.what, fault, make_own) if fault else own_finding
        if ca is not None:
            yield _chain(cluster, role, own, ca)
    if files.ca.with_name(revocation.REVOKED).exists():
        yield _revoked(role, files.ca, own, now)
    if cluster.dealer is not None and role in (DEALER, *cluster.parties):
        yield from _dealer_keys(cluster, role)


def _key(role: str, path: Path, advice: str) -> tuple[Any, Finding]:
    what = f"key of {role}"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        return None, Finding(what, f"{path} is not there", advice)
    except (OSError, ValueError, TypeError) as error:
        return None, Finding(what, f"{path} can't be read: {error}", advice)
    if mode & 0o077:
        return key, Finding(what, f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}")
    return key, Finding(what, "for this role's user alone")


def _certificate(what: str, path: Path, now: datetime.datetime, advice: str) -> tuple[x509.Certificate | None, Finding]:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        return None, Finding(what, f"{path} is not there", advice)
    except (OSError, ValueError) as error:
        return None, Finding(what, f"{path} can't be read: {error}", advice)
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if now < begins:
        return found, Finding(what, f"valid only from {begins:%Y-%m-%d %H:%M} UTC on", "set this machine's clock")
    if now > ends:
        return found, Finding(what, f"ended on {ends:%Y-%m-%d}", advice)
    if now > ends - SOON:
        return found, Finding(what, f"ends on {ends:%Y-%m-%d}", advice, waits=True)
    return found, Finding(what, f"valid to {ends:%Y-%m-%d}")


def _mismatch(cluster: Cluster, role: str, own: x509.Certificate, key: Any) -> str:
    """Why this certificate is not the one that the role needs; empty where it is."""
    names = [each.value for each in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [role]:
        return f"it is that of {', '.join(map(str, names)) or 'nobody'}"
    if key is not None and own.public_key() != key.public_key():
        return "it belongs to another key"
    named = _extension(own, x509.SubjectAlternativeName)
    for host in (role, *cluster.hosts(role)):
        if named is None or not _names(named, host):
            return f"it does not name {host}, where the cluster file has {role}"
    uses = _extension(own, x509.ExtendedKeyUsage) or ()
    if role in (DEALER, *cluster.parties) and ExtendedKeyUsageOID.SERVER_AUTH not in uses:
        return "it may not serve"
    if role != DEALER and ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        return "it may not call"
    return ""


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _names(named: x509.SubjectAlternativeName, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in named.get_values_for_type(x509.IPAddress)
    except ValueError:
        return host.lower() in [name.lower() for name in named.get_values_for_type(x509.DNSName)]


def _chain(cluster: Cluster, role: str, own: x509.Certificate, ca: x509.Certificate) -> Finding:
    """Who signed it: the CA, and for the dealer its own CA, which the CA endorses."""
    what = f"who signed the certificate of {role}"
    files = cluster.tls(role)
    try:
        if role != DEALER:
            own.verify_directly_issued_by(ca)
            return Finding(what, "the CA")
        below = x509.load_pem_x509_certificate(files.ca.with_name(DEALER_CA).read_bytes())
        own.verify_directly_issued_by(below)
        endorsed = x509.load_pem_x509_certificates(files.certificate.read_bytes())[1:]
        if [each.public_key() for each in endorsed] != [below.public_key()]:
            return Finding(what, f"{DEALER_CA}, which {files.certificate} does not hold", "sign its request anew")
        endorsed[0].verify_directly_issued_by(ca)
        return Finding(what, "the dealer's CA, and that one the CA")
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        reason = str(error) or "another CA"
        return Finding(what, reason, f"give {role} a certificate and {files.ca.name} of one CA")


def _revoked(role: str, ca: Path, own: x509.Certificate | None, now: datetime.datetime) -> Finding:
    what, path = "list of revoked certificates", ca.with_name(revocation.REVOKED)
    try:
        serials = revocation.read(path, ca)
        ends = x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    except UserError as error:
        return Finding(what, str(error), "get it from the CA again")
    if own is not None and own.serial_number in serials:
        return Finding(what, f"the certificate of {role} is on it", f"ask the CA for another: --request {role}")
    if ends is not None and now > ends:
        return Finding(what, f"{len(serials)} on it; it was to be renewed by {ends:%Y-%m-%d}", "get a newer one", True)
    return Finding(what, f"{len(serials)} on it, none of {role}")


def _dealer_keys(cluster: Cluster, role: str) -> Iterator[Finding]:
    """What SPU's exchange with the dealer needs besides."""
    files = cluster.tls(role)
    for path, what in (
        (files.ca.with_name(DEALER_CA), "certificate of the dealer's CA"),
        (certs.sm2_public(files), "the dealer's public SM2 key"),
    ):
        if not path.exists():
            yield Finding(what, f"{path} is not there", f"get {path.name} from the CA")
    if role == DEALER:
        yield _sm2(certs.sm2_private(files), certs.sm2_public(files))


def _sm2(private: Path, public: Path) -> Finding:
    # GmSSL is with the servers alone.
    from secformer_jax.cluster.dealer.beaver import sm2

    what = "SM2 key of the dealer"
    try:
        same = sm2.load(private).public_pem().split() == public.read_bytes().split()
    except (OSError, UserError) as error:
        return Finding(what, str(error), f"secformer certs --request {DEALER} here")
    if not same:
        return Finding(what, f"{public.name} is that of another key", f"send {public.name} of this key to the servers")
    return Finding(what, f"that of {public.name}")
