"""A party's commands: what was begun in one session never reaches the next one's worker."""

import asyncio

import pytest

from secformer_jax.cluster.clients.material import ForgottenError
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.party import arrival
from secformer_jax.cluster.party.arrival import Arrived
from secformer_jax.cluster.party.coordinator import Coordinator
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.node import Node, RefusedError
from secformer_jax.cluster.party.process import WorkerError
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire.message import Message

FIELDS = {"rows": 1, "length": 16, "lane": 0, "piece": "1" * 32}
COST = {"seconds": 0.0, "send_bytes": 0, "send_actions": 0}


class Worker:
    def __init__(self):
        self.got = []

    async def send(self, parts):
        self.got.append(parts)

    async def call(self, parts, lane=0):
        self.got.append(parts)
        return Message("done", {**COST, "audit": False, "holds": True})


class Dealer:
    """Gives a piece in two parts, the second when it is let; and a seed likewise."""

    def __init__(self):
        self.let = asyncio.Event()

    async def fetch(self, deployment, shape, piece):
        yield Message("material", {"commitment": "c"}, [])
        await self.let.wait()
        yield Message("material", {"commitment": "c"}, [])

    async def reveal(self, piece):
        await self.let.wait()
        return b"seed"


@pytest.fixture
def node(tmp_path):
    node = Node(LocalCluster(tmp_path).cluster, "S1", tmp_path, PartyMetrics(), None)
    node.deployment = object()
    return node


@pytest.mark.parametrize("command", ["prepare", "audit"])
@pytest.mark.parametrize("goes", [False, True])
def test_a_new_session_gets_nothing_of_an_earlier_one(node, command, goes):
    async def run():
        node._material, first, second = Dealer(), Worker(), Worker()
        node.worker = first
        running = asyncio.create_task(node.commands[command](FIELDS))
        await asyncio.sleep(0.01)
        if goes:
            node.worker = second
        node._material.let.set()
        try:
            await running
        except WorkerError as error:
            assert goes and "the session is over" in str(error)
        else:
            assert not goes and len(first.got) == (3 if command == "prepare" else 1)
        assert not second.got and (0 in node._pieces) == (not goes and command == "prepare")

    asyncio.run(run())


def test_a_conversation_that_the_dealer_has_forgotten_is_over_and_the_session_goes_on(node):
    class Forgetful(Dealer):
        async def masks(self, deployment, conversation):
            return
            yield

        async def fetch(self, deployment, shape, piece):
            raise ForgottenError("begin a new one")
            yield

    async def run():
        node._material, node.worker = Forgetful(), Worker()
        shape = RequestShape(1, 1, "1" * 32, 0, 1)
        node.rooms.enter("alice", shape)
        node.rooms.use(shape)
        with pytest.raises(RefusedError, match="begin a new one"):
            await node.commands["prepare"]({**FIELDS, **shape.fields()})
        node.rooms.leave("1" * 32)
        assert node.rooms.over() == ["1" * 32]

    asyncio.run(run())


def test_a_client_that_hangs_up_at_one_server_leaves_nothing_at_the_others(tmp_path):
    """Its pass waits here, and another server has lost its share."""

    async def run():
        node = Node(LocalCluster(tmp_path).cluster, "S0", tmp_path, PartyMetrics(), None)
        shape = RequestShape(1, 1, "1" * 32, 0, 1)
        node.rooms.enter("alice", shape)
        coordinator = Coordinator(node, tmp_path)
        assert coordinator.waiting == 0
        answer = asyncio.get_running_loop().create_future()
        node.inputs["alice/1"] = Arrived("alice", shape, Message("infer"), answer)
        node.notify("arrived", {"party": "S0", "request": "alice/1", "client": "alice", **shape.fields()})
        node.notify("gone", {"request": "alice/1"})
        with pytest.raises(RefusedError, match="the client is gone"):
            await asyncio.wait_for(answer, 5)
        assert not node.inputs and "1" * 32 not in node.rooms

    asyncio.run(run())


def test_numbers_serve_once(monkeypatch):
    monkeypatch.setattr(arrival, "KEPT_NUMBERS", 2)
    numbers = arrival.Numbers()
    assert [numbers.take(number) for number in "aabcab"] == [True, False, True, True, True, True]


def test_no_session(node):
    with pytest.raises(WorkerError, match="no session"):
        asyncio.run(node.commands["prepare"](FIELDS))
