"""Who is at the other end of SPU's link: each party signs the others' fresh nonces with its certificate's key."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secformer_jax.cluster.config import TlsFiles
from secformer_jax.cluster.wire.revocation import Revoked
from secformer_jax.cluster.wire.tls import PeerError

_PURPOSE = "secformer link 2"
_NONCE_BYTES = 4096
"""So long that the gate in front of a link (`mpc.runtime.link`) knows the handshake for over."""


class Link(Protocol):
    """What the check needs of SPU's link: texts to all and to one."""

    rank: int

    def all_gather(self, data: str) -> list[str]:
        """Everybody's text, by rank."""

    def send(self, dst_rank: int, data: str) -> None:
        """Send a text to one party."""

    def recv(self, src_rank: int) -> bytes:
        """The next text of one party."""


class Signer:
    """A role's own certificate and key, and the CA of the others."""

    def __init__(self, files: TlsFiles) -> None:
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._certificate = files.certificate.read_text()
        self._ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
        self._revoked = Revoked(files.ca)

    def sign(self, statement: bytes) -> str:
        """A signed statement with the signer's certificate, as text."""
        signature = base64.b64encode(self._key.sign(statement, ec.ECDSA(hashes.SHA256()))).decode()
        return json.dumps({"signature": signature, "certificate": self._certificate})

    def verify(self, name: str, statement: bytes, signed: str) -> None:
        """Check that a role signed a statement.

        Raises:
            PeerError: another name, another CA, a certificate that is not valid now, or another statement.
        """
        try:
            values = json.loads(signed)
            certificate = x509.load_pem_x509_certificate(values["certificate"].encode())
            certificate.verify_directly_issued_by(self._ca)
            _check_name(certificate, name)
            if certificate.serial_number in self._revoked:
                raise PeerError(f"the certificate of {name} has been revoked")
            key = certificate.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise PeerError(f"{name}'s certificate has a key of another kind than P-256")
            key.verify(base64.b64decode(values["signature"]), statement, ec.ECDSA(hashes.SHA256()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PeerError(f"no valid proof that this is {name}: {error}") from None
        except InvalidSignature:
            raise PeerError(f"no valid proof that this is {name}: signed by another CA, or not by {name}") from None


def check(
    link: Link,
    certificates: Mapping[str, str],
    session: str,
    signer: Signer,
    nonce: Callable[[], str] | None = None,
) -> None:
    """Prove this party's name to every other over SPU's link, and have theirs proved.

    A proof names the link's certificates. Who stands between two parties has shown one of them another certificate than
    the other sent, and can't pass on a proof for the link that it has made itself.

    Args:
        link: SPU's link.
        certificates: those of the link that this party made or trusts, PEM, by name, in the order of ranks.
        session: of this run; a proof is good for no other.
        signer: this party's.
        nonce: a fresh challenge.

    Raises:
        PeerError: a peer that is not who it has to be.
    """
    names = list(certificates)
    own, digests = names[link.rank], [hashlib.sha256(pem.encode()).hexdigest() for pem in certificates.values()]

    def statement(signer: str, verifier: str, challenge: str) -> bytes:
        return json.dumps([_PURPOSE, session, digests, signer, verifier, challenge]).encode()

    challenges = link.all_gather(secrets.token_hex(_NONCE_BYTES) if nonce is None else nonce())
    others = [rank for rank in range(len(names)) if rank != link.rank]
    for rank in others:
        link.send(rank, signer.sign(statement(own, names[rank], challenges[rank])))
    for rank in others:
        proof = link.recv(rank).decode(errors="replace")
        signer.verify(names[rank], statement(names[rank], own, challenges[link.rank]), proof)


def _check_name(certificate: x509.Certificate, name: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise PeerError(f"the certificate of {name} is not valid now")
    common = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if common != [name] or name not in alternatives.get_values_for_type(x509.DNSName):
        raise PeerError(f"the certificate is that of {', '.join(common) or 'nobody'}, and {name} is expected here")


def session_certificate(name: str, days: int = 30) -> tuple[bytes, bytes]:
    """A self-signed certificate for the link of one session, and its key, both PEM.

    The certificate goes to the peers over the control channel; SPU's link trusts those and nothing else.
    """
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} session {secrets.token_hex(8)}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
