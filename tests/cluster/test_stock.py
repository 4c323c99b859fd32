"""When the parties get which piece of material: one is on its way while they compute, and none serves twice."""

import asyncio

import pytest

from secformer_jax.cluster.deployment import RequestShape
from secformer_jax.cluster.party.stock import Stock

SMALL, LARGE = RequestShape(1, 16), RequestShape(4, 16)


class Parties:
    """Note every command; `fetch` ends when it is let."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, int, str]] = []
        self.let = asyncio.Event()

    async def call(self, kind: str, fields: dict) -> None:
        self.commands.append((kind, fields["rows"], fields["piece"]))
        if kind == "fetch":
            await self.let.wait()

    def kinds(self) -> list[tuple[str, int]]:
        return [(kind, rows) for kind, rows, _ in self.commands]

    def pieces(self, kind: str) -> list[str]:
        return [piece for each, _, piece in self.commands if each == kind]


def test_the_next_piece_comes_over_while_a_run_computes():
    async def serve() -> None:
        parties = Parties()
        stock = Stock(parties.call)
        await stock.take(SMALL)
        # The run begins although the next piece is not there.
        await asyncio.sleep(0)
        assert parties.kinds() == [("prepare", 1), ("fetch", 1)]
        preparing = asyncio.create_task(stock.prepare(SMALL))
        await asyncio.sleep(0)
        assert len(parties.commands) == 2
        parties.let.set()
        await preparing
        assert parties.pieces("prepare")[1:] == parties.pieces("fetch")
        await stock.prepare(SMALL)
        assert len(parties.commands) == 3

    asyncio.run(serve())


def test_each_run_has_a_piece_of_its_own():
    async def serve() -> list[str]:
        parties = Parties()
        parties.let.set()
        stock = Stock(parties.call)
        for shape in (SMALL, SMALL, LARGE, SMALL, LARGE, LARGE):
            await stock.take(shape)
            await asyncio.sleep(0)
        prepared = [rows for kind, rows in parties.kinds() if kind == "prepare"]
        assert prepared == [1, 1, 4, 1, 4, 4]
        return parties.pieces("prepare")

    pieces = asyncio.run(serve())
    assert len(set(pieces)) == len(pieces)


def test_a_piece_that_did_not_come_ends_the_session():
    async def serve() -> None:
        async def call(kind: str, fields: dict) -> None:
            if kind == "fetch":
                raise RuntimeError("the dealer is gone")

        stock = Stock(call)
        await stock.take(SMALL)
        with pytest.raises(RuntimeError, match="the dealer is gone"):
            await stock.take(SMALL)

    asyncio.run(serve())


def test_nothing_is_left_of_a_session_that_is_over():
    async def serve() -> None:
        parties = Parties()
        stock = Stock(parties.call)
        await stock.take(SMALL)
        await asyncio.sleep(0)
        stock.clear()
        await stock.take(SMALL)
        assert parties.kinds().count(("prepare", 1)) == 2
        assert not set(parties.pieces("fetch")[:1]) & set(parties.pieces("prepare"))

    asyncio.run(serve())
