"""Requests of several clients in one run: chosen in turn, joined, answered each with its own rows."""

import asyncio
import itertools
import json
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from cluster_processes import TOLERANCE, Tiny, ask, until_ready

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.options import Batching
from secformer_jax.cluster.party.joining import joined, parted
from secformer_jax.cluster.party.scheduling import Request, Turns
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire import frames
from secformer_jax.cluster.wire.message import shares_of, with_shares
from secformer_jax.errors import UserError
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.runtime.shares import Share, pack, share

SHAPE, OTHER = RequestShape(1, 16), RequestShape(1, 32)


def turns(*requests: tuple[str, str, RequestShape]) -> Turns:
    made = Turns()
    for number, client, shape in requests:
        made.add(Request(number, client, shape, since=time.monotonic() - 1))
    return made


def taken(waiting: Turns, batching: Batching) -> list[str]:
    return [request.id for request in asyncio.run(waiting.together(batching))]


def test_a_run_has_requests_of_one_size_from_every_client_in_turn():
    waiting = turns(("a1", "a", SHAPE), ("a2", "a", SHAPE), ("b1", "b", OTHER), ("c1", "c", SHAPE), ("a3", "a", SHAPE))
    assert taken(waiting, Batching(0.001, 3 * 16)) == ["a1", "c1", "a2"]
    assert taken(waiting, Batching(0.001, 512)) == ["b1"]
    assert taken(waiting, Batching(0.001, 512)) == ["a3"]


def test_what_is_put_back_is_next():
    waiting = turns(("a1", "a", SHAPE), ("b1", "b", SHAPE), ("c1", "c", OTHER), ("a2", "a", SHAPE), ("a3", "a", SHAPE))
    first = waiting.like(Request("", "", SHAPE), 3)
    assert [request.id for request in first] == ["a1", "b1", "a2"]
    waiting.put_back(first[1:])
    assert [taken(waiting, Batching(0)) for _ in range(4)] == [["b1"], ["a2"], ["c1"], ["a3"]]


def test_without_a_waiting_time_each_has_a_run_of_its_own():
    waiting = turns(("a1", "a", SHAPE), ("b1", "b", SHAPE))
    assert taken(waiting, Batching(0)) == ["a1"]


def test_the_first_waits_for_others_so_long_and_no_longer():
    async def run() -> list[str]:
        waiting = Turns()
        waiting.add(Request("a1", "a", SHAPE))
        asyncio.get_running_loop().call_later(0.05, waiting.add, Request("b1", "b", SHAPE))
        asyncio.get_running_loop().call_later(0.6, waiting.add, Request("c1", "c", SHAPE))
        return [request.id for request in await waiting.together(Batching(0.3))]

    assert asyncio.run(run()) == ["a1", "b1"]


def test_while_a_run_is_under_way_a_run_that_could_take_more_waits():
    """And after it for those who were in it."""

    async def run(most: int) -> list[str]:
        waiting = Turns()
        waiting.run_begins()
        waiting.add(Request("a1", "a", SHAPE, since=time.monotonic() - 1))
        collecting = asyncio.create_task(waiting.together(Batching(0.1, most * 16)))
        await asyncio.sleep(0.15)
        assert not collecting.done()
        waiting.add(Request("b1", "b", SHAPE))
        waiting.add(Request("c1", "c", OTHER))
        await asyncio.sleep(0.15)
        # With two it is full.
        assert collecting.done() == (most == 2)
        waiting.runs_ended(0.5)
        await asyncio.sleep(0.03)
        waiting.add(Request("d1", "d", SHAPE))
        await asyncio.sleep(0.15)
        assert collecting.done()
        return [request.id for request in await collecting]

    assert [asyncio.run(run(most)) for most in (2, 32)] == [["a1", "b1"], ["a1", "b1", "d1"]]


def test_a_run_that_a_session_took_with_it_holds_up_nobody():
    waiting = turns(("a1", "a", SHAPE))
    waiting.run_begins()
    assert [request.id for request in waiting.clear()] == ["a1"]
    waiting.add(Request("a2", "a", SHAPE, since=time.monotonic() - 1))
    assert taken(waiting, Batching(0.001)) == ["a2"]


@pytest.mark.parametrize(
    ("rows", "length", "most"), [(1, 16, 32), (1, 128, 4), (2, 128, 2), (1, 512, 1), (8, 128, 1), (32, 16, 1)]
)
def test_how_many_share_a_run(rows, length, most):
    assert Batching().most(rows, length) == most


@pytest.mark.parametrize(("protocol", "parties"), [("SEMI2K", 2), ("ABY3", 3)])
def test_shares_are_joined_and_parted_row_by_row(protocol, parties):
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-9, 9, (1, 4, 5)) for _ in range(4)]
    made = [share(x, "int64", protocol, parties) for x in inputs]
    for rank in range(parties):
        messages = [with_shares("infer", {"rows": 1}, {"input0": shares[rank]}) for shares in made]
        for rows in (4, 8):
            together = shares_of(joined(messages, {"rows": rows}))["input0"]
            assert together.shape == (rows, 4, 5)
            own = np.concatenate([s[rank].stacked() for s in made], axis=1)
            np.testing.assert_array_equal(together.stacked()[:, :4], own)
            assert not together.stacked()[:, 4:].any()
        result = Share("float32", (4, 3), (pack(np.arange(12).reshape(4, 3), 35),), 35)
        answer = with_shares("result", {"send_bytes": 100.0, "seconds": 1.0}, {"output0": result})
        parts = parted(answer, 4)
        assert [part.fields["send_bytes"] for part in parts] == [25.0] * 4
        shares = [shares_of(part)["output0"] for part in parts]
        # Five bytes a number, as the worker gave them.
        assert [(own.bits, own.components[0].nbytes) for own in shares] == [(35, 15)] * 4
        rows = [own.rings()[0] for own in shares]
        np.testing.assert_array_equal(rows, np.arange(12).reshape(4, 1, 3))


def test_clients_in_one_run_get_their_own_answers(tmp_path):
    """Those who come together share a run, once its size is compiled; a client whose input is none fails alone."""
    clients, tiny = [f"client{i}" for i in range(5)], Tiny("drop-in")
    everyone, options = [*clients, "mallory"], {"batch_wait_ms": 1000}
    with LocalCluster(tmp_path, "2pc_semi2k_dealer", clients=everyone, options=options) as local:
        tiny.publish(local)
        until_ready(local)
        for attempt in range(8):
            _ask_together(local, tiny, {client: tiny.text(10 * attempt + i) for i, client in enumerate(clients)})
            runs = [json.loads(line) for line in local.log("S0").read_text().splitlines()]
            counts = [line["count"] for line in runs if line["event"] == "answered"]
            assert len(counts) == (attempt + 1) * len(clients) and max(counts) <= len(everyone)
            if max(counts) > 1:
                return
        pytest.fail("no run was shared")


def _ask_together(local: LocalCluster, tiny: Tiny, texts: dict[str, Encoded]) -> None:
    answers, refused = {}, []

    def one(client: str) -> None:
        answers[client] = ask(local, client, texts[client])[0]

    def bad() -> None:
        with pytest.raises(UserError, match="what was sent is no text") as error:
            asyncio.run(_send_bad(local, next(iter(texts.values()))))
        refused.append(error)

    threads = [threading.Thread(target=one, args=(client,)) for client in texts]
    threads.append(threading.Thread(target=bad))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    for client, text in texts.items():
        assert tiny.error(text, answers[client]) < TOLERANCE
    mixed = [tiny.error(texts[one], answers[other]) for one, other in itertools.pairwise(texts)]
    assert min(mixed) > TOLERANCE


async def _send_bad(local: LocalCluster, text: Encoded) -> None:
    async with ClusterClient(local.cluster, "mallory") as asking:
        served = await asking.deployment()
        arrays = served.inputs.arrays(text)
        wrong = SimpleNamespace(arrays=lambda encoded: (arrays[0], 2 * arrays[1]), specs=served.inputs.specs)
        asking._served = SimpleNamespace(**{**vars(served), "name": served.name}, unit=served.unit, inputs=wrong)
        await asking.infer(text)


def test_a_joined_message_of_many_bytes_passes_a_socket_whole():
    """More than a socket takes at once: what is left of a buffer then is counted in bytes."""
    ring = np.random.default_rng(0).integers(-(2**62), 2**62, (8, 16, 2048))
    sent = with_shares("request", {}, {"input0": Share("int64", ring.shape, (ring,))})

    async def run() -> np.ndarray:
        ours, theirs = socket.socketpair()
        (_, writer), (reader, _) = [await asyncio.open_connection(sock=each) for each in (ours, theirs)]
        writing = asyncio.create_task(frames.write(writer, sent.pack()))
        received = await asyncio.wait_for(frames.read(reader), 20)
        await writing
        return shares_of(received)["input0"].rings()[0]

    np.testing.assert_array_equal(asyncio.run(run()), ring)
