"""The dealer's material service: shares of the masks that one request needs, dealt ahead of it and used once, ever."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from secformer_jax.cluster import store
from secformer_jax.cluster.clients.material import DESCRIBE_PATH, MASKS_PATH, MATERIAL_PATH, REVEAL_PATH
from secformer_jax.cluster.config import OWNER, Cluster
from secformer_jax.cluster.dealer.conversations import CacheMasks
from secformer_jax.cluster.dealer.ledger import Ledger
from secformer_jax.cluster.dealer.pieces import Delivered, Masked, Piece
from secformer_jax.cluster.published import Published, read_description
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import checked, mask_shapes, requirements, serving
from secformer_jax.cluster.wire.http import peer_of, question
from secformer_jax.cluster.wire.message import Bytes, Message, with_shares
from secformer_jax.cluster.wire.paths import END
from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.mpc.audit import commitment
from secformer_jax.mpc.material import MaterialReusedError, Randomness, deal_nodes, material_nodes
from secformer_jax.mpc.runtime.shares import SEED_BYTES, Share, deal, fresh_seeds, sent_bytes

log = logging.getLogger(__name__)

KEPT_DEPLOYMENTS = 16
"""A publication that fails leaves its description here, and must not push out the one that is served."""
KEPT_PIECES = 4
"""That not all parties have fetched, or that are dealt ahead; more where more runs are in flight."""
BATCH_BYTES, DESCRIPTION_BYTES = 1 << 20, 8 << 20
KEPT_SEEDS, REVEAL_SECONDS = 64, 60.0


class MaterialService:
    """Deals for the computing parties of one cluster.

    Args:
        cluster: the parties and their protocol.
        state: a folder for what must outlive the process: the ledger, and the masks of the weights, sealed.
        seal: path of the dealer's sealing key.
    """

    def __init__(self, cluster: Cluster, state: Path, seal: Path) -> None:
        self._cluster, self._state = cluster, state
        self._protocol = cluster.protocol
        self._fraction_bits = cluster.fraction_bits
        self._pieces = max(KEPT_PIECES, cluster.options.runs_in_flight + 1)
        self._key = store.sealing_key(seal)
        self._ledger = Ledger(state / "pieces")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="material")
        self._published: dict[str, Masked] = {}
        self._describing: set[str] = set()
        self._dealt: dict[str, tuple[asyncio.Future[Piece], set[str]]] = {}
        self._delivered: dict[str, Delivered] = {}
        self._ahead: dict[tuple[str, RequestShape], asyncio.Future[Piece]] = {}

    def routes(self) -> list[web.RouteDef]:
        """For `http.application`."""
        return [
            web.post(DESCRIBE_PATH, self._describe),
            web.post(MASKS_PATH, self._masks),
            web.post(MATERIAL_PATH, self._material),
            web.post(REVEAL_PATH, self._reveal),
        ]

    def close(self) -> None:
        """End its thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._ledger.close()

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        peer_of(request, [OWNER])
        try:
            asked = await question(request.clone(client_max_size=DESCRIPTION_BYTES))
            described = read_description(asked.fields.get("description"))
            deployment = await self._in_thread(checked, described)
        except UserError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        if deployment.name in self._describing or self._path(deployment.name).exists():
            raise web.HTTPConflict(text="a model of this name has been published: its masks serve no other weights\n")
        self._describing.add(deployment.name)
        try:
            await self._in_thread(self._publish, deployment)
        except UserError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        finally:
            self._describing.remove(deployment.name)
        log.info("described", extra={"count": len(self._ledger)})
        return await _stream(request, [])

    async def _masks(self, request: web.Request) -> web.StreamResponse:
        rank = self._cluster.rank(peer_of(request, self._cluster.parties))
        asked = await question(request)
        published = await self._known(asked)
        if "conversation" in asked.fields:
            shares = await self._cache_masks(published, asked.token("conversation"), rank)
        else:
            shares = {
                f"masks/{name}": deal(list(seeds), "int64", published.shapes[name], self._protocol)[rank]
                for name, seeds in published.seeds.items()
            }
        return await _stream(request, with_shares("weights", {}, shares).pack())

    async def _cache_masks(self, published: Masked, name: str, rank: int) -> dict[str, Share]:
        """Of a conversation, which begins with the first party that asks; its name serves once, ever."""
        if not isinstance(published.served, DecoderServing):
            raise web.HTTPBadRequest(text="this model generates nothing\n")
        try:
            if name not in published.conversations:
                entered = asyncio.ensure_future(asyncio.to_thread(self._ledger.add, name))
                parties = len(self._cluster.parties)
                published.conversations.begin(name, published.served.cache_masks(), parties, entered)
            return await published.conversations[name].shares(rank, self._protocol)
        except MaterialReusedError as error:
            raise web.HTTPConflict(text=f"{error}\n") from None

    async def _material(self, request: web.Request) -> web.StreamResponse:
        party = peer_of(request, self._cluster.parties)
        asked = await question(request)
        shape, piece = RequestShape.read(asked), asked.token("piece")
        published = await self._known(asked)
        try:
            published.deployment.check(shape)
        except UserError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        if piece not in self._dealt:
            # Where one party has got a piece, so do the others.
            if shape.conversation and shape.conversation not in published.conversations:
                raise web.HTTPGone(text="it has no masks of this conversation any more: begin a new one\n")
            self._forget_oldest()
            ready = self._ahead.pop((published.deployment.name, shape), None) or self._deal(published, shape)
            # In its place before anything is awaited: the parties ask at the same time.
            self._dealt[piece] = asyncio.ensure_future(self._entered(piece, ready)), set()
        dealt, taken = self._dealt[piece]
        if party in taken:
            raise web.HTTPConflict(text=f"{party} has this piece of material already: ask for a new one\n")
        taken.add(party)
        try:
            made = await dealt
        except MaterialReusedError as error:
            log.warning("refused", extra={"party": party, "request": piece, "reason": str(error)})
            raise web.HTTPConflict(text=f"{error}\n") from None
        if len(taken) == len(self._cluster.parties):
            self._dealt.pop(piece, None)
            self._delivered[piece] = Delivered(made.seed)
            while len(self._delivered) > KEPT_SEEDS:
                self._delivered.pop(next(iter(self._delivered)))
            if (following := published.deployment.next(shape)) is not None:
                self._deal_ahead(published, following)
        return await _stream(request, _batches(made.shares[self._cluster.rank(party)], commitment(made.seed)))

    async def _reveal(self, request: web.Request) -> web.StreamResponse:
        """The seed of a piece, to all parties when all have asked: who has it knows what the piece hides."""
        party = peer_of(request, self._cluster.parties)
        piece = (await question(request)).token("piece")
        delivered = self._delivered.get(piece)
        if delivered is None:
            raise web.HTTPNotFound(text="not all parties have this piece, or it was dealt too long ago\n")
        delivered.asked.add(party)
        if len(delivered.asked) == len(self._cluster.parties):
            self._delivered.pop(piece, None)
            delivered.by_all.set()
        try:
            await asyncio.wait_for(delivered.by_all.wait(), REVEAL_SECONDS)
        except TimeoutError:
            raise web.HTTPConflict(text="another party did not ask how this piece was dealt\n") from None
        return await _stream(request, Message("seed", {}, [delivered.seed]).pack())

    def _deal_ahead(self, published: Masked, shape: RequestShape) -> None:
        """One piece for the next request of this size; only the sizes asked for last have one."""
        key, conversation = (published.deployment.name, shape), shape.conversation
        if key not in self._ahead and (not conversation or conversation in published.conversations):
            while len(self._ahead) >= self._pieces:
                self._ahead.pop(next(iter(self._ahead))).cancel()
            self._ahead[key] = self._deal(published, shape)

    async def _entered(self, piece: str, ready: asyncio.Future[Piece]) -> Piece:
        """The material, once its number is in the ledger."""
        if not await asyncio.to_thread(self._ledger.add, piece):
            raise MaterialReusedError("this piece of material has been dealt before: ask for a new one")
        return await ready

    def _deal(self, published: Masked, shape: RequestShape) -> asyncio.Future[Piece]:
        cache = published.conversations[shape.conversation] if shape.conversation else None
        return asyncio.ensure_future(self._in_thread(self._make, published, shape, cache))

    def _make(self, published: Masked, shape: RequestShape, cache: CacheMasks | None) -> Piece:
        """Fresh material of one request, as shares; on the thread."""
        masks = published.masks() if cache is None else cache.beside(published.masks())
        if shape.size not in published.nodes:
            published.nodes[shape.size] = material_nodes(requirements(published.served, shape).material)
        parties = len(self._cluster.parties)
        randomness, shares = Randomness(parties), [list[Share]() for _ in range(parties)]
        for array in deal_nodes(published.nodes[shape.size], randomness, masks):
            dealt = deal(array.components, "int64", array.shape, self._protocol, array.bits)
            for own, share in zip(shares, dealt, strict=True):
                own.append(share)
        return Piece(randomness.seed, shares)

    def _publish(self, deployment: Published) -> None:
        """Draw the masks of the weights, and keep their generators' keys, sealed."""
        shapes, served = {}, serving(deployment, self._fraction_bits)
        if deployment.masked:
            shapes = mask_shapes(requirements(served, deployment.least).weights)
        parties = len(self._cluster.parties)
        seeds = {name: fresh_seeds(parties) for name in shapes}
        writer = store.SealedWriter(self._path(deployment.name), self._key, deployment.name)
        fields = {"description": deployment.to_json(), "shapes": {name: list(shape) for name, shape in shapes.items()}}
        writer.add(Message("published", fields, [b"".join(keys) for keys in seeds.values()]))
        writer.finish()
        self._published[deployment.name] = Masked(deployment, seeds, shapes, served)
        self._forget_deployments()

    def _load(self, name: str) -> Masked:
        [message] = store.read(self._path(name), self._key, name)
        shapes = {key: tuple(shape) for key, shape in message.fields["shapes"].items()}
        keys = [bytes(chunk) for chunk in message.chunks]
        cut = [[key[i : i + SEED_BYTES] for i in range(0, len(key), SEED_BYTES)] for key in keys]
        deployment = read_description(message.fields["description"])
        served = serving(deployment, self._fraction_bits)
        return Masked(deployment, dict(zip(shapes, cut, strict=True)), shapes, served)

    async def _known(self, asked: Message) -> Masked:
        """The deployment that a question names."""
        name = asked.token("deployment")
        if name not in self._published:
            if not self._path(name).exists():
                raise web.HTTPNotFound(text="the dealer does not know this model: publish it again\n")
            self._published[name] = await self._in_thread(self._load, name)
        os.utime(self._path(name))
        return self._published[name]

    def _path(self, name: str) -> Path:
        return self._state / f"{name}.sealed"

    def _forget_deployments(self) -> None:
        """Keep those asked for last: a session with an older one may still run when the next is published."""
        files = sorted(self._state.glob("*.sealed"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT_DEPLOYMENTS]:
            self._published.pop(path.stem, None)
            path.unlink()

    def _forget_oldest(self) -> None:
        """What a party never fetched: its session is over."""
        while len(self._dealt) >= self._pieces:
            self._dealt.pop(next(iter(self._dealt)))

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def _batches(shares: list[Share], committed: str) -> Iterator[Bytes]:
    """Messages of about a MiB, each with the dealer's commitment to the seed of all."""
    batch: dict[str, Share] = {}
    fields, size = {"commitment": committed}, 0
    for index, share in enumerate(shares):
        batch[f"material{index}"] = share
        size += sent_bytes(share)
        if size >= BATCH_BYTES:
            yield from with_shares("material", fields, batch).pack()
            batch, size = {}, 0
    if batch:
        yield from with_shares("material", fields, batch).pack()


async def _stream(request: web.Request, parts) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await answer.prepare(request)
    for part in parts:
        await answer.write(part)
    for part in Message(END).pack():
        await answer.write(part)
    await answer.write_eof()
    return answer
