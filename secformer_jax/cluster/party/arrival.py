"""What a client sends, checked wholly: its header before any of its shares is read, its size before memory is taken."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire.frames import Reader
from secformer_jax.cluster.wire.message import PREFIX, Header, Message, MessageError, cut, lengths, parse_header
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import one_hot
from secformer_jax.mpc.runtime.shares import HELD, SEED_BYTES, InputSpec, packed_bytes

HEADER_BYTES, QUESTION_BYTES, NONCE_LENGTH = 1 << 14, 1 << 12, 64
HEADER_SECONDS = 10.0
PAYLOAD_SECONDS, PAYLOAD_BYTES_A_SECOND = 10.0, 100_000
CLIENT_REQUESTS, CLIENT_BYTES = 64, 128 << 20
KEPT_NUMBERS = 1 << 16
_NUMBER = re.compile(r"[0-9a-f]{32}")


@dataclass
class Arrived:
    """A client's input, as it came, the answer that its connection waits for, and what the run has used."""

    client: str
    shape: RequestShape
    message: Message
    answer: asyncio.Future[Message]
    used: dict[str, Any] = field(default_factory=dict)


class BusyError(RuntimeError):
    """A client has as much on this server as it may have."""


class Admission:
    """Takes inputs for one deployment.

    Args:
        deployment: what is served.
        cluster: with which protocol.
        rank: of this party.
    """

    def __init__(self, deployment: Published, cluster: Cluster, rank: int) -> None:
        self._deployment, self._components = deployment, len(HELD[cluster.protocol](rank))
        self._batching = cluster.options.batching
        self._specs = functools.lru_cache(maxsize=64)(deployment.inputs.specs)

    def check(self, header: Header) -> tuple[str, RequestShape]:
        """A request's number and size, if its header is what this party takes for that size.

        Raises:
            MessageError, UserError: it is not.
        """
        message = Message(header.kind, header.fields)
        number, shape = message.text("request"), RequestShape.read(message)
        if header.kind != "infer" or not _NUMBER.fullmatch(number):
            raise MessageError("a request is of the kind infer, and its number has 32 hexadecimal digits")
        self.check_size(message.text("deployment"), shape)
        takes = one_hot.sent(self._specs(shape.rows, shape.length))
        listed = header.fields.get("shares")
        if not isinstance(listed, list) or len(listed) != len(takes):
            raise UserError(f"another input than this model takes: {len(takes)} arrays were expected")
        pairs = zip(listed, takes.items(), strict=True)
        if header.sizes != [size for entry, (name, spec) in pairs for size in self._sizes(entry, name, spec)]:
            raise MessageError("the sizes of the shares are not those of their shapes")
        return number, shape

    def check_size(self, deployment: str, shape: RequestShape) -> None:
        """Refuse another model than the one that is served, and a size that it is not served with.

        Raises:
            UserError: it is one.
        """
        if deployment != self._deployment.name:
            raise UserError("another model has been published: ask secformer status, and send it again")
        self._deployment.check(shape)
        most = self._batching.rows(shape.length, self._deployment.unit)
        if shape.rows > most:
            raise UserError(
                f"{shape.rows} texts of {shape.length} tokens in one request, and at most {most} are served"
            )

    def _sizes(self, entry: Any, name: str, spec: InputSpec) -> list[int]:
        """Bytes of each component that is listed for an input."""
        described = {"name": name, "dtype": spec.dtype, "shape": list(spec.shape), "bits": spec.bits}
        found = dict(entry) if isinstance(entry, dict) else {}
        components = found.pop("components", None)
        # JSON's true and 1.0 are equal to 1, and no sizes.
        exact = found == described and all(type(number) is int for number in (found["bits"], *found["shape"]))
        if not exact or not isinstance(components, list):
            raise UserError(f"another input than this model takes: {described} was expected")
        if len(components) != self._components or not all(kind in ("seed", "ring") for kind in components):
            raise UserError(f"{name}: {self._components} components, seed or ring, were expected")
        whole = packed_bytes(math.prod(spec.shape), spec.bits)
        return [SEED_BYTES if kind == "seed" else whole for kind in components]


class Quota:
    """What a client may have on a server at a time: requests, and bytes of inputs, one of any size in any case."""

    def __init__(self, requests: int = CLIENT_REQUESTS, size: int = CLIENT_BYTES) -> None:
        self._most_requests, self._most_bytes = requests, size
        self._requests, self._bytes = Counter[str](), Counter[str]()

    @contextlib.contextmanager
    def request(self, client: str) -> Iterator[None]:
        """Count one request as a client's.

        Raises:
            BusyError: it has too many already.
        """
        if self._requests[client] >= self._most_requests:
            raise BusyError(f"{self._most_requests} requests of {client} wait already: send fewer at once")
        self._requests[client] += 1
        try:
            yield
        finally:
            self._requests[client] -= 1

    @contextlib.contextmanager
    def input(self, client: str, size: int) -> Iterator[None]:
        """Count the bytes of an input as a client's.

        Raises:
            BusyError: it has too many already.
        """
        held = self._bytes[client]
        if held and held + size > self._most_bytes:
            raise BusyError(f"{held:,} bytes of inputs of {client} wait already: send fewer at once")
        self._bytes[client] += size
        try:
            yield
        finally:
            self._bytes[client] -= size


class Numbers:
    """Of the requests that were here last: none serves twice, so a late word of one (`gone`, `fail`) meets no other."""

    def __init__(self) -> None:
        self._taken = OrderedDict[str, None]()

    def take(self, number: str) -> bool:
        """Use one up; says whether it is new."""
        if number in self._taken:
            return False
        self._taken[number] = None
        if len(self._taken) > KEPT_NUMBERS:
            self._taken.popitem(last=False)
        return True


async def read_question(reader: Reader) -> tuple[str, str, RequestShape]:
    """What a client asks before it sends anything: its nonce, the model that it knows, and a size.

    Raises:
        MessageError: it is none of it, or does not come.
    """
    data = b""
    with _in_time("question"):
        async with asyncio.timeout(HEADER_SECONDS):
            while len(data) <= QUESTION_BYTES and (more := await reader.read(QUESTION_BYTES)):
                data += more
    try:
        asked = Message("statement", dict(json.loads(data[: QUESTION_BYTES + 1])))
    except (ValueError, TypeError, RecursionError):
        raise MessageError("a JSON object with nonce, deployment, rows and length was expected") from None
    nonce, shape = asked.text("nonce"), RequestShape.read(asked)
    if len(nonce) > NONCE_LENGTH:
        raise MessageError(f"a nonce has at most {NONCE_LENGTH} characters")
    return nonce, asked.text("deployment"), shape


async def read_header(reader: Reader) -> Header:
    """The header of a request, as soon as it is there.

    Raises:
        MessageError: it is no header, or does not come.
    """
    with _in_time("header"):
        async with asyncio.timeout(HEADER_SECONDS):
            size, _ = lengths(await reader.readexactly(PREFIX.size))
            if size > HEADER_BYTES:
                raise MessageError(f"a header of {size} bytes, and at most {HEADER_BYTES} are read")
            return parse_header(await reader.readexactly(size))


async def read_payload(reader: Reader, header: Header) -> Message:
    """The whole message of a header that has been checked.

    Raises:
        MessageError: it does not come, or too slowly.
    """
    size = sum(header.sizes)
    with _in_time("payload"):
        async with asyncio.timeout(payload_seconds(size)):
            return cut(header, await reader.readexactly(size))


def payload_seconds(size: int) -> float:
    """How long so many bytes may take."""
    return PAYLOAD_SECONDS + size / PAYLOAD_BYTES_A_SECOND


def input_bytes(deployment: Published, shape: RequestShape) -> int:
    """The most that one party gets of a client's request of this size."""
    specs = one_hot.sent(deployment.inputs.specs(shape.rows, shape.length)).values()
    return sum(packed_bytes(math.prod(spec.shape), spec.bits) for spec in specs)


@contextlib.contextmanager
def _in_time(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise MessageError(f"the message's {what} comes too slowly") from None
    except asyncio.IncompleteReadError:
        raise MessageError(f"the message ends in its {what}") from None
