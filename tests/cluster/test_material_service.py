"""The dealer's material over TLS: every piece is new, and none is given twice, whatever is kept ahead."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

import decoders
import numpy as np
import pytest
from cluster_processes import Tiny

from secformer_jax.cluster import certs, config
from secformer_jax.cluster.clients.material import ForgottenError, MaterialClient
from secformer_jax.cluster.config import OWNER, Address
from secformer_jax.cluster.dealer import conversations
from secformer_jax.cluster.dealer.service import MaterialService
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.cluster.loopback import free_ports
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import describe_decoder
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.http import Server, application
from secformer_jax.cluster.wire.message import Message, shares_of
from secformer_jax.errors import UserError
from secformer_jax.models.decoders.calibrate import calibrate
from secformer_jax.models.decoders.chat import read_tokens
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.mpc.audit import commitment
from secformer_jax.mpc.runtime.shares import Share, join

SHAPE = RequestShape(1, 16)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> DecoderDeployment:
    folder = tmp_path_factory.mktemp("model")
    decoders.reference("llama", folder, vocab_size=decoders.TOKENS, num_hidden_layers=1, max_position_embeddings=64)
    model, tokens = load(folder), read_tokens(decoders.write_tokenizer(folder))
    return describe_decoder(model, calibrate(model, tokens.prefix, [list(range(2, 18))]), tokens, 32)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny("fast")


def with_dealer(folder, story: Callable[[dict[str, MaterialClient]], Awaitable[None]], lanes: int = 1) -> None:
    """Let a story happen to the owner and both servers, with a dealer."""
    cluster = dataclasses.replace(config.load("2pc_semi2k_dealer", tls=folder), dealer=_free())
    options = dataclasses.replace(cluster.options, runs_in_flight=lanes)
    cluster = dataclasses.replace(cluster, options=options)
    certs.write(cluster, folder)

    async def run() -> None:
        service = MaterialService(cluster, folder, folder / "seal.key")
        app = application(service.routes(), cluster.roles, operators=())
        server = Server(app, cluster.dealer_address(), tls.server_context(cluster.tls("dealer")))
        await server.start()
        clients = {role: MaterialClient(cluster, role) for role in (OWNER, *cluster.parties)}
        try:
            await story(clients)
        finally:
            for client in clients.values():
                await client.close()
            await server.close()
            service.close()

    asyncio.run(run())


def _free() -> Address:
    return Address("127.0.0.1", free_ports(1)[0])


async def all_of(messages: AsyncIterator[Message]) -> dict[str, Share]:
    found: dict[str, Share] = {}
    async for message in messages:
        found |= shares_of(message)
    return found


def keys(*pieces: dict[str, Share]) -> list[bytes]:
    """The generators' keys: who sees one twice has seen a mask twice."""
    components = [component for piece in pieces for share in piece.values() for component in share.components]
    return [component for component in components if isinstance(component, bytes)]


def whole(parts: list[dict[str, Share]], name: str) -> np.ndarray:
    return join([part[name].rings()[0] for part in parts])


def test_pieces_are_new_and_serve_once(tiny, tmp_path):
    async def story(clients: dict[str, MaterialClient]) -> None:
        described = tiny.description.anew()
        await clients[OWNER].describe(described)
        pieces = []
        for number in ("a" * 32, "b" * 32, "c" * 32):
            asked = [all_of(clients[party].fetch(described, SHAPE, number)) for party in ("S0", "S1")]
            pieces.append(await asyncio.gather(*asked))
        found = keys(*(part for piece in pieces for part in piece))
        assert len(set(found)) == len(found) > 30
        for name in pieces[0][0]:
            values = [whole(piece, name) for piece in pieces]
            if values[0].size > 8:
                assert not np.array_equal(values[0], values[1]) and not np.array_equal(values[1], values[2])
        for party in ("S0", "S1"):
            with pytest.raises(UserError, match="dealt before"):
                await all_of(clients[party].fetch(described, SHAPE, "b" * 32))

    with_dealer(tmp_path, story)


def test_a_party_gets_a_piece_once(tiny, tmp_path):
    async def story(clients: dict[str, MaterialClient]) -> None:
        described = tiny.description.anew()
        await clients[OWNER].describe(described)
        first = await all_of(clients["S0"].fetch(described, SHAPE, "d" * 32))
        with pytest.raises(UserError, match="S0 has this piece"):
            await all_of(clients["S0"].fetch(described, SHAPE, "d" * 32))
        second = await all_of(clients["S1"].fetch(described, SHAPE, "d" * 32))
        assert set(first) == set(second)

    with_dealer(tmp_path, story)


def test_a_server_that_comes_late_finds_a_piece_of_every_run_in_flight(tiny, tmp_path):
    """The other may have fetched one for each of its lanes before."""

    async def story(clients: dict[str, MaterialClient]) -> None:
        described = tiny.description.anew()
        await clients[OWNER].describe(described)
        for party in ("S0", "S1"):
            for number in range(8):
                assert await all_of(clients[party].fetch(described, SHAPE, f"{number}" * 32))

    with_dealer(tmp_path, story, lanes=8)


def test_masks_of_weights_serve_one_publication(tiny, tmp_path):
    async def story(clients: dict[str, MaterialClient]) -> None:
        described = [tiny.description.anew() for _ in range(2)]
        for each in described:
            await clients[OWNER].describe(each)
        with pytest.raises(UserError, match="has been published"):
            await clients[OWNER].describe(described[0])
        masks = [await all_of(clients["S0"].masks(each)) for each in described]
        found = keys(*masks)
        assert len(set(found)) == len(found) == 2 * len(masks[0])

    with_dealer(tmp_path, story)


def test_only_who_may_is_answered(tiny, tmp_path):
    async def story(clients: dict[str, MaterialClient]) -> None:
        described = tiny.description.anew()
        with pytest.raises(UserError, match="certificate is that of S0"):
            await clients["S0"].describe(described)
        await clients[OWNER].describe(described)
        for asked in (
            clients[OWNER].masks(described),
            clients[OWNER].fetch(described, SHAPE, "e" * 32),
            clients["S0"].fetch(described, SHAPE, "short"),
            clients["S0"].fetch(described, RequestShape(3, 16), "e" * 32),
            clients["S0"].masks(described.anew()),
        ):
            with pytest.raises(UserError):
                await all_of(asked)

    with_dealer(tmp_path, story)


def test_a_publication_that_fails_leaves_the_served_one(tiny, tmp_path):
    async def story(clients: dict[str, MaterialClient]) -> None:
        served = tiny.description.anew()
        await clients[OWNER].describe(served)
        for _ in range(5):
            await clients[OWNER].describe(tiny.description.anew())
        assert await all_of(clients["S0"].masks(served))

    with_dealer(tmp_path, story)


def test_a_seed_is_revealed_when_all_have_asked_and_once(tiny, tmp_path):
    async def story(clients: dict[str, MaterialClient]) -> None:
        described, number = tiny.description.anew(), "e" * 32
        await clients[OWNER].describe(described)
        for party in ("S0", "S1"):
            with pytest.raises(UserError, match="not all parties have this piece"):
                await clients[party].reveal(number)
            messages = [message async for message in clients[party].fetch(described, SHAPE, number)]
        alone = asyncio.create_task(clients["S0"].reveal(number))
        await asyncio.sleep(0.5)
        assert not alone.done()
        seeds = await asyncio.gather(alone, clients["S1"].reveal(number))
        assert seeds[0] == seeds[1] and commitment(seeds[0]) == messages[0].fields["commitment"]
        with pytest.raises(UserError, match="too long ago"):
            await clients["S0"].reveal(number)

    with_dealer(tmp_path, story)


def test_the_dealer_forgets_conversations(decoder, tmp_path, monkeypatch):
    """Those that others have begun since; a piece that one party has, the other one gets all the same."""
    monkeypatch.setattr(conversations, "KEPT", 2)
    first, *others = [f"{number:032x}" for number in range(3)]

    async def story(clients: dict[str, MaterialClient]) -> None:
        async def begin(name: str) -> None:
            for party in ("S0", "S1"):
                await all_of(clients[party].masks(decoder, name))

        async def ask(party: str, piece: str, start: int) -> dict[str, Share]:
            return await all_of(clients[party].fetch(decoder, RequestShape(1, 1, first, start, 1), piece))

        await clients[OWNER].describe(decoder)
        await begin(first)
        assert await ask("S0", "a" * 32, 0)
        for name in others:
            await begin(name)
        assert await ask("S1", "a" * 32, 0)
        for party in ("S0", "S1"):
            with pytest.raises(ForgottenError, match="no masks of this conversation any more: begin a new one"):
                await ask(party, "b" * 32, 1)

    with_dealer(tmp_path, story)
