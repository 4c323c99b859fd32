"""The dealer's SM2 key, under which each party sends its seed: GmSSL's arithmetic, and the key's two PEM forms.

Source: GB/T 32918.4 (encryption), RFC 5480 and RFC 5958 (keys); the curve is 1.2.156.10197.1.301.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import gmssl_pyx

from secformer_jax.errors import UserError

# Keys on one curve have one length, so everything before the numbers is constant.
_PUBLIC_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004")
_PRIVATE_PREFIX = bytes.fromhex("308187020100301306072a8648ce3d020106082a811ccf5501822d046d306b0201010420")
_PRIVATE_MIDDLE = bytes.fromhex("a14403420004")


class DecryptionError(ValueError):
    """A ciphertext that was not made for this key."""


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """An SM2 key pair: a 32-byte number and a 64-byte point."""

    number: bytes
    point: bytes

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The message in an ASN.1 ciphertext (C1 C3 C2).

        Raises:
            DecryptionError: it is not one, or was made for another key.
        """
        try:
            return gmssl_pyx.sm2_decrypt(self.number, ciphertext)
        except (gmssl_pyx.GmsslInnerError, ValueError):
            raise DecryptionError("the seed was not encrypted for this dealer's key") from None

    def private_pem(self) -> bytes:
        """The key pair in PKCS #8."""
        return _pem("PRIVATE KEY", _PRIVATE_PREFIX + self.number + _PRIVATE_MIDDLE + self.point)

    def public_pem(self) -> bytes:
        """The public key as a SubjectPublicKeyInfo, which is what SPU's client takes."""
        return _pem("PUBLIC KEY", _PUBLIC_PREFIX + self.point)


def generate() -> PrivateKey:
    """A fresh key pair from the operating system's generator."""
    point, number = gmssl_pyx.sm2_key_generate()
    return PrivateKey(number, point)


def encrypt(public_pem: bytes, message: bytes) -> bytes:
    """What SPU's client does with its seed; for tests of the dealer without SPU."""
    return gmssl_pyx.sm2_encrypt(_body(public_pem).removeprefix(_PUBLIC_PREFIX), message)


def load(path: Path) -> PrivateKey:
    """Read a key pair as `private_pem` writes it.

    Raises:
        UserError: no such file, not an SM2 key, or one that others can read.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise UserError(f"{path} can be read by others: chmod 600 {path}")
        body = _body(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no key that can be read ({error}): make one with secformer certs") from None
    number, middle, point = (part for part in _cut(body.removeprefix(_PRIVATE_PREFIX), 32, 6, 64))
    if not body.startswith(_PRIVATE_PREFIX) or middle != _PRIVATE_MIDDLE or len(point) != 64:
        raise UserError(f"{path} is no SM2 private key in PKCS #8: make one with secformer certs")
    return PrivateKey(number, point)


def _cut(data: bytes, *lengths: int) -> list[bytes]:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths) - 1)]
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def _pem(label: str, der: bytes) -> bytes:
    body = base64.b64encode(der).decode()
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _body(pem: bytes) -> bytes:
    lines = pem.strip().splitlines()
    if len(lines) < 3 or not lines[0].startswith(b"-----BEGIN"):
        raise ValueError("not PEM")
    return base64.b64decode(b"".join(lines[1:-1]), validate=True)
