"""Runs in flight: while one lane computes, another prepares the next run, and no piece of material serves twice."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from secformer_jax.cluster.options import Batching
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.node import RefusedError
from secformer_jax.cluster.party.runs import Runs
from secformer_jax.cluster.party.scheduling import Request, Turns
from secformer_jax.cluster.party.sizes import SIZES_OF_ONE
from secformer_jax.cluster.request_shape import RequestShape

SMALL, LARGE = RequestShape(1, 16), RequestShape(1, 32)
ALONE = Batching(0)


class Parties:
    """Carry out every command at once, but what is held: that waits until it is let go."""

    def __init__(self, lanes: int, batching: Batching) -> None:
        self.commands: list[tuple[str, dict]] = []
        self.held: dict[str, asyncio.Event] = {}
        self.refused: set[tuple[str, str]] = set()
        self.gone = ""
        self.failures: list[str] = []
        self.turns = Turns()
        self.next: Callable[[RequestShape], RequestShape] = lambda shape: shape
        self.runs = Runs(
            self.turns,
            self.call,
            lanes,
            batching,
            PartyMetrics(),
            lambda shape: self.next(shape),
            lambda error: self.failures.append(str(error)),
        )

    async def call(self, kind: str, fields: dict) -> list[dict]:
        self.commands.append((kind, fields))
        if (kind, fields.get("request")) in self.refused:
            raise RefusedError("not this one")
        if kind in self.held:
            await self.held[kind].wait()
        if kind == self.gone:
            raise RuntimeError("the dealer is gone")
        return [{"needs_material": True, "refused": [], "audit": False}] * 2

    def hold(self, kind: str) -> asyncio.Event:
        self.held[kind] = asyncio.Event()
        return self.held[kind]

    def ask(self, number: str, shape: RequestShape = SMALL) -> None:
        self.turns.add(Request(number, "client", shape))

    def of(self, kind: str) -> list[dict]:
        return [fields for each, fields in self.commands if each == kind]


def serve(story: Callable[[Parties], Awaitable[None]], lanes: int = 2, batching: Batching = ALONE) -> Parties:
    """Let a story happen to fresh parties."""

    async def begin() -> Parties:
        parties = Parties(lanes, batching)
        serving = asyncio.create_task(parties.runs.serve())
        await story(parties)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return parties

    return asyncio.run(begin())


async def settle() -> None:
    """Until everybody waits for something that only the story gives."""
    for _ in range(50):
        await asyncio.sleep(0)


def pieces_are_used_once(parties: Parties) -> bool:
    """Every run comes after a preparation of its size on its lane that no run before it has used; a lane has one."""
    ready: set[tuple[int, int]] = set()
    for kind, fields in parties.commands:
        if kind == "prepare":
            if any(lane == fields["lane"] for lane, _ in ready):
                return False
            ready.add((fields["lane"], fields["length"]))
        if kind == "drop":
            ready.remove((fields["lane"], fields["length"]))
        if kind == "run":
            if (fields["lane"], fields["length"]) not in ready:
                return False
            ready.remove((fields["lane"], fields["length"]))
    pieces = [fields["piece"] for fields in parties.of("prepare")]
    return len(set(pieces)) == len(pieces)


def test_the_next_run_is_prepared_while_one_computes():
    async def story(parties: Parties) -> None:
        go = parties.hold("run")
        parties.ask("a")
        await settle()
        assert [fields["lane"] for fields in parties.of("prepare")] == [0, 1]
        assert not parties.of("release")
        go.set()
        await settle()
        # Both lanes are prepared again, and the second request begins at once.
        assert len(parties.of("prepare")) == 3
        prepare = parties.hold("prepare")
        parties.ask("b")
        await settle()
        assert [fields["requests"] for fields in parties.of("release")] == [["a"], ["b"]]
        prepare.set()

    assert pieces_are_used_once(serve(story))


@pytest.mark.parametrize(("lanes", "in_flight"), [(1, 1), (2, 2), (3, 3)])
def test_so_many_runs_are_in_flight(lanes, in_flight):
    async def story(parties: Parties) -> None:
        go = parties.hold("run")
        for number in "abcd":
            parties.ask(number)
        await settle()
        assert len(parties.of("run")) == in_flight
        go.set()
        await settle()

    parties = serve(story, lanes)
    assert sorted(fields["requests"][0] for fields in parties.of("release")) == ["a", "b", "c", "d"]
    assert pieces_are_used_once(parties)


def test_each_size_has_material_of_its_own():
    async def story(parties: Parties) -> None:
        for number, shape in enumerate((SMALL, SMALL, LARGE, SMALL, LARGE, LARGE)):
            parties.ask(str(number), shape)
            if number % 2:
                await settle()
        await settle()

    parties = serve(story)
    assert len(parties.of("release")) == 6
    assert pieces_are_used_once(parties)


def test_a_lane_that_waits_for_the_dealer_is_not_chosen_before_one_that_is_ready():
    async def story(parties: Parties) -> None:
        parties.ask("a")
        await settle()
        prepare = parties.hold("prepare")
        for number in "bc":
            parties.ask(number)
            await settle()
        # Each lane had one piece; none is left, and the dealer takes its time.
        assert len(parties.of("release")) == 3
        parties.ask("d")
        await settle()
        assert len(parties.of("release")) == 3
        prepare.set()
        await settle()
        assert len(parties.of("release")) == 4

    assert pieces_are_used_once(serve(story))


def test_one_that_is_refused_fails_alone():
    async def story(parties: Parties) -> None:
        parties.refused.add(("claim", "b"))
        for number in "abc":
            parties.ask(number)
        await asyncio.sleep(0.05)

    parties = serve(story, batching=Batching(0.01))
    assert [fields["request"] for fields in parties.of("fail")] == ["b"]
    assert [fields["requests"] for fields in parties.of("release")] == [["a"], ["c"]]
    assert not parties.failures


def test_a_dealer_that_is_gone_ends_the_session():
    async def story(parties: Parties) -> None:
        parties.gone = "prepare"
        parties.ask("a")
        await settle()

    assert set(serve(story).failures) == {"the dealer is gone"}


def test_the_oldest_sizes_of_a_client_are_forgotten():
    """One that another client still uses stays."""

    async def story(parties: Parties) -> None:
        parties.turns.add(Request("other", "bob", RequestShape(1, 17)))
        await settle()
        for number in range(SIZES_OF_ONE + 3):
            parties.ask(str(number), RequestShape(1, 16 + number))
            await settle()

    parties = serve(story)
    assert len(parties.of("release")) == SIZES_OF_ONE + 4
    forgotten = [(fields["lane"], fields["length"]) for fields in parties.of("forget")]
    assert sorted(set(forgotten)) == [(0, 16), (0, 18), (1, 16), (1, 18)] and len(forgotten) == 4
    assert pieces_are_used_once(parties)


def test_a_run_of_several_waits_for_no_compiler():
    """The first five are computed one by one, while a size for four is compiled beside them."""

    async def story(parties: Parties) -> None:
        compiler = parties.hold("rehearse")
        for number in "abcde":
            parties.turns.add(Request(number, number, SMALL))
        await asyncio.sleep(0.1)
        compiler.set()
        await asyncio.sleep(0.1)
        for number in "fghi":
            parties.turns.add(Request(number, number, SMALL))
        await asyncio.sleep(0.1)

    parties = serve(story, batching=Batching(0.01))
    assert [len(fields["requests"]) for fields in parties.of("release")] == [1, 1, 1, 1, 1, 4]
    assert {fields["lane"] for fields in parties.of("compile") if fields["rows"] == 4} == {0, 1}


def test_a_lane_prepares_for_its_own_conversation():
    ours, theirs = (RequestShape(1, 1, name * 32, 5, 1) for name in "cd")

    async def story(parties: Parties) -> None:
        parties.next = lambda shape: RequestShape(1, 1, shape.conversation, shape.start + 1, 1)
        computing = parties.hold("run")
        for number, shape in (("1", ours), ("2", theirs)):
            parties.ask(number, shape)
            await settle()
        computing.set()
        await settle()

    parties = serve(story)
    prepared = [(fields["conversation"], fields["start"]) for fields in parties.of("prepare")]
    assert sorted(prepared) == [(name * 32, start) for name in "cd" for start in (5, 6)]
    assert len({(fields["lane"], fields["conversation"]) for fields in parties.of("prepare")}) == 2


def test_nothing_is_prepared_or_computed_for_a_conversation_that_is_over():
    first, later = RequestShape(1, 16, "c" * 32, 0, 9), RequestShape(1, 1, "c" * 32, 16, 1)

    async def story(parties: Parties) -> None:
        parties.ask("1", first)
        await settle()
        await parties.runs.end("c" * 32)
        parties.ask("2", later)
        await settle()

    parties = serve(story)
    assert [fields["requests"] for fields in parties.of("run")] == [["1"]] and not parties.failures
    assert [fields["request"] for fields in parties.of("fail")] == ["2"]
    assert [fields["conversation"] for fields in parties.of("end")] == ["c" * 32]
