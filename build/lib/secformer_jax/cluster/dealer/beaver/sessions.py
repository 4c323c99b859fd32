"""Which parts of the parties' pseudorandom streams have served: no array ever masks two answers.

A session is one tuple of seeds, one a party, which SPU's client draws anew for each runtime. Every answer leaves the
dealer masked by its last arrays, which are sums (or exclusive ors) over all parties' streams: so as long as each such
array is fresh, the answers say nothing to anyone who lacks a seed, whatever was asked. Checked for every request:

- an array that is new to its session lies behind everything that the session has drawn before; the arrays that mask
  the answers are always new, so a request can't be sent a second time;
- older arrays serve only as factors of AdjustMul, AdjustSquare and AdjustDot, for weights whose openings are kept, and
  only arrays that a known session has drawn;
- all new arrays of a request are of one session; a seed belongs to one session; a session to the party that began it.

With a file the sessions outlive the process: mapped into memory, it has every session's digests and how far it is,
written before the answer. The page cache keeps it when the process is killed. A session's first row is on disk before
its first answer, and after a restart of the machine all old sessions are closed: nobody knows how far they were.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secformer_jax.cluster.dealer.beaver.request import Array, Request
from secformer_jax.errors import UserError

CLOSED = np.uint64(2**64 - 1)
DIGEST = 16
GROWTH = 1024
MAX_SESSIONS = 1 << 16
# Which machine start the file is of; the rows after it are aligned, so that a counter is written at once.
BOOT_BYTES, HEADER = 36, 64
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ReplayError(ValueError):
    """A request for what has been served, or with seeds that do not belong together."""


class Sessions:
    """The sessions of one dealer.

    Args:
        parties: seeds in a session.
        path: the file that keeps them; None forgets them with the process.
        max_sessions: the most to keep.
    """

    def __init__(self, parties: int, path: Path | None = None, *, max_sessions: int = MAX_SESSIONS) -> None:
        self._type = np.dtype([("next", "<u8"), ("owner", f"V{DIGEST}"), ("seeds", f"V{DIGEST * parties}")])
        self._path, self._max_sessions, self._parties = path, max_sessions, parties
        self._prefix = b"secformer sessions %d " % parties
        self._by_seed: dict[bytes, int] = {}
        self._count = 0
        self._table = np.zeros(0, self._type)
        self._mapped: np.memmap | None = None
        self._open()

    def __len__(self) -> int:
        return self._count

    def admit(self, request: Request, *, masks: int, replays: bool, owner: str) -> list[int]:
        """Take a request's arrays out of their session, or refuse it.

        Args:
            request: its arrays, the last `masks` of which mask the answers.
            masks: how many answers it has.
            replays: whether the arrays before the masks may be old ones.
            owner: who asks.

        Returns:
            the positions of the arrays that an earlier request had.

        Raises:
            ReplayError: refused; nothing has changed.
        """
        arrays, current = request.arrays, request.arrays[-1].seeds
        if len(set(current)) != self._parties:
            raise ReplayError("each party has a seed of its own in every array")
        session = self._find(current)
        position, older = 0 if session is None else int(self._table["next"][session]), []
        if session is not None and bytes(self._table["owner"][session]) != _digest(owner.encode()):
            raise ReplayError("this session belongs to another party")
        for index, array in enumerate(arrays):
            is_new = array.seeds == current and array.counter >= position
            if is_new:
                position = array.end
            elif index >= len(arrays) - masks or not replays:
                raise ReplayError("an array of this request has served before: masks are used once")
            else:
                self._check_old(array, current, position)
                older.append(index)
        if request.permutation is not None:
            if request.permutation.counter < position:
                raise ReplayError("the permutation of this request has served before: masks are used once")
            position = request.permutation.counter + arrays[0].size // request.dtype.itemsize - 1
        if session is None:
            session = self._add(current, owner)
        self._table["next"][session] = position
        return older

    def _check_old(self, array: Array, current: tuple[bytes, ...], position: int) -> None:
        session = self._find(array.seeds)
        drawn = position if array.seeds == current else 0 if session is None else int(self._table["next"][session])
        if array.end > drawn:
            raise ReplayError("an older array is asked for that no session has drawn")

    def _find(self, seeds: tuple[bytes, ...]) -> int | None:
        """The row of a session, None when all its seeds are new.

        Raises:
            ReplayError: some of them belong to another session.
        """
        rows = {self._by_seed.get(_digest(seed)) for seed in seeds}
        row = next(iter(rows))
        if len(rows) > 1 or (row is not None and bytes(self._table["seeds"][row]) != _joined(seeds)):
            raise ReplayError("a seed of another session")
        return row

    def _add(self, seeds: tuple[bytes, ...], owner: str) -> int:
        if self._count == self._max_sessions:
            raise ReplayError(f"{self._count} sessions are kept and no more: make a new SM2 key and restart the dealer")
        if self._count == len(self._table):
            self._grow()
        row = self._count
        self._table[row] = (0, _digest(owner.encode()), _joined(seeds))
        if self._mapped is not None:
            self._mapped.flush()
        self._remember(row)
        return row

    def _remember(self, row: int) -> None:
        joined = bytes(self._table["seeds"][row])
        self._by_seed.update({joined[i : i + DIGEST]: row for i in range(0, len(joined), DIGEST)})
        self._count = row + 1

    def _grow(self) -> None:
        rows = len(self._table) + GROWTH
        if self._path is None:
            self._table = np.concatenate([self._table, np.zeros(GROWTH, self._type)])
        else:
            with self._path.open("r+b") as file:
                file.truncate(HEADER + rows * self._type.itemsize)
                os.fsync(file.fileno())
            self._map(self._path, rows)

    def _map(self, path: Path, rows: int) -> None:
        self._mapped = np.memmap(path, self._type, "r+", HEADER, (rows,))
        # The same memory, without memmap's own work at every access.
        self._table = np.asarray(self._mapped)

    def _open(self) -> None:
        if self._path is None:
            return
        header = (self._prefix + _boot_id()).ljust(HEADER - 1) + b"\n"
        if not self._path.exists():
            partial = self._path.with_name(self._path.name + ".partial")
            partial.write_bytes(header)
            partial.chmod(0o600)
            partial.replace(self._path)
            _sync(self._path.parent)
            return
        with self._path.open("rb") as file:
            found = file.read(len(header))
        if len(found) != len(header) or not found.startswith(self._prefix):
            raise UserError(f"{self._path} does not hold this dealer's sessions: move it away, and make a new SM2 key")
        rows = (self._path.stat().st_size - HEADER) // self._type.itemsize
        if rows:
            self._map(self._path, rows)
        for row in range(rows):
            if bytes(self._table["seeds"][row]) == bytes(DIGEST * self._parties):
                break
            self._remember(row)
        if found != header:
            # What the machine had not written to its disk is lost, so nobody knows how far a session was.
            self._table["next"][: self._count] = CLOSED
            if self._mapped is not None:
                self._mapped.flush()
            with self._path.open("r+b") as file:
                file.write(header)
                os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Have a folder's new names on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _boot_id() -> bytes:
    """Which start of the machine this is; where that can't be known, every start of the process is another."""
    text = BOOT_ID.read_bytes().strip() if BOOT_ID.exists() else os.urandom(BOOT_BYTES // 2).hex().encode()
    return text[:BOOT_BYTES].ljust(BOOT_BYTES)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(b"secformer session" + data).digest()[:DIGEST]


def _joined(seeds: Sequence[bytes]) -> bytes:
    return b"".join(_digest(seed) for seed in seeds)
