"""The model owner: shares a checkpoint among the servers, one tensor at a time, and never learns the dealer's masks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np

from secformer_jax.cluster.clients.channel import Servers, patiently
from secformer_jax.cluster.clients.material import MaterialClient
from secformer_jax.cluster.config import OWNER, Cluster
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.requirements import unmasked_weights
from secformer_jax.cluster.wire.message import Bytes, Message, with_shares
from secformer_jax.cluster.wire.paths import ACTIVATE_PATH, END, PUBLISH_PATH
from secformer_jax.errors import UserError
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.mpc.runtime.shares import encode, share


@dataclass(frozen=True)
class Publication:
    """What was published, and the bytes that went to each party by rank."""

    deployment: str
    tensors: int
    sent_bytes: tuple[int, ...]


async def publish(
    cluster: Cluster,
    model: Checkpoint | DecoderCheckpoint,
    deployment: Published,
    *,
    progress: Callable[[int], None] = lambda tensors: None,
) -> Publication:
    """Give every server its shares of the weights, then have the model served, under a name of this publication.

    Args:
        cluster: where to.
        model: the checkpoint.
        deployment: its description, which everybody gets with a new nonce.
        progress: called with the number of tensors that are sent.

    Raises:
        UserError: a server refuses or goes away; the model that was served before stays.
    """
    deployment, bits = deployment.anew(), cluster.fraction_bits
    protocol, parties = cluster.protocol, cluster.parties
    # A queue of one: the next tensor is made when every server has taken this one.
    queues: dict[str, asyncio.Queue[list[Bytes]]] = {party: asyncio.Queue(1) for party in parties}
    sent = dict.fromkeys(parties, 0)

    def pieces(path: tuple[str, ...], array: np.ndarray) -> list[Message]:
        # Widened integers are ring elements already; everything else is a number.
        dtype = "int64" if np.issubdtype(array.dtype, np.integer) else "float32"
        try:
            ring = encode(np.asarray(array), bits)
        except ValueError as error:
            raise UserError(f"{'/'.join(path)}: {error}") from None
        name = "/".join(path)
        return [with_shares("weights", {}, {name: piece}) for piece in share(ring, dtype, protocol, len(parties))]

    async def make() -> int:
        count = 0
        first = Message("describe", {"description": deployment.to_json()})
        await asyncio.gather(*(queue.put(first.pack()) for queue in queues.values()))
        arrays = unmasked_weights(deployment, bits, model)
        while (found := await asyncio.to_thread(next, arrays, None)) is not None:
            messages = await asyncio.to_thread(pieces, *found)
            for party, message in zip(parties, messages, strict=True):
                parts = message.pack()
                sent[party] += sum(memoryview(part).nbytes for part in parts)
                await queues[party].put(parts)
            count += 1
            progress(count)
        await asyncio.gather(*(queue.put(Message(END).pack()) for queue in queues.values()))
        await asyncio.gather(*(queue.put([]) for queue in queues.values()))
        return count

    async def body(party: str) -> AsyncIterator[Bytes]:
        while parts := await queues[party].get():
            for part in parts:
                yield memoryview(part).cast("B")

    if cluster.dealer is not None:
        dealer = MaterialClient(cluster, OWNER)
        try:
            await patiently(lambda: dealer.describe(deployment))
        finally:
            await dealer.close()
    async with Servers(cluster, OWNER) as servers:
        await servers.meet()
        making = asyncio.ensure_future(make())
        try:
            await servers.each(lambda party: servers.post(party, PUBLISH_PATH, data=body(party)))
            tensors = await making
        except BaseException:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            if making.done() and not making.cancelled() and isinstance(making.exception(), UserError):
                await making
            raise
        await servers.post(parties[0], ACTIVATE_PATH, json={"deployment": deployment.name})
    return Publication(deployment.name, tensors, tuple(sent.values()))
