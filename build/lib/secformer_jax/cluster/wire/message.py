"""The one format on every wire but SPU's own: a JSON header and raw little-endian bytes. No pickle, no code.

A message is the magic b"SFJX", the version (uint16), the header's length (uint32) and the payload's (uint64), all
little-endian; then the header, a JSON object {"kind", "fields", "sizes"}; then the payload, cut into chunks of `sizes`
bytes. Shares are listed in the field "shares" and their components are chunks: 32 bytes of a generator's key, or ring
elements in whole bytes (`shares.pack`).
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from secformer_jax.mpc.runtime.shares import DTYPES, RING_BITS, SEED_BYTES, Component, Share, packed_bytes

Bytes = bytes | bytearray | memoryview

MAGIC, VERSION = b"SFJX", 2
PREFIX = struct.Struct("<4sHIQ")
MAX_HEADER = 1 << 24
MAX_PAYLOAD = 1 << 34
MAX_RANK = 8


class MessageError(ValueError):
    """Bytes that are no message of this version."""


@dataclass
class Message:
    """What is said, its fields (JSON values), and chunks of bytes."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    chunks: Sequence[Bytes] = ()

    def pack(self) -> list[Bytes]:
        """As buffers to send one after the other."""
        sizes = [memoryview(chunk).nbytes for chunk in self.chunks]
        header = json.dumps({"kind": self.kind, "fields": self.fields, "sizes": sizes}).encode()
        return [PREFIX.pack(MAGIC, VERSION, len(header), sum(sizes)) + header, *self.chunks]

    def text(self, name: str) -> str:
        """A field that must be a string."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise MessageError(f"{self.kind}: {name} is missing or no text")
        return value

    def token(self, name: str) -> str:
        """A field that must be 32 letters and digits: a deployment's name, or a piece's number."""
        value = self.text(name)
        if len(value) != 32 or not value.isascii() or not value.isalnum():
            raise MessageError(f"{self.kind}: {name} has 32 letters and digits")
        return value

    def number(self, name: str) -> int:
        """A field that must be a whole number from 0."""
        value = self.fields.get(name)
        if type(value) is not int or value < 0:
            raise MessageError(f"{self.kind}: {name} is missing or no whole number")
        return value


def lengths(prefix: bytes) -> tuple[int, int]:
    """Lengths of header and payload.

    Raises:
        MessageError: no message of this version, or a length beyond the limits.
    """
    if len(prefix) != PREFIX.size:
        raise MessageError("the message ends in its prefix")
    magic, version, header, payload = PREFIX.unpack(prefix)
    if magic != MAGIC or version != VERSION:
        raise MessageError(f"not a message of version {VERSION}")
    if header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise MessageError("the message is too long")
    return header, payload


class Header(NamedTuple):
    """What a message says before its payload: kind, fields, and the sizes of its chunks."""

    kind: str
    fields: dict[str, Any]
    sizes: list[int]


def parse_header(header: Bytes) -> Header:
    """A header, checked.

    Raises:
        MessageError: it is no header.
    """
    try:
        values = json.loads(bytes(header))
        kind, fields, sizes = values["kind"], values["fields"], values["sizes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MessageError("the header is no JSON object with kind, fields and sizes") from None
    if not isinstance(kind, str) or not isinstance(fields, dict) or not isinstance(sizes, list):
        raise MessageError("the header's kind, fields or sizes are of another type")
    if not all(type(size) is int and 0 <= size <= MAX_PAYLOAD for size in sizes):
        raise MessageError("a chunk's size is no whole number, or too large")
    return Header(kind, fields, sizes)


def cut(header: Header, payload: Bytes) -> Message:
    """A message of this header; chunks are views of the payload.

    Raises:
        MessageError: a payload of another size.
    """
    view, ends = memoryview(payload), list(itertools.accumulate(header.sizes, initial=0))
    if ends[-1] != view.nbytes:
        raise MessageError(f"chunks of {ends[-1]} bytes in a payload of {view.nbytes}")
    return Message(header.kind, header.fields, [view[start:end] for start, end in itertools.pairwise(ends)])


def parse(header: Bytes, payload: Bytes) -> Message:
    """A message from its header and payload; chunks are views of the payload."""
    return cut(parse_header(header), payload)


def unpack(data: Bytes) -> Message:
    """The message that these bytes are, whole."""
    view = memoryview(data)
    header, payload = lengths(bytes(view[: PREFIX.size]))
    if view.nbytes != PREFIX.size + header + payload:
        raise MessageError(f"{view.nbytes} bytes where {PREFIX.size + header + payload} were expected")
    start = PREFIX.size + header
    return parse(bytes(view[PREFIX.size : start]), view[start:])


def with_shares(kind: str, fields: Mapping[str, Any], shares: Mapping[str, Share]) -> Message:
    """A message that carries one party's shares."""
    listed, chunks = [], []
    for name, share in shares.items():
        parts = ["seed" if isinstance(component, bytes) else "ring" for component in share.components]
        entry = {
            "name": name,
            "dtype": share.dtype,
            "shape": list(share.shape),
            "bits": share.bits,
            "components": parts,
        }
        listed.append(entry)
        chunks += [c if isinstance(c, bytes) else _flat(c) for c in share.components]
    return Message(kind, {**fields, "shares": listed}, chunks)


def _flat(ring: np.ndarray) -> memoryview:
    """The bytes of an array, one after the other: a transport that sends a part of a buffer goes on by bytes."""
    return np.ascontiguousarray(ring).reshape(-1).view(np.uint8).data


def shares_of(message: Message) -> dict[str, Share]:
    """The shares that a message carries, checked.

    Raises:
        MessageError: a share whose description and bytes don't fit.
    """
    shares, chunks = {}, iter(message.chunks)
    try:
        for entry in message.fields["shares"]:
            name, dtype, shape, bits = entry["name"], entry["dtype"], tuple(entry["shape"]), entry["bits"]
            if not isinstance(name, str) or name in shares or dtype not in DTYPES:
                raise MessageError(f"{message.kind}: a share with a bad name or dtype")
            if len(shape) > MAX_RANK or not all(type(size) is int and 0 <= size <= MAX_PAYLOAD for size in shape):
                raise MessageError(f"{message.kind}: share {name} has a bad shape")
            if type(bits) is not int or not 1 <= bits <= RING_BITS:
                raise MessageError(f"{message.kind}: share {name} has a bad number of bits")
            components = tuple([_component(kind, next(chunks), shape, bits) for kind in entry["components"]])
            shares[name] = Share(dtype, shape, components, bits)
    except (KeyError, TypeError, StopIteration):
        raise MessageError(f"{message.kind}: shares are not described as expected") from None
    return shares


def _component(kind: str, chunk: Bytes, shape: tuple[int, ...], bits: int) -> Component:
    size = memoryview(chunk).nbytes
    if kind == "seed" and size == SEED_BYTES:
        return bytes(chunk)
    if kind == "ring" and size == packed_bytes(math.prod(shape), bits):
        return np.frombuffer(chunk, np.uint8)
    raise MessageError(f"a component {kind!r} of {size} bytes for shape {shape} and {bits} bits")
