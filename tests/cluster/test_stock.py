"""When the parties get which piece of material: one is on its way while they compute, and none serves twice."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from secformer_jax.cluster.deployment import RequestShape
from secformer_jax.cluster.party.stock import Stock

SMALL, LARGE = RequestShape(1, 16), RequestShape(4, 16)


class Parties:
    """Note every command; `fetch` ends when it is let, and fails when the dealer is gone."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, int, str]] = []
        self.let, self.gone = asyncio.Event(), False

    async def call(self, kind: str, fields: dict) -> None:
        self.commands.append((kind, fields["rows"], fields["piece"]))
        if kind == "fetch":
            if self.gone:
                raise RuntimeError("the dealer is gone")
            await self.let.wait()

    def kinds(self) -> list[tuple[str, int]]:
        return [(kind, rows) for kind, rows, _ in self.commands]

    def pieces(self, kind: str) -> list[str]:
        return [piece for each, _, piece in self.commands if each == kind]


def serve(story: Callable[[Parties, Stock], Awaitable[None]]) -> Parties:
    """Let a story happen to fresh parties."""

    async def begin() -> Parties:
        parties = Parties()
        await story(parties, Stock(parties.call))
        return parties

    return asyncio.run(begin())


def test_the_next_piece_comes_over_while_a_run_computes():
    async def story(parties: Parties, stock: Stock) -> None:
        await stock.take(SMALL)
        # The run begins although the next piece is not there.
        await asyncio.sleep(0)
        assert parties.kinds() == [("prepare", 1), ("fetch", 1)]
        preparing = asyncio.create_task(stock.prepare(SMALL))
        await asyncio.sleep(0)
        assert len(parties.commands) == 2
        parties.let.set()
        await preparing
        await stock.prepare(SMALL)

    parties = serve(story)
    assert len(parties.commands) == 3
    assert parties.pieces("prepare")[1:] == parties.pieces("fetch")


def test_each_run_has_a_piece_of_its_own():
    async def story(parties: Parties, stock: Stock) -> None:
        parties.let.set()
        for shape in (SMALL, SMALL, LARGE, SMALL, LARGE, LARGE):
            await stock.take(shape)
            await asyncio.sleep(0)

    parties = serve(story)
    assert [rows for kind, rows in parties.kinds() if kind == "prepare"] == [1, 1, 4, 1, 4, 4]
    pieces = parties.pieces("prepare")
    assert len(set(pieces)) == len(pieces)


def test_a_piece_that_did_not_come_ends_the_session():
    async def story(parties: Parties, stock: Stock) -> None:
        parties.gone = True
        await stock.take(SMALL)
        with pytest.raises(RuntimeError, match="the dealer is gone"):
            await stock.take(SMALL)

    serve(story)


def test_nothing_is_left_of_a_session_that_is_over():
    async def story(parties: Parties, stock: Stock) -> None:
        await stock.take(SMALL)
        await asyncio.sleep(0)
        stock.clear()
        await stock.take(SMALL)

    parties = serve(story)
    assert parties.kinds().count(("prepare", 1)) == 2
    assert parties.pieces("fetch")[0] not in parties.pieces("prepare")
