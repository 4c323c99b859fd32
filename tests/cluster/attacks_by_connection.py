"""How a client that means harm sends it: slowly, often, to one server alone, twice, or not as HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import secrets
import socket
import ssl
from collections.abc import AsyncIterator

import aiohttp
from mallory import Attack, Mallory, into

from secformer_jax.cluster.clients.material import DESCRIBE_PATH, MASKS_PATH, MATERIAL_PATH
from secformer_jax.cluster.config import DEALER
from secformer_jax.cluster.wire.message import MAGIC, PREFIX, VERSION
from secformer_jax.cluster.wire.paths import ACTIVATE_PATH, PEER_PATH, PUBLISH_PATH
from secformer_jax.models.text import Encoded

ATTACKS: dict[str, Attack] = {}
attack = into(ATTACKS)


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
        assert await mallory.to_all(mallory.good(request=number)) == [400, 400]


@attack
async def a_number_given_again_after_hanging_up(mallory: Mallory) -> None:
    """At one server, while the others wait with theirs: what is said of the first is not the second's."""
    for pause in (0.05, 0.2, 0.5, 1.0, 1.5):
        first, last = (b"".join(message.pack()) for message in mallory.good())
        asking = [asyncio.create_task(mallory.post(party, body)) for party, body in (("S0", first), ("S1", last))]
        await asyncio.sleep(pause)
        asking[1].cancel()
        again = await asyncio.gather(*(mallory.post("S1", last) for _ in range(3)), asking[0])
        # One of them is new at most, where the first had not arrived.
        assert again[:3].count(400) >= (3 if pause >= 1 else 2)


@attack
async def a_number_given_again_after_its_time(mallory: Mallory) -> None:
    """One server has it alone, and no longer; then the other gets another request under the same number."""
    number = secrets.token_hex(16)
    alone = asyncio.create_task(mallory.post("S0", b"".join(mallory.good(request=number)[0].pack())))
    await asyncio.sleep(1)
    alone.cancel()
    await asyncio.sleep(2)
    first, last = (b"".join(message.pack()) for message in mallory.good(request=number))
    assert await mallory.post("S0", first) == 400
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(6):
            await mallory.post("S1", last)


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
