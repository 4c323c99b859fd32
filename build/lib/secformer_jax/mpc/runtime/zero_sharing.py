"""Fresh shares of zero, for what leaves the parties: with them a share says nothing of how it was computed.

Party i draws a key k_i and tells party i + 1. Its share of the t-th zero is F(k_i, t) - F(k_(i-1), t) modulo 2^64
(Araki et al., CCS 2016, section 2.2); the shares of all parties sum to 0. Whoever is no computing party, the dealer
too, holds no key, so to it and a client together a re-randomised share is uniform.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
from spu import libspu

from secformer_jax.mpc.runtime.shares import SEED_BYTES, expand


class ZeroSharing:
    """One party's shares of zero; all parties ask for the same shapes in the same order.

    Args:
        link: to the other parties, which keeps secrets from everybody else.
    """

    def __init__(self, link: libspu.link.Context) -> None:
        # A message may be on its way when this ends: it needs the link.
        self._link, self._count = link, 0
        self._own = self._previous = os.urandom(SEED_BYTES)
        parties, rank = link.world_size, link.rank
        if parties > 1:
            link.send_async((rank + 1) % parties, self._own.hex())
            self._previous = bytes.fromhex(link.recv((rank - 1) % parties).decode())

    def next(self, shape: tuple[int, ...]) -> np.ndarray:
        """This party's share of a new array of zeros, int64."""
        self._count += 1
        return self._stream(self._own, shape) - self._stream(self._previous, shape)

    def _stream(self, key: bytes, shape: tuple[int, ...]) -> np.ndarray:
        of_this = hashlib.blake2b(self._count.to_bytes(8, "little"), key=key, digest_size=SEED_BYTES).digest()
        return expand(of_this, shape)
