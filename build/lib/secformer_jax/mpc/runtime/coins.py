"""Seeds that the parties of a link share, and nobody else: for public coins that come after a client's input."""

from __future__ import annotations

import hashlib
import os

from spu import libspu

from secformer_jax.mpc.runtime.shares import SEED_BYTES


class Coins:
    """One party's end; all parties ask for seeds in the same order.

    The first party draws a key, for all seeds of a session. Parties that follow the protocol need no more: it keeps
    the seeds from clients.

    Args:
        link: to the other parties, which keeps secrets from everybody else.
    """

    def __init__(self, link: libspu.link.Context) -> None:
        # A message may be on its way when this ends: it needs the link.
        self._link, self._count = link, 0
        self._key = os.urandom(SEED_BYTES)
        if link.rank == 0:
            for rank in range(1, link.world_size):
                link.send_async(rank, self._key.hex())
        else:
            self._key = bytes.fromhex(link.recv(0).decode())

    def seed(self) -> bytes:
        """The next seed."""
        self._count += 1
        return hashlib.blake2b(self._count.to_bytes(8, "little"), key=self._key, digest_size=SEED_BYTES).digest()

    def toss(self, chance: float) -> bool:
        """Heads with this chance, for all parties alike."""
        return int.from_bytes(self.seed()[:8], "little") < chance * 2**64
