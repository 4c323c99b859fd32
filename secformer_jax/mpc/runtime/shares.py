"""Secret arrays as additive shares over Z_2^64: made by clients, owner and dealer, held by servers. Needs no spu.

An array is a sum of one component for each computing party. SEMI2K, CHEETAH and REF2K: party i holds component i. ABY3
(Mohassel and Rindal, CCS 2018, section 3): party i holds components i and i + 1. All components but the last are
uniform, and travel as the 32-byte key of their generator.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SEED_BYTES = 32
DTYPES = ("float32", "int32", "int64")
HELD: Mapping[str, Callable[[int], tuple[int, ...]]] = {
    "SEMI2K": lambda rank: (rank,),
    "CHEETAH": lambda rank: (rank,),
    "ABY3": lambda rank: (rank, (rank + 1) % 3),
    "REF2K": lambda rank: (rank,),
}
"""By protocol: the components that a party holds."""

Component = bytes | np.ndarray
"""A generator's key, or int64 ring elements."""


@dataclass(frozen=True)
class Share:
    """What one party holds of a secret array.

    Attributes:
        dtype: of the plaintext, one of `DTYPES`.
        shape: of the array.
        components: the party's, in the order of `HELD`.
    """

    dtype: str
    shape: tuple[int, ...]
    components: tuple[Component, ...]

    def rings(self) -> list[np.ndarray]:
        """The components as int64 arrays of this shape."""
        return [expand(c, self.shape) if isinstance(c, bytes) else c.reshape(self.shape) for c in self.components]

    def stacked(self) -> np.ndarray:
        """The components as one int64 array (components, *shape); a single one isn't copied."""
        rings = self.rings()
        return rings[0][None] if len(rings) == 1 else np.stack(rings)


def encode(array: np.ndarray, fraction_bits: int) -> np.ndarray:
    """Ring elements: integers as they are, other numbers with this many fraction bits.

    Raises:
        ValueError: a number that is not finite, or too great for a ring of 64 bits.
    """
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int64)
    scaled = np.rint(np.asarray(array, np.float64) * 2.0**fraction_bits)
    if scaled.size and not np.abs(scaled).max() < 2.0**62:
        raise ValueError(f"values must be finite and below 2^{62 - fraction_bits}")
    return scaled.astype(np.int64)


def decode(ring: np.ndarray, dtype: str, fraction_bits: int) -> np.ndarray:
    """The inverse of `encode`."""
    return (
        ring.astype(dtype) if np.issubdtype(np.dtype(dtype), np.integer) else (ring / 2.0**fraction_bits).astype(dtype)
    )


def expand(seed: bytes, shape: Sequence[int]) -> np.ndarray:
    """Uniform ring elements from AES-256 in counter mode; a seed serves one array."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(8 * math.prod(shape))), np.int64).reshape(shape)


def split(ring: np.ndarray, parties: int) -> list[Component]:
    """Components that add up to `ring` modulo 2^64: fresh seeds, and last what is left."""
    seeds: list[Component] = [os.urandom(SEED_BYTES) for _ in range(parties - 1)]
    rest = ring
    for seed in seeds:
        assert isinstance(seed, bytes)
        rest = rest - expand(seed, ring.shape)
    return [*seeds, rest]


def share(ring: np.ndarray, dtype: str, protocol: str, parties: int) -> list[Share]:
    """Shares of ring elements by rank."""
    return deal(split(ring, parties), dtype, ring.shape, protocol)


def deal(components: Sequence[Component], dtype: str, shape: tuple[int, ...], protocol: str) -> list[Share]:
    """Each party's share of an array with these components, by rank."""
    held = HELD[protocol]
    return [Share(dtype, shape, tuple(components[i] for i in held(rank))) for rank in range(len(components))]


def join(components: Sequence[np.ndarray]) -> np.ndarray:
    """The ring elements, from every component once."""
    total = components[0]
    for component in components[1:]:
        total = total + component
    return total
