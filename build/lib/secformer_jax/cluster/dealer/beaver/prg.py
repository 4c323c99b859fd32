"""The pseudorandom arrays that each party draws from its seed, as SPU draws them.

Sources: yacl's FillPRand and ReplayShuffle, SPU's ring_rand. A ring array is AES-128-ECB of the little-endian 128-bit
counters count, count + 1, ...; a permutation uses AES-128-CTR from the counter's bytes. A draw of n bytes moves the
counter by ceil(n / 16) in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK = 16
SEED_BYTES = 16


def blocks(size: int) -> int:
    """How far a draw of some bytes moves the counter."""
    return -(-size // BLOCK)


def ring_bytes(seeds: Sequence[bytes], counter: int, size: int) -> list[np.ndarray]:
    """Bytes of ring arrays at the same place of several streams; any part that starts at a whole block can be drawn.

    Args:
        seeds: 16 bytes each.
        counter: of the first block.
        size: bytes wanted.

    Returns:
        uint8 (size,) for each seed.
    """
    count = blocks(size)
    counters = np.zeros((count, 2), "<u8")
    counters[:, 0] = np.arange(counter, counter + count, dtype=np.uint64)
    streams = []
    for seed in seeds:
        encryptor = Cipher(algorithms.AES128(seed), modes.ECB()).encryptor()
        stream = np.empty(count * BLOCK + BLOCK - 1, np.uint8)
        encryptor.update_into(counters.data.cast("B"), stream.data)
        streams.append(stream[:size])
    return streams


def permutation(seed: bytes, counter: int, size: int) -> np.ndarray:
    """A permutation of 0 .. size - 1, int64: Knuth's shuffle by 128-bit numbers reduced modulo 2, 3, ..., size."""
    order = list(range(size))
    encryptor = Cipher(algorithms.AES128(seed), modes.CTR(counter.to_bytes(BLOCK, "little"))).encryptor()
    words = encryptor.update(bytes(BLOCK * (size - 1)))
    for i in range(size - 1, 0, -1):
        j = int.from_bytes(words[BLOCK * (i - 1) : BLOCK * i], "little") % (i + 1)
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)
