"""Which pieces of material have been dealt, ever: an append-only file that is on disk before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path


class Ledger:
    """The numbers of dealt pieces.

    Args:
        path: the file; made when missing. A last line that a crash cut off names a piece that nobody got.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")
        self._dealt = {line.decode() for line in self._file.read().split(b"\n") if line}
        self._file.write(b"\n")

    def __contains__(self, piece: str) -> bool:
        return piece in self._dealt

    def __len__(self) -> int:
        return len(self._dealt)

    def add(self, piece: str) -> bool:
        """Enter a piece; False when it is there already, and then nothing of it may be sent."""
        if piece in self._dealt:
            return False
        self._dealt.add(piece)
        self._file.write(f"{piece}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
