"""Certificates for a cluster: a private CA, one certificate for each role, and the dealer's SM2 key.

A certificate names its role as the subject's common name and among its alternative names, beside the role's hosts. The
owner's and the clients' certificates can't serve, and the dealer's can't call: so a stolen client key can't stand in
for a party even where only the chain is checked.

SPU's client of the dealer checks a chain and no name, so the dealer's certificate has a CA of its own, which signs
nothing else and whose key is thrown away: to that client, the chain is the name. The common CA signs the dealer's CA as
well, so that everybody else finds the same certificate under the common CA.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secformer_jax.cluster.config import DEALER, DEALER_CA, TLS_FILES, Cluster, TlsFiles
from secformer_jax.errors import UserError

CA_NAME, DEALER_CA_NAME = "secformer CA", "secformer dealer CA"
CA_KEY = "ca.key"
SM2_PUBLIC, SM2_PRIVATE = "dealer.sm2.pem", "dealer.sm2.key"
# Clocks of several organisations differ.
CLOCK_SKEW = datetime.timedelta(minutes=10)


class Authority:
    """A certificate authority of one cluster, with its key.

    Args:
        key: its private key.
        certificate: its own certificate.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key, self.certificate = key, certificate

    @classmethod
    def create(cls, days: int = 365, name: str = CA_NAME) -> Authority:
        """A new CA for some days."""
        key, subject = ec.generate_private_key(ec.SECP256R1()), named(name)
        return cls(key, _ca_builder(subject, subject, key.public_key(), days, 1).sign(key, hashes.SHA256()))

    def endorse(self, other: Authority, days: int = 365) -> bytes:
        """A certificate for another CA under this one, PEM: whoever trusts this CA trusts what the other signed."""
        subject, key = other.certificate.subject, other._key.public_key()
        builder = _ca_builder(subject, self.certificate.subject, key, days, 0)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The CA that `write` left in a folder.

        Raises:
            UserError: its files can't be read.
        """
        try:
            key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / TLS_FILES["ca"]).read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder} holds no CA that can be read ({error}): pass --force to make all anew") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise UserError(f"{folder}: {CA_KEY} is not the key of {TLS_FILES['ca']}: pass --force to make all anew")
        return cls(key, certificate)

    def write(self, folder: Path) -> None:
        """Write the CA's certificate and, for its owner alone, its key."""
        write_file(folder / CA_KEY, key_pem(self._key), secret=True)
        write_file(folder / TLS_FILES["ca"], self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, role: str, hosts: Sequence[str] = (), **terms: Any) -> tuple[bytes, bytes]:
        """A role's certificate and its fresh key, both PEM; the terms are those of `certify`."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self.certify(key.public_key(), role, hosts, **terms), key_pem(key)

    def certify(
        self,
        key: ec.EllipticCurvePublicKey,
        role: str,
        hosts: Sequence[str] = (),
        *,
        serves: bool = True,
        calls: bool = True,
        days: int = 365,
        ends: datetime.datetime | None = None,
    ) -> bytes:
        """A certificate for a role's key, PEM.

        Args:
            key: the role's.
            role: its name.
            hosts: where it listens: names or IP addresses.
            serves: whether it may answer connections.
            calls: whether it may make them.
            days: how long it is valid.
            ends: the exact end, instead.
        """
        uses = [ExtendedKeyUsageOID.SERVER_AUTH] * serves + [ExtendedKeyUsageOID.CLIENT_AUTH] * calls
        alternatives = [x509.DNSName(role), *(_general_name(host) for host in hosts)]
        builder = (
            _builder(named(role), self.certificate.subject, key, days, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def revoke(self, serials: Iterable[int], days: int) -> bytes:
        """A list of certificates that are no longer good, PEM."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - CLOCK_SKEW)
            .next_update(now + datetime.timedelta(days=days))
        )
        for serial in sorted(serials):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write(cluster: Cluster, folder: Path, *, days: int = 365, force: bool = False) -> list[Path]:
    """Write what a cluster's roles need into a folder, keys readable by their owner only; returns what was written.

    A CA that is there already is kept, and so is every pair of files that is there: a new client is added by naming it
    in the cluster file.

    Args:
        cluster: the roles and their hosts.
        folder: where; made when missing.
        days: how long the certificates are valid.
        force: make all anew, the CA included.

    Raises:
        UserError: half of a pair is there, or the CA can't be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder} can't be made ({error.strerror}): pass --out with a folder to write to") from None
    written: list[Path] = []

    def missing(*names: str) -> bool:
        there = [name for name in names if (folder / name).exists()]
        if there and not force and len(there) < len(names):
            lacking = next(name for name in names if name not in there)
            raise UserError(f"{folder}: {there[0]} is there without {lacking}: mend it, or pass --force")
        made = force or not there
        written.extend(folder / name for name in names * made)
        return made

    if missing(TLS_FILES["ca"], CA_KEY):
        authority = Authority.create(days)
        authority.write(folder)
    else:
        authority = Authority.load(folder)
    for role in cluster.roles:
        certificate, key = (TLS_FILES[kind].replace("{name}", role) for kind in ("certificate", "key"))
        if role == DEALER:
            if missing(certificate, key, DEALER_CA):
                own = Authority.create(days, DEALER_CA_NAME)
                pems = own.issue(role, cluster.hosts(role), calls=False, days=days)
                write_file(folder / key, pems[1], secret=True)
                write_file(folder / certificate, pems[0] + authority.endorse(own, days))
                write_file(folder / DEALER_CA, own.certificate.public_bytes(serialization.Encoding.PEM))
        elif missing(certificate, key):
            pems = authority.issue(role, cluster.hosts(role), serves=role in cluster.parties, days=days)
            write_file(folder / key, pems[1], secret=True)
            write_file(folder / certificate, pems[0])
    if cluster.dealer and missing(SM2_PUBLIC, SM2_PRIVATE):
        write_sm2(folder)
    return written


def write_sm2(folder: Path) -> None:
    """A new SM2 key of the dealer's, in two files."""
    # GmSSL is for the cluster's own roles: a client makes its key and its request without it.
    from secformer_jax.cluster.dealer.beaver import sm2

    pair = sm2.generate()
    write_file(folder / SM2_PRIVATE, pair.private_pem(), secret=True)
    write_file(folder / SM2_PUBLIC, pair.public_pem())


def sm2_public(files: TlsFiles) -> Path:
    """Where the dealer's public SM2 key lies: beside the CA's certificate."""
    return files.ca.parent / SM2_PUBLIC


def sm2_private(files: TlsFiles) -> Path:
    """Where the dealer's own SM2 key lies: beside its TLS key."""
    return files.key.parent / SM2_PRIVATE


def _ca_builder(subject, issuer, public_key, days: int, path_length: int) -> x509.CertificateBuilder:
    return (
        _builder(subject, issuer, public_key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
    )


def _builder(subject, issuer, public_key, days: int, ends: datetime.datetime | None = None) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    ends = ends or now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - CLOCK_SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def named(text: str) -> x509.Name:
    """The subject of a role."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_file(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Whole or not at all; a secret is never readable by others, not even while it is being written."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as file:
        file.write(data)
    partial.replace(path)
