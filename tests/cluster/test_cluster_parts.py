"""The parts of a cluster, without processes: shares, messages, sealed files, the ledger, turns, identity, the gate."""

import asyncio
import contextlib
import dataclasses
import queue
import socket
import threading

import numpy as np
import pytest
from memory_link import at_every_end
from spu import libspu
from uniformity import accepted, uniform

from secformer_jax.cluster import certs, config, store
from secformer_jax.cluster.dealer.ledger import Ledger
from secformer_jax.cluster.party import identity
from secformer_jax.cluster.party.allowance import Allowance
from secformer_jax.cluster.party.scheduling import Request, Turns
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire.message import PREFIX, Message, MessageError, shares_of, unpack, with_shares
from secformer_jax.cluster.wire.tls import PeerError
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime import link, shares
from secformer_jax.mpc.runtime.party import Party

PROTOCOLS = ("2pc_semi2k", "3pc_aby3", "2pc_cheetah")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_parties_hold_what_was_shared(name):
    """Through SPU's runtime: shares go in, components come out; a masked value is opened to the right difference."""
    chosen = mpc_config.load(name)
    parties = chosen.world_size
    numbers, masks = np.array([[1.5, -2.25]], np.float32), np.random.default_rng(0).integers(-(2**62), 2**62, (2, 3))
    integers = np.arange(6).reshape(2, 3) - 3
    given = {
        "x": shares.share(shares.encode(numbers, 18), "float32", chosen.protocol, parties),
        "i": shares.share(integers, "int64", chosen.protocol, parties),
        "b": shares.share(masks, "int64", chosen.protocol, parties),
    }

    def run(link: libspu.link.Context) -> tuple:
        party = Party(chosen, link)
        for variable, pieces in given.items():
            party.put(variable, pieces[link.rank])
        party.open_difference("i", "b", "opened")
        return party.get("x"), party.get("i"), party.get("opened")

    found = at_every_end(parties, run)
    joined = [shares.join([party[which][1] for party in found]) for which in range(3)]
    np.testing.assert_array_equal(shares.decode(joined[0], found[0][0][0], 18), numbers)
    np.testing.assert_array_equal(joined[1], integers)
    np.testing.assert_array_equal(joined[2], integers - masks)


@pytest.mark.parametrize("protocol, parties", [("SEMI2K", 2), ("ABY3", 3)])
def test_one_party_learns_nothing_from_its_share(protocol, parties):
    """Each party's components are uniform for a constant secret, and miss at least one that the sum needs."""
    secret = np.full(100_000, 42)
    pieces = shares.share(secret, "int64", protocol, parties)
    for rank, piece in enumerate(pieces):
        assert len(set(shares.HELD[protocol](rank))) < parties
        for ring in piece.rings():
            assert ring.shape == secret.shape
    for number in range(len(pieces[0].components)):
        assert accepted(lambda number=number: uniform(_share(secret, protocol, parties, number), 64))
    again = shares.share(secret, "int64", protocol, parties)
    assert not np.array_equal(again[0].rings()[0], pieces[0].rings()[0])


def _share(secret, protocol: str, parties: int, number: int) -> np.ndarray:
    """A component of the last party, which has the one that is not drawn but left over."""
    return shares.share(secret, "int64", protocol, parties)[-1].rings()[number]


def test_values_that_the_ring_has_no_room_for_are_refused():
    for value in (np.nan, np.inf, 2.0**44):
        with pytest.raises(ValueError, match="finite and below"):
            shares.encode(np.array([value]), 18)


def test_messages_carry_shares():
    pieces = shares.share(np.arange(4).reshape(2, 2), "int64", "SEMI2K", 2)
    for piece in pieces:
        message = unpack(b"".join(with_shares("weights", {"a": 1}, {"w": piece}).pack()))
        assert message.kind == "weights" and message.number("a") == 1
        got = shares_of(message)["w"]
        np.testing.assert_array_equal(got.rings()[0], piece.rings()[0])
        assert got.dtype == piece.dtype


def _bytes(**changed) -> bytes:
    entry = {"name": "w", "dtype": "int64", "shape": [2], "components": ["ring"]} | changed
    return b"".join(Message("x", {"shares": [entry]}, [bytes(16)]).pack())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        _bytes()[:-1],
        _bytes() + b"x",
        PREFIX.pack(b"SFJX", 2, 2, 0) + b"{}",
        PREFIX.pack(b"SFJX", 1, 2, 0) + b"{}",
        PREFIX.pack(b"SFJX", 1, 1 << 30, 0),
        _bytes(shape=[3]),
        _bytes(shape=[-2]),
        _bytes(shape=["2"]),
        _bytes(dtype="object"),
        _bytes(components=["seed"]),
        _bytes(components=["ring", "ring"]),
        _bytes(name=1),
        b"\x80\x04\x95pickle",
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(MessageError):
        shares_of(unpack(data))


def test_sealed_records_come_back(tmp_path):
    path, key = _sealed(tmp_path, "one", [Message("weights", {"n": 1}, [b"abc"]), Message("weights", {"n": 2}, [])])
    found = [(m.fields["n"], [bytes(c) for c in m.chunks]) for m in store.read(path, key, "one")]
    assert found == [(1, [b"abc"]), (2, [])]
    assert b"abc" not in path.read_bytes() and b"weights" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600 == (tmp_path / "key").stat().st_mode & 0o777


def _sealed(folder, deployment, messages):
    key = store.sealing_key(folder / "key")
    writer = store.SealedWriter(folder / "weights", key, deployment)
    for message in messages:
        writer.add(message)
    assert not (folder / "weights").exists()
    writer.finish()
    return folder / "weights", key


def test_sealed_records_that_were_changed_are_refused(tmp_path):
    path, key = _sealed(tmp_path, "one", [Message("a", {}, [bytes(100)]), Message("a", {}, [bytes(100)])])
    whole = path.read_bytes()
    record = (len(whole) - 2) // 2
    changed = {
        "a bit": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
        "cut off": whole[:-10],
        "without the end": whole[: 8 + 12 + int.from_bytes(whole[:8], "little")],
        "empty": b"",
    }
    assert record
    for name, data in changed.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged or sealed under another key"):
            assert list(store.read(path, key, "one")), name
    path.write_bytes(whole)
    for other_key, deployment in ((bytes(32), "one"), (key, "two")):
        with pytest.raises(UserError, match="damaged or sealed under another key"):
            list(store.read(path, other_key, deployment))
    assert len(list(store.read(path, key, "one"))) == 2


def test_a_ledger_remembers_across_restarts(tmp_path):
    ledger = Ledger(tmp_path / "pieces")
    assert ledger.add("a") and ledger.add("b") and not ledger.add("a")
    # A crash: not closed, and a line cut off.
    with (tmp_path / "pieces").open("ab") as file:
        file.write(b"c")
    again = Ledger(tmp_path / "pieces")
    assert not again.add("a") and not again.add("b") and not again.add("c") and again.add("d")
    assert not Ledger(tmp_path / "pieces").add("d")


def test_answers_are_counted_across_restarts(tmp_path):
    path, limits = tmp_path / "answers.json", {"alice": 5}
    allowance = Allowance(path, limits)
    allowance.take("alice", 4)
    allowance.take("bob", 1000)
    with pytest.raises(UserError, match="alice has 1 of 5 answers left, and this asks for 2"):
        allowance.take("alice", 2)
    again = Allowance(path, limits)
    again.take("alice", 1)
    with pytest.raises(UserError, match="0 of 5"):
        again.take("alice", 1)
    path.write_text("[]")
    with pytest.raises(UserError, match="counts of answers"):
        Allowance(path, limits)


def test_clients_take_turns():
    async def go() -> list[str]:
        turns = Turns()
        for number in range(5):
            turns.add(Request(f"a{number}", "alice", RequestShape(1, 16)))
        order = [(await turns.next()).id]
        turns.add(Request("b0", "bob", RequestShape(1, 16)))
        turns.add(Request("b1", "bob", RequestShape(1, 16)))
        turns.add(Request("c0", "carol", RequestShape(1, 16)))
        turns.remove("a2")
        order += [(await turns.next()).id for _ in range(6)]
        assert not len(turns)
        return order

    assert asyncio.run(go()) == ["a0", "a1", "b0", "c0", "a3", "b1", "a4"]


class MemoryLink:
    """What the identity check needs of a link, between threads."""

    def __init__(self, rank: int, boxes: dict) -> None:
        self.rank, self._boxes = rank, boxes

    def all_gather(self, data: str) -> list[str]:
        for other in range(2):
            self._boxes[self.rank, other].put(data.encode())
        return [self._boxes[other, self.rank].get(timeout=10).decode() for other in range(2)]

    def send(self, dst_rank: int, data: str) -> None:
        self._boxes[self.rank, dst_rank].put(data.encode())

    def recv(self, src_rank: int) -> bytes:
        return self._boxes[src_rank, self.rank].get(timeout=10)


def _identities(folder, names=("S0", "S1"), sessions=("s", "s"), second=None, shown=("b", "b")) -> list[str]:
    cluster = _certified(folder)
    boxes: dict = {(a, b): queue.Queue() for a in range(2) for b in range(2)}
    told = ["", ""]

    def run(rank: int) -> None:
        signer = identity.Signer(cluster.tls(names[rank]) if second is None or rank == 0 else second)
        try:
            identity.check(MemoryLink(rank, boxes), {"S0": "a", "S1": shown[rank]}, sessions[rank], signer)
        except PeerError as error:
            told[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def _certified(folder) -> config.Cluster:
    cluster = config.load("2pc_semi2k_dealer", tls=folder)
    certs.write(cluster, folder)
    return cluster


def test_parties_prove_their_names(tmp_path):
    assert _identities(tmp_path) == ["", ""]


def test_another_name_another_session_and_another_ca_are_refused(tmp_path):
    told = _identities(tmp_path, names=("S0", "client"))
    assert "certificate is that of client, and S1 is expected" in told[0]
    assert "signed by another CA, or not by S0" in _identities(tmp_path, sessions=("s", "t"))[1]
    other = tmp_path / "other"
    files = _certified(other).tls("S1")
    told = _identities(tmp_path, second=dataclasses.replace(files, ca=tmp_path / "ca.pem"))
    assert "no valid proof that this is S1" in told[0]


def test_a_proof_that_is_passed_on_is_refused(tmp_path):
    """Somebody between the two has shown S0 a certificate of its own as S1's, and relays their proofs."""
    assert all("no valid proof" in told for told in _identities(tmp_path, shown=("relay's", "b")))


def test_the_gate_passes_tls_alone(tmp_path):
    inside = socket.socket(socket.AF_UNIX)
    inside.bind(str(tmp_path / "s"))
    inside.listen()
    gate = link.Gate("127.0.0.1:0", tmp_path / "s", link.sources(["127.0.0.1:1"]))
    address = gate.address
    with socket.create_connection(address) as plain:
        plain.settimeout(10)
        plain.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(100) == b""
    hello = bytes([22, 3, 1, 0, 100, 1]) + b"rest"
    with socket.create_connection(address) as tls:
        tls.sendall(hello)
        passed, _ = inside.accept()
        assert passed.recv(100) == hello
        passed.sendall(b"answer")
        assert tls.recv(100) == b"answer"
        tls.close()
        assert passed.recv(100) == b""
    gate.close()


def test_a_stranger_does_not_pass_the_gate(tmp_path):
    gate = link.Gate(
        "127.0.0.1:0", tmp_path / "s", link.sources(["192.0.2.7:1", "[2001:db8::7]:1"], ["198.51.100.0/24"])
    )
    with socket.create_connection(gate.address, timeout=5) as stranger, contextlib.suppress(ConnectionResetError):
        assert stranger.recv(1) == b""
    gate.close()


def test_half_open_handshakes_do_not_keep_a_peer_out(tmp_path):
    """The oldest of too many goes; one that is through stays."""
    inside = socket.socket(socket.AF_UNIX)
    inside.bind(str(tmp_path / "s"))
    inside.listen(200)
    gate = link.Gate("127.0.0.1:0", tmp_path / "s")
    hello = bytes([22, 3, 1, 0, 100, 1])

    def connection() -> socket.socket:
        made = socket.create_connection(gate.address, timeout=10)
        made.sendall(hello)
        return made

    peer = connection()
    passed, _ = inside.accept()
    peer.sendall(bytes(10_000))
    received = 0
    while received < 10_000 + len(hello):
        received += len(passed.recv(10_000))
    strangers = [connection() for _ in range(80)]
    assert strangers[0].recv(1) == b""
    peer.sendall(b"still here")
    assert passed.recv(100) == b"still here"
    late = connection()
    for _ in range(81):
        accepted, _ = inside.accept()
        accepted.settimeout(10)
    late.sendall(b"x")
    gate.close()
    for each in (*strangers, late, peer):
        each.close()
