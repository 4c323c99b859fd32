"""Certificates where every role makes its own keys: it sends a signing request, and the CA sends a certificate back.

No key leaves its role, and the CA learns none. A CA can still make a certificate in anybody's name: who it is stands in
docs/security.md among those who are trusted.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secformer_jax.cluster import certs
from secformer_jax.cluster.config import DEALER, DEALER_CA, TLS_FILES, Cluster
from secformer_jax.cluster.wire.revocation import REVOKED, read
from secformer_jax.errors import UserError


def request(cluster: Cluster, role: str, folder: Path) -> list[Path]:
    """At a role: its key, which stays, and a signing request for the CA; for the dealer its SM2 key as well.

    Args:
        cluster: in which this is a role.
        role: whose.
        folder: where; made when missing.

    Returns:
        What is to be sent to the CA.

    Raises:
        UserError: no such role, or a key that is there already.
    """
    cluster.tls(role)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_path, asked = folder / _file("key", role), folder / f"{role}.csr"
    secrets = [key_path, *([folder / certs.SM2_PRIVATE] if role == DEALER else [])]
    for path in secrets:
        if path.exists():
            raise UserError(f"{path} is there already: remove it to make another key for {role}")
    key = ec.generate_private_key(ec.SECP256R1())
    signed = x509.CertificateSigningRequestBuilder().subject_name(certs.named(role)).sign(key, hashes.SHA256())
    certs.write_file(key_path, certs.key_pem(key), secret=True)
    certs.write_file(asked, signed.public_bytes(serialization.Encoding.PEM))
    if role != DEALER:
        return [asked]
    certs.write_sm2(folder)
    return [asked, folder / certs.SM2_PUBLIC]


def sign(cluster: Cluster, asked: Path, folder: Path, *, days: int = 365) -> list[Path]:
    """At the CA: the certificate for a role's request.

    Names and hosts are those of the cluster file, and nothing of the request but its key goes into the certificate.

    Args:
        cluster: in which the request's subject is a role.
        asked: the request.
        folder: with the CA, which is made when there is none; certificates are written there.
        days: how long the certificate is valid.

    Returns:
        What is to be sent back, and for the dealer's to all servers.

    Raises:
        UserError: no request, one that its key has not signed, or one of nobody in the cluster.
    """
    role, key = _read(asked)
    cluster.tls(role)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / certs.CA_KEY).exists():
        authority = certs.Authority.load(folder)
    else:
        authority = certs.Authority.create(days)
        authority.write(folder)
    path, ca = folder / _file("certificate", role), folder / TLS_FILES["ca"]
    if role != DEALER:
        pem = authority.certify(key, role, cluster.hosts(role), serves=role in cluster.parties, days=days)
        certs.write_file(path, pem)
        return [path, ca]
    own = certs.Authority.create(days, certs.DEALER_CA_NAME)
    pem = own.certify(key, role, cluster.hosts(role), calls=False, days=days)
    certs.write_file(path, pem + authority.endorse(own, days))
    certs.write_file(folder / DEALER_CA, own.certificate.public_bytes(serialization.Encoding.PEM))
    return [path, ca, folder / DEALER_CA]


def revoke(taken_back: Path, folder: Path, *, days: int = 365) -> Path:
    """At the CA: put a certificate on the list of those that are no longer good, which goes to every role.

    Args:
        taken_back: the certificate.
        folder: with the CA.
        days: how long the list is valid; roles go on with it when it is older.

    Returns:
        The list.

    Raises:
        UserError: no CA there, or a certificate that it has not signed.
    """
    authority, path = certs.Authority.load(folder), folder / REVOKED
    try:
        certificate = x509.load_pem_x509_certificate(taken_back.read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        why = str(error) or "another CA has signed it"
        raise UserError(f"{taken_back} is no certificate of the CA in {folder} ({why})") from None
    known = read(path, folder / TLS_FILES["ca"]) if path.exists() else frozenset()
    certs.write_file(path, authority.revoke(known | {certificate.serial_number}, days))
    return path


def _file(kind: str, role: str) -> str:
    return TLS_FILES[kind].replace("{name}", role)


def _read(path: Path) -> tuple[str, ec.EllipticCurvePublicKey]:
    """The role that asks, and its key."""
    try:
        asked = x509.load_pem_x509_csr(path.read_bytes())
        names = [str(each.value) for each in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key = asked.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1" or len(names) != 1:
            raise UserError(f"{path} is no request for a P-256 key in one role's name: make one with --request")
        key.verify(asked.signature, asked.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))
        return names[0], key
    except InvalidSignature:
        raise UserError(f"{path} is not signed by the key that it is for") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no signing request that can be read ({error}): make one with --request") from None
