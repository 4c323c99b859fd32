"""Conversations on a server, and their masks at the dealer: how many, whose, and for how long."""

import asyncio

import numpy as np
import pytest

from secformer_jax.cluster.dealer.conversations import KEPT, Conversations
from secformer_jax.cluster.party.arrival import BusyError
from secformer_jax.cluster.party.rooms import CLIENT_CONVERSATIONS, CONVERSATIONS, Rooms, own_name
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.errors import UserError
from secformer_jax.mpc.material import MaterialReusedError, WeightMasks
from secformer_jax.mpc.runtime.shares import join


def name(number: int) -> str:
    return f"{number:032x}"


def test_a_conversation_goes_on_where_it_was():
    rooms, first = Rooms(), RequestShape(1, 16, name(0), 0, 9)
    rooms.enter("alice", first)
    with pytest.raises(UserError, match="a pass of this conversation is under way"):
        rooms.enter("alice", first)
    rooms.use(first)
    rooms.leave(name(0))
    with pytest.raises(UserError, match="has 16 tokens here, and not 0"):
        rooms.enter("alice", first)
    rooms.enter("alice", RequestShape(1, 1, name(0), 16, 1))
    # One that was never computed has used nothing.
    rooms.leave(name(0))
    rooms.enter("alice", RequestShape(1, 1, name(0), 16, 1))
    rooms.enter("alice", RequestShape(1, 1, name(2), 0, 1))
    rooms.leave(name(2))
    assert name(2) not in rooms and name(0) in rooms
    with pytest.raises(UserError, match="not here any more"):
        rooms.enter("alice", RequestShape(1, 1, name(1), 16, 1))


def test_conversations_are_limited():
    """Of a client, and of all."""
    rooms = Rooms()
    for number in range(CONVERSATIONS):
        rooms.enter(f"client {number // CLIENT_CONVERSATIONS}", RequestShape(1, 1, name(number), 0, 1))
    with pytest.raises(BusyError, match="0 conversations of late and 16 in all"):
        rooms.enter("late", RequestShape(1, 1, name(99), 0, 1))
    rooms.end(name(0))
    rooms.end(name(15))
    rooms.enter("client 0", RequestShape(1, 1, name(100), 0, 1))
    with pytest.raises(BusyError, match="6 conversations of client 0"):
        rooms.enter("client 0", RequestShape(1, 1, name(101), 0, 1))
    assert len(rooms) == CONVERSATIONS - 1


def test_idle_conversations_are_over():
    """And those that their clients have ended; none while a pass is under way."""
    rooms = Rooms()
    for number in range(3):
        rooms.enter("alice", RequestShape(1, 1, name(number), 0, 1))
        rooms.use(RequestShape(1, 1, name(number), 0, 1))
    rooms.leave(name(0))
    rooms.leave(name(1))
    assert [rooms.end_soon(name(number)) for number in (1, 1, 2, 3)] == [True, False, True, False]
    assert rooms.over() == [name(1)] and rooms.over(seconds=0) == [name(0), name(1)]
    rooms.leave(name(2))
    assert rooms.over() == [name(0), name(1), name(2)]
    # What is over goes on no more, and neither does what was idle when it was looked at.
    for number in range(2):
        with pytest.raises(UserError, match="is over"):
            rooms.enter("alice", RequestShape(1, 1, name(number), 1, 1))
    rooms.end(name(0))
    with pytest.raises(UserError, match="is over"):
        rooms.enter("alice", RequestShape(1, 1, name(0), 0, 1))


def test_idle_conversations_of_few_clients_keep_no_others_out():
    """Where all places are taken, a client keeps the conversation that it has used last."""
    rooms = Rooms()
    for number in range(CONVERSATIONS):
        shape = RequestShape(1, 1, name(number), 0, 1)
        rooms.enter(f"client {min(number // 5, 3)}", shape)
        rooms.use(shape)
        rooms.leave(name(number))
    assert rooms.over(crowded=60.0) == []
    busy = RequestShape(1, 1, name(3), 1, 1)
    rooms.enter("client 0", busy)
    # What its client has ended makes room, too.
    rooms.end_soon(name(15))
    assert rooms.over(crowded=0.0) == [name(15)]
    rooms.end(name(15))
    # And nothing that is still computed.
    rooms.enter("client 3", RequestShape(1, 1, name(16), 0, 1))
    rooms.end_soon(name(16))
    # Client 0 has the one under way, clients 1 and 2 their last one.
    assert rooms.over(crowded=0.0) == [name(number) for number in range(15) if number not in (3, 9, 14)]


def test_names_are_of_one_client_and_one_session():
    names = {own_name(session, client, name(0)) for session in ("1", "2") for client in ("alice", "bob")}
    assert len(names) == 4 and all(len(each) == 32 and each.isalnum() for each in names)


def test_masks_of_conversations_are_their_own():
    """Of every place, and of every conversation."""

    async def run() -> None:
        kept, shapes = Conversations(), {"layer_0_attention/keys": (2, 3), "layer_0_attention/values": (2, 3)}
        entered = asyncio.get_running_loop().create_future()
        entered.set_result(True)
        for number in range(2):
            kept.begin(name(number), shapes, 2, entered)
        given = [await kept[name(number)].shares(rank, "SEMI2K") for number in range(2) for rank in range(2)]
        seeds = {share.rings()[0].tobytes() for each in given for share in each.values()}
        assert len(seeds) == len(given) * len(shapes)

    asyncio.run(run())


def test_masks_of_a_conversation_are_given_out_once():
    """To each party its shares, when the name is in the ledger; never under a name that was there."""

    async def run() -> None:
        kept, shapes, ledger = Conversations(), {"layer_0_attention/keys": (2, 3)}, asyncio.get_running_loop()
        entered = ledger.create_future()
        kept.begin(name(0), shapes, 2, entered)
        asking = [asyncio.create_task(kept[name(0)].shares(rank, "SEMI2K")) for rank in range(2)]
        await asyncio.sleep(0.01)
        assert not any(each.done() for each in asking)
        entered.set_result(True)
        shares = [each["layer_0_attention/keys"] for each in await asyncio.gather(*asking)]
        masks = kept[name(0)].beside(WeightMasks.fresh({"kernel": (4,)}, 2))
        np.testing.assert_array_equal(
            join([share.rings()[0] for share in shares]), masks.array("layer_0_attention/keys")
        )
        assert masks.array("kernel").shape == (4,)
        with pytest.raises(MaterialReusedError, match="have been given out"):
            await kept[name(0)].shares(0, "SEMI2K")
        again = ledger.create_future()
        again.set_result(False)
        kept.begin(name(1), shapes, 2, again)
        with pytest.raises(MaterialReusedError, match="has been before"):
            await kept[name(1)].shares(0, "SEMI2K")
        for number in range(2, KEPT + 3):
            kept.begin(name(number), shapes, 2, entered)
        assert name(0) not in kept and name(KEPT + 2) in kept

    asyncio.run(run())
