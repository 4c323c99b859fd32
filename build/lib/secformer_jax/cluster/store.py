"""A server's shares of the published weights, sealed on its own disk: a restart needs no new publication.

Each record is AES-256-GCM under a key that lies in the party's own folder (mode 0600), with the deployment's name and
the record's number as associated data; the last one counts the others. So records can't be read, cut off, swapped or
taken from another publication.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secformer_jax.cluster.wire.message import Message, unpack
from secformer_jax.errors import UserError

_LENGTH = struct.Struct("<Q")
_NONCE_BYTES = 12
_END = "end"
_LARGEST = 1 << 31


def sealing_key(path: Path) -> bytes:
    """The party's own key; made on first use.

    Raises:
        UserError: a file that others can read, or of another length.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(AESGCM.generate_key(256))
    key = path.read_bytes()
    if path.stat().st_mode & 0o077 or len(key) != 32:
        raise UserError(
            f"{path} must hold 32 bytes that nobody else can read: chmod 600, or remove it and publish again"
        )
    return key


class SealedWriter:
    """Writes the records of one deployment; the file appears under its name when `finish` has made it whole."""

    def __init__(self, path: Path, key: bytes, deployment: str) -> None:
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._cipher, self._deployment, self._count = AESGCM(key), deployment, 0
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    def add(self, message: Message) -> None:
        """Seal one record."""
        data = b"".join(message.pack())
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, data, _associated(self._deployment, self._count))
        self._file.write(_LENGTH.pack(len(sealed)) + nonce)
        self._file.write(sealed)
        self._count += 1

    def finish(self) -> None:
        """Seal the count, have all of it on disk, and give the file its name."""
        self.add(Message(_END, {"records": self._count}))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)

    def abandon(self) -> None:
        """Forget what was written."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def read(path: Path, key: bytes, deployment: str) -> Iterator[Message]:
    """The records of a deployment, one after the other.

    Raises:
        UserError: a file that is not whole, not of this deployment, or sealed under another key.
    """
    cipher, count = AESGCM(key), 0
    try:
        with path.open("rb") as file:
            while True:
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                nonce, sealed = file.read(_NONCE_BYTES), file.read(min(length, _LARGEST))
                message = unpack(cipher.decrypt(nonce, sealed, _associated(deployment, count)))
                if message.kind == _END:
                    return
                yield message
                count += 1
    except (OSError, ValueError, struct.error, InvalidTag):
        raise UserError(f"{path} is damaged or sealed under another key: publish the model again") from None


def _associated(deployment: str, count: int) -> bytes:
    return f"{deployment} {count}".encode()
