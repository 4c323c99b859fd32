"""What SPU's client asks the dealer for: protobuf's JSON form, read strictly.

Source: SPU's ttp_server/service.proto. Numbers of 64 bits come as JSON numbers or as strings, bytes in base64, and a
field that has its default may be missing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secformer_jax.cluster.dealer.beaver.prg import SEED_BYTES, blocks

DTYPES: dict[int, np.dtype] = {4: np.dtype("<u4"), 8: np.dtype("<u8")}
COUNTERS = 1 << 64
ARRAYS = {"AdjustRandBit": 1, "AdjustMulPriv": 2, "AdjustSquare": 2, "AdjustTrunc": 2, "AdjustEqz": 2, "AdjustPerm": 2}
"""How many arrays an operation takes; 3 for those that are not here."""
MAX_CIPHERTEXT = 366
# A shuffle is a loop in Python: some seconds for so many elements.
MAX_PERMUTATION = 1 << 22


class RequestError(ValueError):
    """A request that is not one, or asks for too much; the message is one line."""


@dataclass(frozen=True, repr=False)
class Array:
    """One pseudorandom array: every party's seed, by rank, where it starts, and its bytes."""

    seeds: tuple[bytes, ...]
    counter: int
    size: int

    @property
    def end(self) -> int:
        """The counter after its last block."""
        return self.counter + blocks(self.size)


@dataclass(frozen=True, repr=False)
class Permutation:
    """Where one party's permutation comes from."""

    seed: bytes
    counter: int


@dataclass(frozen=True, repr=False)
class Request:
    """A request whose parts fit each other.

    Attributes:
        arrays: in the operation's order.
        dtype: unsigned ring elements; bytes for bits.
        bits: how far a truncation shifts.
        dimensions: (M, N, K) of a product of matrices.
        transpose: whether the first and the second matrix are kept transposed.
        permutation: that of AdjustPerm.
    """

    arrays: tuple[Array, ...]
    dtype: np.dtype
    bits: int = 0
    dimensions: tuple[int, int, int] = (0, 0, 0)
    transpose: tuple[bool, bool] = (False, False)
    permutation: Permutation | None = None


def parse(operation: str, body: bytes, seed_of: Callable[[str], bytes], *, parties: int, max_bytes: int) -> Request:
    """Read one request.

    Args:
        operation: one of the service's names.
        body: its JSON.
        seed_of: a seed's ciphertext in base64 -> the seed; see `decrypted`.
        parties: how many seeds every array has.
        max_bytes: the most that its arrays may have, all together.

    Raises:
        RequestError: malformed, inconsistent or oversized.
        sm2.DecryptionError: a seed for another key.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON") from None
    if not isinstance(document, dict):
        raise RequestError("the body is not a JSON object")
    inputs = _list(document, "prg_inputs", dict)
    wanted = ARRAYS.get(operation, 3)
    if len(inputs) != wanted:
        raise RequestError(f"{len(inputs)} arrays, and {operation} takes {wanted}")
    # Sizes before seeds: what asks for too much costs nothing.
    sizes = [_integer(item, "buffer_len", 1, max_bytes) for item in inputs]
    if sum(sizes) > max_bytes:
        raise RequestError(f"arrays of {sum(sizes)} bytes, and {max_bytes} are the most: ask in pieces")
    dtype = _dtype(operation, document)
    if any(size % dtype.itemsize for size in sizes):
        raise RequestError(f"an array of {sizes[0]} bytes does not hold whole elements of {dtype.itemsize}")
    dimensions, transpose = (
        _matrices(document, sizes, dtype) if operation == "AdjustDot" else ((0, 0, 0), (False, False))
    )
    if operation != "AdjustDot" and len(set(sizes)) > 1:
        raise RequestError(f"arrays of {', '.join(map(str, sizes))} bytes, and equal ones are expected")
    bits = 0
    if operation in ("AdjustTrunc", "AdjustTruncPr"):
        bits = _integer(document, "bits", 0, 8 * dtype.itemsize - 2)
    arrays = tuple(_array(item, size, seed_of, parties) for item, size in zip(inputs, sizes, strict=True))
    permutation = _permutation(document, arrays, dtype, seed_of) if operation == "AdjustPerm" else None
    return Request(arrays, dtype, bits, dimensions, transpose, permutation)


def _dtype(operation: str, document: Mapping) -> np.dtype:
    if operation == "AdjustAnd":
        return np.dtype(np.uint8)
    size = _integer(document, "field_size", 0, 16)
    if size not in DTYPES:
        raise RequestError(f"field_size {size}, and 4 or 8 bytes are expected: the ring is FM64")
    if document.get("element_type", 0) not in (0, 1, "UNSPECIFIED", "RING"):
        raise RequestError("element_type is RING: SPU uses a prime field in wider rings than FM64 alone")
    return DTYPES[size]


def _matrices(document: Mapping, sizes: list[int], dtype: np.dtype):
    m, n, k = (_integer(document, key, 1, COUNTERS - 1) for key in "MNK")
    if [m * k * dtype.itemsize, k * n * dtype.itemsize, m * n * dtype.itemsize] != sizes:
        raise RequestError(f"arrays of {', '.join(map(str, sizes))} bytes do not hold M {m}, N {n}, K {k}")
    transpose = _list(document, "transpose_inputs", bool) or [False] * 3
    if len(transpose) != 3 or transpose[2]:
        raise RequestError("transpose_inputs has three flags, and the product's is false")
    return (m, n, k), (transpose[0], transpose[1])


def _array(item: Mapping, size: int, seed_of, parties: int) -> Array:
    ciphertexts = _list(item, "encrypted_seeds", str)
    if len(ciphertexts) != parties:
        raise RequestError(f"{len(ciphertexts)} seeds for an array, and this cluster has {parties} parties")
    counter = _integer(item, "prg_count", 0, COUNTERS - blocks(size) - 1)
    return Array(tuple(seed_of(text) for text in ciphertexts), counter, size)


def decrypted(text: str, decrypt: Callable[[bytes], bytes]) -> bytes:
    """The seed in a ciphertext that came in base64.

    Raises:
        RequestError: not base64, or another length than a seed's.
        sm2.DecryptionError: for another key.
    """
    try:
        ciphertext = base64.b64decode(text[: 2 * MAX_CIPHERTEXT], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("a seed is not base64") from None
    seed = decrypt(ciphertext)
    if len(seed) != SEED_BYTES:
        raise RequestError(f"a seed of {len(seed)} bytes, and {SEED_BYTES} are expected")
    return seed


def _permutation(document: Mapping, arrays: tuple[Array, ...], dtype: np.dtype, seed_of) -> Permutation:
    item = document.get("perm")
    if not isinstance(item, dict) or not isinstance(item.get("encrypted_seeds"), str):
        raise RequestError("perm has prg_count, size and one seed")
    count = arrays[0].size // dtype.itemsize
    if _integer(item, "size", 1, MAX_PERMUTATION) != count:
        raise RequestError(f"perm has another size than its arrays of {count}")
    seed = seed_of(item["encrypted_seeds"])
    if seed not in arrays[0].seeds:
        raise RequestError("perm has the seed of no party")
    return Permutation(seed, _integer(item, "prg_count", 0, COUNTERS - count))


def _integer(document: Mapping, key: str, least: int, most: int) -> int:
    value = document.get(key, 0)
    if isinstance(value, str) and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        shown = value if type(value) is int else f"a {type(value).__name__}"
        raise RequestError(f"{key} is {shown}, and {least} to {most} is expected")
    return value


def _list(document: Mapping, key: str, kind: type) -> list[Any]:
    value = document.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise RequestError(f"{key} is a list of {kind.__name__}")
    return value
