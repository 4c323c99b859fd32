"""Secret arrays as additive shares over Z_2^bits: made by clients, owner and dealer, held by servers. Needs no spu.

An array is a sum of one component for each computing party. SEMI2K, CHEETAH and REF2K: party i holds component i. ABY3
(Mohassel and Rindal, CCS 2018, section 3): party i holds components i and i + 1. All components but the last are
uniform, and travel as the 32-byte key of their generator.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

RING_BITS = 64
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
"""A generator's key; or ring elements, as int64 or packed (uint8, see `pack`)."""


class InputSpec(NamedTuple):
    """What is shared: the dtype of the plaintext (one of `DTYPES`), its shape, and the bits of the ring.

    Where the last axis holds one-hot vectors, `one_hot` has their lengths.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: int = RING_BITS
    one_hot: tuple[int, ...] = ()


@dataclass(frozen=True)
class Share:
    """What one party holds of a secret array.

    Attributes:
        dtype: of the plaintext, one of `DTYPES`.
        shape: of the array.
        components: the party's, in the order of `HELD`.
        bits: of the ring; elements are of no meaning above.
    """

    dtype: str
    shape: tuple[int, ...]
    components: tuple[Component, ...]
    bits: int = RING_BITS

    def rings(self) -> list[np.ndarray]:
        """The components as int64 arrays of this shape."""
        return [_elements(component, self.shape, self.bits) for component in self.components]

    def expanded(self) -> Share:
        """The same with every component packed."""

        def packed(component: Component) -> np.ndarray:
            if isinstance(component, bytes):
                return expand_packed(component, math.prod(self.shape), self.bits)
            return pack(component, self.bits) if component.dtype == np.int64 else component

        return replace(self, components=tuple(map(packed, self.components)))

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
        return array.astype(np.int64, copy=False)
    scaled = np.rint(np.asarray(array, np.float64) * 2.0**fraction_bits)
    if scaled.size and not np.abs(scaled).max() < 2.0**62:
        raise ValueError(f"values must be finite and below 2^{62 - fraction_bits}")
    return scaled.astype(np.int64)


def decode(ring: np.ndarray, dtype: str, fraction_bits: int) -> np.ndarray:
    """The inverse of `encode`."""
    return (
        ring.astype(dtype) if np.issubdtype(np.dtype(dtype), np.integer) else (ring / 2.0**fraction_bits).astype(dtype)
    )


def _elements(component: Component, shape: tuple[int, ...], bits: int) -> np.ndarray:
    if isinstance(component, bytes):
        return expand(component, shape, bits)
    return component.reshape(shape) if component.dtype == np.int64 else unpack(component, shape, bits)


def expand(seed: bytes, shape: Sequence[int], bits: int = RING_BITS) -> np.ndarray:
    """Ring elements that are uniform modulo 2^bits, from AES-256 in counter mode; a seed serves one array."""
    return unpack(expand_packed(seed, math.prod(shape), bits), shape, bits)


def expand_packed(seed: bytes, count: int, bits: int) -> np.ndarray:
    """The same, packed."""
    packed = np.empty(packed_bytes(count, bits) + 16, np.uint8)
    for index, (_, start, size) in enumerate(_pieces(bits)):
        _generator(seed, index).update_into(_zeros(count * size), packed.data[start * count :])
    return packed[:-16]


def split(ring: np.ndarray, seeds: Sequence[bytes], bits: int = RING_BITS) -> list[Component]:
    """Components that add up to `ring` modulo 2^bits: fresh seeds, and last what is left, packed."""
    generators = [[_generator(seed, index) for index, _ in enumerate(_pieces(bits))] for seed in seeds]
    flat, drawn = np.ascontiguousarray(ring).reshape(-1), np.empty(_BLOCK, np.int64)
    packed, output = np.empty(packed_bytes(flat.size, bits), np.uint8), np.empty(8 * _BLOCK + 16, np.uint8)
    for block in _blocks(flat.size):
        rest = flat[block]
        for own in generators:
            taken = drawn[: rest.size]
            for (dtype, start, size), generator in zip(_pieces(bits), own, strict=True):
                generator.update_into(_zeros(rest.size * size), output.data)
                _add_piece(taken, output[: rest.size * size].view(dtype), start)
            rest = rest - taken
        _pack_block(rest, packed, block, bits)
    return [*seeds, packed]


def _generator(seed: bytes, piece: int) -> CipherContext:
    """What makes one of the pieces that packed elements have."""
    return Cipher(algorithms.AES(seed), modes.CTR(bytes([piece]) + bytes(15))).encryptor()


@functools.lru_cache(maxsize=4)
def _zeros(count: int) -> bytes:
    return bytes(count)


def share(ring: np.ndarray, dtype: str, protocol: str, parties: int, bits: int = RING_BITS) -> list[Share]:
    """Shares of ring elements by rank."""
    return deal(split(ring, fresh_seeds(parties - 1), bits), dtype, ring.shape, protocol, bits)


def fresh_seeds(count: int) -> list[bytes]:
    """From the operating system's generator."""
    return [os.urandom(SEED_BYTES) for _ in range(count)]


def deal(
    components: Sequence[Component], dtype: str, shape: tuple[int, ...], protocol: str, bits: int = RING_BITS
) -> list[Share]:
    """Each party's share of an array with these components, by rank."""
    held = HELD[protocol]
    return [Share(dtype, shape, tuple(components[i] for i in held(rank)), bits) for rank in range(len(components))]


def sent_bytes(share: Share) -> int:
    """Bytes of a share's components on the wire."""
    return sum(len(c) if isinstance(c, bytes) else c.nbytes for c in share.components)


def join(components: Sequence[np.ndarray]) -> np.ndarray:
    """The ring elements, from every component once."""
    total = components[0]
    for component in components[1:]:
        total = total + component
    return total


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of a packed array."""
    return count * -(-bits // 8)


def pack(ring: np.ndarray, bits: int) -> np.ndarray:
    """Ring elements modulo 2^bits in whole bytes (uint8), and no bit more of them.

    First stand the lowest bytes of all elements (8, 4, 2 or 1 together), then the next.
    """
    flat = np.ascontiguousarray(ring).reshape(-1)
    if bits == RING_BITS:
        return flat.view(np.uint8)
    packed = np.empty(packed_bytes(flat.size, bits), np.uint8)
    for block in _blocks(flat.size):
        _pack_block(flat[block], packed, block, bits)
    return packed


def unpack(data: bytes | memoryview | np.ndarray, shape: Sequence[int], bits: int) -> np.ndarray:
    """The inverse of `pack`; of uniform bytes, elements that are uniform modulo 2^bits (above that, of no meaning)."""
    packed = np.frombuffer(data, np.uint8)
    if bits == RING_BITS:
        return packed.view(np.int64).reshape(shape)
    ring, found = np.empty(math.prod(shape), np.int64), pieces(packed, bits)
    for block in _blocks(ring.size):
        _unpack_block(found, block, ring[block])
    return ring.reshape(shape)


def pieces(packed: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
    """What stands one after the other in a packed array, each by its type; from the lowest bytes."""
    count = packed.size // packed_bytes(1, bits)
    return tuple(packed[start * count : (start + size) * count].view(dtype) for dtype, start, size in _pieces(bits))


def sum_packed(rings: np.ndarray, packed: Sequence[np.ndarray], bits: int) -> np.ndarray:
    """The sum of ring elements (terms, *shape) and of packed ones, as numbers in [-2^(bits-1), 2^(bits-1))."""
    terms, others = rings.reshape(len(rings), -1), [pieces(each, bits) for each in packed]
    total, read = np.empty(terms.shape[1], np.int64), np.empty(_BLOCK, np.int64)
    for block in _blocks(total.size):
        own = np.sum(terms[:, block], axis=0, out=total[block])
        for each in others:
            own += _unpack_block(each, block, read[: own.size])
        if bits < RING_BITS:
            own <<= RING_BITS - bits
            own >>= RING_BITS - bits
    return total.reshape(rings.shape[1:])


_BLOCK = 1 << 14
"""Elements that are packed together: they fit a core's cache."""

_PIECES = ((np.uint64, 8), (np.uint32, 4), (np.uint16, 2), (np.uint8, 1))


def _pieces(bits: int) -> Iterator[tuple[type, int, int]]:
    """Of an element's bytes: a type that holds some of them, where they begin, and how many they are."""
    start, end = 0, packed_bytes(1, bits)
    for dtype, size in _PIECES:
        if end - start >= size:
            yield dtype, start, size
            start += size


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def _pack_block(elements: np.ndarray, packed: np.ndarray, block: slice, bits: int) -> None:
    if bits % 8:
        elements = elements & ((1 << bits) - 1)
    for (_, start, _), piece in zip(_pieces(bits), pieces(packed, bits), strict=True):
        np.copyto(piece[block], elements >> (8 * start) if start else elements, casting="unsafe")


def _unpack_block(found: Sequence[np.ndarray], block: slice, elements: np.ndarray) -> np.ndarray:
    start = 0
    for piece in found:
        _add_piece(elements, piece[block], start)
        start += piece.itemsize
    return elements


def _add_piece(elements: np.ndarray, piece: np.ndarray, start: int) -> None:
    """The bytes of a piece put to where they begin; the lowest come first and overwrite."""
    if start:
        elements |= piece.astype(np.int64) << (8 * start)
    else:
        np.copyto(elements, piece, casting="unsafe")
