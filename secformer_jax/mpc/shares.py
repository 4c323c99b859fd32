"""Shares of ring elements as plain arrays, and as SPU has them: int64 (components, *shape).

SEMI2K and CHEETAH: one component a party, whose sum over the parties is the secret. ABY3: two, of three that sum up to
the secret; party i has numbers i and i + 1. REF2K, the emulator: the secret itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spu
from spu import libspu

from .config import MpcConfig
from .dealer import Randomness

_CHUNK_BYTES = 128 << 20
"""Where SPU cuts a large array."""


def split(secret: np.ndarray, config: MpcConfig, randomness: Randomness) -> list[np.ndarray]:
    """Fresh shares of int64 ring elements, by rank."""
    summands = [randomness.bits(secret.shape) for _ in range(config.world_size - 1)]
    summands.append(secret - sum(summands) if summands else secret)
    if config.protocol == "ABY3":
        return [np.stack([summands[i], summands[(i + 1) % 3]]) for i in range(3)]
    return [summand[None] for summand in summands]


def join(shares: list[np.ndarray], config: MpcConfig) -> np.ndarray:
    """The secret from all shares: the inverse of `split`."""
    total = shares[0][0].copy()
    for share in shares[1:]:
        total += share[0]
    return total


def from_spu(share: libspu.Share, shape: tuple[int, ...], *, secret: bool) -> np.ndarray:
    """What a party's runtime holds: (components, *shape) for a secret, shape for a public value.

    Raises:
        ValueError: not an additive share of 64-bit ring elements.
    """
    kinds = (b".AShr<FM64>", b"ref2k.Sec<FM64>") if secret else (b"Pub2k<FM64>",)
    if not share.meta.endswith(kinds):
        raise ValueError(f"SPU holds something else than shares of integers: {share.meta!r}")
    count = int(np.prod(shape))
    left = count * 8 * (2 if b"aby3.AShr" in share.meta else 1)
    pieces = []
    for chunk in share.share_chunks:
        size = min(left, _CHUNK_BYTES)
        pieces.append(np.frombuffer(chunk, np.int64, size // 8, len(chunk) - size))
        left -= size
    flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return np.moveaxis(flat.reshape(*shape, -1), -1, 0) if secret else flat.reshape(shape)


@dataclass(frozen=True)
class Form:
    """How SPU writes a party's share of an array of one shape: its description, and what each chunk begins with."""

    meta: bytes
    heads: tuple[bytes, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, io: spu.Io, rank: int, shape: tuple[int, ...], *, secret: bool) -> Form:
        """Learnt from a share of zeros."""
        visibility = libspu.Visibility.VIS_SECRET if secret else libspu.Visibility.VIS_PUBLIC
        share = io.make_shares(np.zeros(shape, np.int64), visibility)[rank]
        left = 8 * int(np.prod(shape)) * (2 if b"aby3.AShr" in share.meta else 1)
        heads, sizes = [], []
        for chunk in share.share_chunks:
            sizes.append(min(left, _CHUNK_BYTES))
            heads.append(chunk[: len(chunk) - sizes[-1]])
            left -= sizes[-1]
        return cls(share.meta, tuple(heads), tuple(sizes))

    def share(self, array: np.ndarray) -> libspu.Share:
        """An array, as `from_spu` gives it, for SPU."""
        public = self.meta.endswith(b"Pub2k<FM64>")
        raw, start, chunks = np.ascontiguousarray(array if public else np.moveaxis(array, 0, -1)).tobytes(), 0, []
        for head, size in zip(self.heads, self.sizes, strict=True):
            chunks.append(head + raw[start : start + size])
            start += size
        share = libspu.Share()
        share.meta, share.share_chunks = self.meta, chunks
        return share
