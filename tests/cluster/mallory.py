"""What a client that means harm sends to a cluster: each attack is a function of `Mallory`."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import aiohttp
import numpy as np

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.material import DESCRIBE_PATH, MASKS_PATH, MATERIAL_PATH
from secformer_jax.cluster.config import DEALER, Cluster
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.message import MAGIC, PREFIX, VERSION, Message, with_shares
from secformer_jax.cluster.wire.paths import ACTIVATE_PATH, INFER_PATH, PEER_PATH, PUBLISH_PATH, STATEMENT_PATH
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.runtime.one_hot import shared

NAME = "mallory"
Body = bytes | AsyncIterator[bytes]


class Mallory:
    """A client with a good certificate, and no manners.

    Args:
        cluster: whom it attacks.
        encoded: an input that the model takes.
    """

    def __init__(self, cluster: Cluster, encoded: Encoded) -> None:
        self.cluster, self.encoded = cluster, encoded
        self.statuses: list[int] = []

    async def __aenter__(self) -> Mallory:
        async with ClusterClient(self.cluster, NAME) as client:
            self.deployment = (await client.deployment()).name
            self.serving = client._serving
        self.context = tls.client_context(self.cluster.tls(NAME))
        connector = aiohttp.TCPConnector(ssl=self.context, limit=0)
        self.http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20))
        return self

    async def __aexit__(self, *exception) -> None:
        await self.http.close()

    def fields(self, **changes: object) -> dict:
        rows, length = self.encoded.input_ids.shape
        fields = {"request": secrets.token_hex(16), "deployment": self.deployment, "rows": rows, "length": length}
        return {**fields, **changes}

    def good(self, inputs: Sequence[np.ndarray] = (), **changes: object) -> list[Message]:
        """What each server takes, or shares of other inputs in their place."""
        fields, parties = self.fields(**changes), self.cluster.parties
        specs = self.serving.input_specs(*self.encoded.input_ids.shape)
        inputs = inputs or self.serving.inputs(self.encoded)
        shares = shared(specs, inputs, self.cluster.protocol, len(parties), self.cluster.fraction_bits)
        return [with_shares("infer", fields, own) for own in shares]

    async def post(self, party: str, body: Body | None, path: str = INFER_PATH, **headers: str) -> int:
        """The status of an answer; 0 for none."""
        status = 0
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            url = f"https://{self.cluster.control[party]}{path}"
            async with self.http.post(url, data=body, headers=headers, server_hostname=party) as answer:
                await answer.read()
                status = answer.status
        self.statuses.append(status)
        return status

    async def to_all(self, messages: list[Message]) -> list[int]:
        bodies = [b"".join(message.pack()) for message in messages]
        return await asyncio.gather(
            *(self.post(party, body) for party, body in zip(self.cluster.parties, bodies, strict=True))
        )

    async def changed(self, change: Callable[[Message], None]) -> None:
        """A good request, all of whose messages are changed the same way."""
        messages = self.good()
        for message in messages:
            change(message)
        await self.to_all(messages)

    def raw(self, party: str) -> ssl.SSLSocket:
        """A connection to write anything to."""
        address = self.cluster.control[party]
        plain = socket.create_connection((address.host, address.port), timeout=10)
        return self.context.wrap_socket(plain, server_hostname=party)


Attack = Callable[[Mallory], Awaitable[object]]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


def listed(change: Callable[[dict], object]) -> Attack:
    """An attack that changes how one share is described."""

    def apply(message: Message) -> None:
        change(message.fields["shares"][0])

    async def run(mallory: Mallory) -> None:
        await mallory.changed(apply)

    return run


ATTACKS |= {
    "no_components": listed(lambda entry: entry.update(components=[])),
    "surplus_components": listed(lambda entry: entry["components"].append("seed")),
    "unknown_component": listed(lambda entry: entry.update(components=["pickle"])),
    "components_no_list": listed(lambda entry: entry.update(components="ring")),
    "seed_for_ring": listed(lambda entry: entry.update(components=["seed"])),
    "another_dtype": listed(lambda entry: entry.update(dtype="float32")),
    "unknown_dtype": listed(lambda entry: entry.update(dtype="O")),
    "another_name": listed(lambda entry: entry.update(name="material0")),
    "name_of_a_weight": listed(lambda entry: entry.update(name="weights['opened']")),
    "more_bits": listed(lambda entry: entry.update(bits=64)),
    "no_bits": listed(lambda entry: entry.pop("bits")),
    "flat_shape": listed(lambda entry: entry.update(shape=[entry["shape"][0] * entry["shape"][1] * entry["shape"][2]])),
    "true_for_one": listed(lambda entry: entry.update(shape=[True, *entry["shape"][1:]])),
    "broken_numbers": listed(lambda entry: entry.update(shape=[float(size) for size in entry["shape"]])),
    "bits_with_a_point": listed(lambda entry: entry.update(bits=float(entry["bits"]))),
    "negative_shape": listed(lambda entry: entry.update(shape=[-1, *entry["shape"][1:]])),
    "shape_of_100000_numbers": listed(lambda entry: entry.update(shape=[3] * 100_000)),
    "shape_of_huge_numbers": listed(lambda entry: entry.update(shape=[10**4000] * 8)),
    "nested_entry": listed(lambda entry: entry.update(more={"a": [{}] * 100})),
}


def no_texts(mallory: Mallory) -> dict[str, list[np.ndarray]]:
    """Inputs of the right shapes that no text has."""
    top = 1 << (mallory.serving.input_specs(*mallory.encoded.input_ids.shape)[0].bits - 1)

    def but(index: int, change: Callable[[np.ndarray], None]) -> list[np.ndarray]:
        arrays = [array.copy() for array in mallory.serving.inputs(mallory.encoded)]
        # Of the first vector of the first text.
        change(arrays[index].reshape(-1, arrays[index].shape[-1])[0])
        return arrays

    def add(*pairs: tuple[int, int]) -> Callable[[np.ndarray], None]:
        def change(row: np.ndarray) -> None:
            for place, value in pairs:
                row[place] += value

        return change

    return {
        "zeros": but(0, lambda row: row.fill(0)),
        "two words": but(0, add((3, 1))),
        "a word and its opposite": but(0, add((3, 1), (4, -1))),
        "half a ring": but(0, add((3, top), (4, top))),
        "no token type": but(0, add((-1, 1))),
        "no length": but(1, lambda row: row.fill(0)),
        "two lengths": but(1, add((0, 1))),
        "a negative length": but(1, add((0, 1), (1, -1))),
        "half of the ring's lengths": but(1, add((0, -(1 << 63)), (1, -(1 << 63)))),
    }


@attack
async def inputs_that_are_no_text(mallory: Mallory) -> None:
    for inputs in no_texts(mallory).values():
        assert 200 not in await mallory.to_all(mallory.good(inputs))


@attack
async def proofs_of_another_input(mallory: Mallory) -> None:
    messages, others = mallory.good(no_texts(mallory)["two words"]), mallory.good()
    for message, other in zip(messages, others, strict=True):
        inputs = [name for entry in message.fields["shares"] for name in [entry["name"]] * len(entry["components"])]
        message.chunks = [
            mine if name.startswith("input") else good
            for name, mine, good in zip(inputs, message.chunks, other.chunks, strict=True)
        ]
    assert 200 not in await mallory.to_all(messages)


@attack
async def questions_that_are_none(mallory: Mallory) -> None:
    good = {"nonce": "0" * 32, "deployment": mallory.deployment, "rows": 1, "length": 16}
    changes = (
        {"rows": 10**18},
        {"length": 7},
        {"nonce": "x" * 100_000},
        {"nonce": None},
        {"deployment": "x"},
        {"rows": True},
    )
    bodies = [json.dumps(good | change).encode() for change in changes]
    for body in (*bodies, b"[" * 100_000, b"[" * 3000, b"{}", b"", b"null", b"1" * 4000, secrets.token_bytes(4000)):
        assert await mallory.post("S0", body, STATEMENT_PATH) == 400
    assert await mallory.post("S0", json.dumps(good).encode(), STATEMENT_PATH) == 200


@attack
async def no_shares(mallory: Mallory) -> None:
    await mallory.changed(lambda message: message.fields.pop("shares"))


@attack
async def no_input_at_all(mallory: Mallory) -> None:
    rows = [Message("infer", mallory.fields(shares=[]))] * len(mallory.cluster.parties)
    await mallory.to_all(rows)


@attack
async def sizes_that_lie(mallory: Mallory) -> None:
    def change(message: Message) -> None:
        message.chunks = [*message.chunks, b"x"]

    await mallory.changed(change)


@attack
async def another_kind(mallory: Mallory) -> None:
    for kind in ("result", "material", "start", "x" * 5000):
        await mallory.to_all([Message(kind, m.fields, m.chunks) for m in mallory.good()])


@attack
async def numbers_of_requests(mallory: Mallory) -> None:
    for number in ("", "x" * 32, "../" * 10 + "ab", "A" * 32, "0" * 10_000, 7, None, ["a"], {"a": 1}):
        await mallory.to_all(mallory.good(request=number))


@attack
async def sizes_that_are_not_served(mallory: Mallory) -> None:
    for rows, length in ((0, 16), (-1, 16), (1, 7), (1, 1 << 40), (1 << 62, 16), (True, 16), (1.5, 16), ("1", 16)):
        await mallory.to_all(mallory.good(rows=rows, length=length))


@attack
async def another_model(mallory: Mallory) -> None:
    for name in ("0" * 32, "", "../../etc/passwd", None):
        await mallory.to_all(mallory.good(deployment=name))


@attack
async def deep_json(mallory: Mallory) -> None:
    for text in (b"[" * 1_000_000, b'{"a":' * 3000, b"[" * 10_000, b"1" * 10_000, b"\xff" * 1000, b"null", b"{}"):
        prefix = PREFIX.pack(MAGIC, VERSION, len(text), 0)
        await mallory.post("S0", prefix + text)


@attack
async def a_long_header(mallory: Mallory) -> None:
    text = json.dumps({"kind": "infer", "fields": mallory.fields(), "sizes": list(range(200_000))}).encode()
    await mallory.post("S0", PREFIX.pack(MAGIC, VERSION, len(text), 0) + text)
    await mallory.post("S0", PREFIX.pack(MAGIC, VERSION, (1 << 32) - 1, (1 << 64) - 1))


@attack
async def garbage(mallory: Mallory) -> None:
    for size in (0, 1, 17, 18, 19, 100_000, 3_000_000):
        await mallory.post("S0", secrets.token_bytes(size))
    await mallory.post("S1", MAGIC + secrets.token_bytes(1000))


@attack
async def gzip_bodies(mallory: Mallory) -> None:
    body = gzip.compress(b"\0" * 200_000_000)
    headers = {"Content-Encoding": "gzip"}
    await asyncio.gather(*(mallory.post(party, body, **headers) for party in mallory.cluster.parties for _ in range(4)))
    await mallory.post("S0", body, DESCRIBE_PATH, **headers)


async def trickle(data: bytes, pause: float, most: float) -> AsyncIterator[bytes]:
    ends = asyncio.get_running_loop().time() + most
    for byte in data:
        yield bytes([byte])
        if asyncio.get_running_loop().time() > ends:
            return
        await asyncio.sleep(pause)


@attack
async def slow_headers(mallory: Mallory) -> None:
    body = b"".join(mallory.good()[0].pack())
    await asyncio.gather(*(mallory.post("S0", trickle(body, 0.5, 12)) for _ in range(50)))


@attack
async def large_slow_bodies(mallory: Mallory) -> None:
    """Headers that announce much, and then 60 MB each, slowly; and good headers whose shares do not come."""

    async def large() -> AsyncIterator[bytes]:
        yield PREFIX.pack(MAGIC, VERSION, 100, 1 << 30)
        for _ in range(60):
            yield b" " * (1 << 20)
            await asyncio.sleep(0.1)

    async def never() -> AsyncIterator[bytes]:
        parts = mallory.good()[-1].pack()
        yield bytes(parts[0])
        await asyncio.sleep(15)

    bodies = [large() for _ in range(8)] + [never() for _ in range(80)]
    await asyncio.gather(*(mallory.post(party, body) for body in bodies for party in mallory.cluster.parties[:1]))


@attack
async def a_flood_of_requests(mallory: Mallory) -> None:
    await asyncio.gather(*(mallory.to_all(mallory.good()) for _ in range(150)))


@attack
async def a_flood_of_sizes(mallory: Mallory) -> None:
    whole = mallory.encoded
    for rows in (1, 2, 3, 4, 5, 8, 16, 32):
        for length in (8, 16, 17, 32):
            ids = whole.input_ids[:1].repeat(rows, 0)
            ids = ids.repeat(2, 1)[:, :length]
            mask = whole.attention_mask[:1].repeat(rows, 0).repeat(2, 1)[:, :length]
            mallory.encoded = Encoded(ids, 0 * ids, mask)
            asking = asyncio.create_task(mallory.to_all(mallory.good()))
            await asyncio.sleep(0.4)
            del asking
    mallory.encoded = whole


@attack
async def one_server_alone(mallory: Mallory) -> None:
    body = b"".join(mallory.good()[0].pack())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(6):
            await asyncio.gather(*(mallory.post("S0", body) for _ in range(20)))
            await mallory.post("S1", b"".join(mallory.good()[1].pack()))


@attack
async def a_number_used_twice(mallory: Mallory) -> None:
    number = secrets.token_hex(16)
    await asyncio.gather(*(mallory.to_all(mallory.good(request=number)) for _ in range(6)))
    for _ in range(3):
        await mallory.to_all(mallory.good(request=number))


@attack
async def a_number_given_again_after_its_time(mallory: Mallory) -> None:
    """One server has it alone; shortly before that is given up both get another request under the same number."""
    number = secrets.token_hex(16)
    alone = asyncio.create_task(mallory.post("S0", b"".join(mallory.good(request=number)[0].pack())))
    await asyncio.sleep(1)
    alone.cancel()
    await asyncio.sleep(2)
    await mallory.to_all(mallory.good(request=number))


@attack
async def other_sizes_at_each_server(mallory: Mallory) -> None:
    number, whole = secrets.token_hex(16), mallory.encoded
    first = mallory.good(request=number)[0]
    ids = whole.input_ids.repeat(2, 0)
    mallory.encoded = Encoded(ids, 0 * ids, whole.attention_mask.repeat(2, 0))
    second = mallory.good(request=number)[1]
    mallory.encoded = whole
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await mallory.to_all([first, second])


@attack
async def hanging_up(mallory: Mallory) -> None:
    for _ in range(10):
        asking = asyncio.create_task(mallory.to_all(mallory.good()))
        await asyncio.sleep(0.1)
        asking.cancel()


@attack
async def the_owners_doors(mallory: Mallory) -> None:
    for path in (PUBLISH_PATH, ACTIVATE_PATH, PEER_PATH, MATERIAL_PATH, MASKS_PATH, DESCRIBE_PATH):
        await mallory.post("S0", b"".join(mallory.good()[0].pack()), path)
        await mallory.post("S0", b"[" * 200_000, path)
    address = mallory.cluster.dealer
    for path in (MATERIAL_PATH, MASKS_PATH, DESCRIBE_PATH, "/org.interconnection.BeaverService/AdjustDot"):
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with mallory.http.post(
                f"https://{address}{path}", data=b"[" * 200_000, server_hostname=DEALER
            ) as got:
                mallory.statuses.append(got.status)


@attack
async def a_flood_of_connections(mallory: Mallory) -> None:
    connections: list[ssl.SSLSocket] = []
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                connections.append(await asyncio.to_thread(mallory.raw, "S0"))
        await asyncio.sleep(2)
    finally:
        for each in connections:
            each.close()


@attack
async def half_open_handshakes(mallory: Mallory) -> None:
    """At the doors for clients, and at the servers' own."""
    addresses = [*mallory.cluster.control.values(), *mallory.cluster.links.values()]
    connections = []
    for address in addresses:
        for _ in range(100):
            with contextlib.suppress(OSError):
                connections.append(socket.create_connection((address.host, address.port), timeout=5))
                connections[-1].sendall(b"\x16\x03\x01\x02\x00\x01")
    await asyncio.sleep(5)
    for each in connections:
        each.close()


@attack
async def no_http(mallory: Mallory) -> None:
    for text in (b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, b"POST /v1/infer HTTP/1.1\r\n" + b"a: b\r\n" * 20_000):
        connection = await asyncio.to_thread(mallory.raw, "S0")
        with contextlib.suppress(OSError):
            await asyncio.to_thread(connection.sendall, text)
        connection.close()
    address = mallory.cluster.control["S0"]
    with socket.create_connection((address.host, address.port)) as plain:
        plain.sendall(b"POST /v1/infer HTTP/1.1\r\n\r\n")


@attack
async def a_trailer(mallory: Mallory) -> None:
    """More after the message than it has."""
    bodies = [b"".join(message.pack()) + b"x" * 5_000_000 for message in mallory.good()]
    await asyncio.gather(*(mallory.post(p, body) for p, body in zip(mallory.cluster.parties, bodies, strict=True)))
