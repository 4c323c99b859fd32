"""Certificates that the CA has taken back: its list lies beside its certificate, and is read again when it changes."""

from __future__ import annotations

import logging
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from secformer_jax.errors import UserError

log = logging.getLogger(__name__)

REVOKED = "revoked.pem"


class Revoked:
    """The serial numbers that are no longer good; none while there is no list.

    A list that can't be read, or is gone, leaves the one before it in force.

    Args:
        ca: the path of the CA's certificate.

    Raises:
        UserError: the first list can't be read, or is not this CA's.
    """

    def __init__(self, ca: Path) -> None:
        self._ca, self._path = ca, ca.with_name(REVOKED)
        self._read_at: tuple[int, int] | None = None
        self._serials: frozenset[int] = frozenset()
        if (now := self._state()) is not None:
            self._read_at, self._serials = now, read(self._path, ca)

    def __contains__(self, serial: object) -> bool:
        now = self._state()
        if now is not None and now != self._read_at:
            self._read_at = now
            try:
                self._serials = read(self._path, self._ca)
                log.info("revocations", extra={"count": len(self._serials)})
            except UserError as error:
                log.error("revocations", extra={"reason": str(error)})
        return serial in self._serials

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size


def read(path: Path, ca: Path) -> frozenset[int]:
    """The serial numbers of a list.

    Raises:
        UserError: no list, or one that this CA has not signed.
    """
    try:
        found = x509.load_pem_x509_crl(path.read_bytes())
        key = x509.load_pem_x509_certificate(ca.read_bytes()).public_key()
        good = isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no list of revoked certificates ({error}): get it from the CA again") from None
    if not good:
        raise UserError(f"{path} is not signed by the CA of {ca}: get it from the CA again")
    return frozenset(entry.serial_number for entry in found)
