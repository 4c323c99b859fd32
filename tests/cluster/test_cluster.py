"""Servers, dealer, owner and clients as processes on the loopback, with a tiny model."""

import asyncio
import dataclasses
import os
import re
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from cluster_processes import TOLERANCE, Tiny, ask, status, until_logged, until_ready
from tls_cases import CLIENT_CASES

from secformer_jax.cluster import requirements, store
from secformer_jax.cluster.clients import channel, owner
from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.clients.material import MATERIAL_PATH, MaterialClient
from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.message import shares_of
from secformer_jax.errors import UserError
from secformer_jax.models.text import Encoded

pytestmark = pytest.mark.timeout(900)
CLIENTS = ("alice", "bob")


@pytest.fixture(scope="module")
def fast() -> Tiny:
    return Tiny("fast")


@pytest.fixture(scope="module")
def served(fast, tmp_path_factory):
    folder, options = tmp_path_factory.mktemp("cluster"), {"batch_wait_ms": 0, "answers": {"carol": 2}}
    with LocalCluster(folder, "2pc_semi2k_dealer", clients=(*CLIENTS, "carol"), options=options) as local:
        fast.publish(local)
        yield local
        local.stop()
        assert {name: process.returncode for name, process in local.processes.items()} == {
            "dealer": 0,
            "S0": 0,
            "S1": 0,
        }


def test_clients_at_once_get_their_own_answers(fast, served):
    texts = {
        client: [fast.text(seed), fast.text(seed + 10), fast.text(seed + 20, 32)] for seed, client in enumerate(CLIENTS)
    }
    answers: dict[str, list] = {}
    threads = [
        threading.Thread(target=lambda c=client: answers.update({c: ask(served, c, *texts[c])})) for client in CLIENTS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in CLIENTS:
        for text, answer in zip(texts[client], answers[client], strict=True):
            assert fast.error(text, answer) < TOLERANCE


def test_what_a_request_sends_is_a_matter_of_its_size(fast, served):
    """One after the other: SPU counts what all lanes of a server send while it computes for one."""
    first, second, longer = ask(served, "alice", fast.text(1), fast.text(2), fast.text(3, 32))
    assert first.party["send_bytes"] == second.party["send_bytes"] < longer.party["send_bytes"]


def test_later_requests_send_no_weights(fast, served):
    ask(served, "alice", fast.text(30))
    before = status(served)
    sent = [answer.party["send_bytes"] for answer in ask(served, "alice", fast.text(31), fast.text(32))]
    after = status(served)
    assert sent[0] == sent[1]
    for party in served.cluster.parties:
        received = [found[party]["counts"]["secformer_received_bytes_total owner"] for found in (before, after)]
        assert received[0] == received[1] > 0


def test_status_says_what_is_served(fast, served):
    found = status(served)
    (name,) = {each["model"] for each in found.values()}
    assert name == fast.published.deployment != fast.description.name
    assert [found[party]["state"] for party in ("S0", "S1")] == ["ready", "connected"]
    assert all(each["counts"]["secformer_requests_total answered"] > 0 for each in found.values())


def test_a_name_that_has_been_published_is_refused(fast, served, monkeypatch):
    """The dealer's masks of its weights would hide other weights, and the difference of both would be seen."""
    described = dataclasses.replace(fast.description, nonce="0" * 32)
    monkeypatch.setattr(Deployment, "anew", lambda deployment: deployment)
    publication = asyncio.run(owner.publish(served.cluster, fast.model, described))
    assert publication.deployment == described.name
    with pytest.raises(UserError, match="has been published"):
        asyncio.run(owner.publish(served.cluster, fast.model, described))
    monkeypatch.setattr(MaterialClient, "describe", _described_already)
    with pytest.raises(UserError, match=r"S\d.*has been published"):
        asyncio.run(owner.publish(served.cluster, fast.model, described))
    monkeypatch.undo()
    fast.publish(served)
    assert fast.error(fast.text(4), ask(served, "alice", fast.text(4))[0]) < TOLERANCE


async def _described_already(client: MaterialClient, deployment: Deployment) -> None:
    pass


def test_who_has_no_answers_left_is_refused(fast, served):
    assert len(ask(served, "carol", fast.text(1), fast.text(2))) == 2
    with pytest.raises(UserError, match="carol has 0 of 2 answers left"):
        ask(served, "carol", fast.text(3))
    ask(served, "alice", fast.text(3))


def test_a_client_sees_nobody_elses_traffic(served):
    for each in status(served, "bob").values():
        assert set(each) == {"role", "state", "protocol", "model", "description"}

    async def metrics(role: str) -> int:
        context = tls.client_context(served.cluster.tls(role))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            url = f"https://{served.cluster.control['S0']}/metrics"
            async with http.get(url, server_hostname="S0") as answer:
                return answer.status

    assert [asyncio.run(metrics(role)) for role in ("bob", "owner", "S1")] == [403, 200, 200]


def test_a_server_holds_its_own_share_only(served):
    """What S1 holds of a weight is in the memory of S1's process, and nowhere in S0's."""
    name = status(served)["S0"]["model"]
    state = served.folder / "tls" / "S1-state" / f"{name}.sealed"
    key = store.sealing_key(served.folder / "tls" / "S1.seal.key")
    records = [record for record in store.read(state, key, name) if record.kind != "age"]
    shares = [share for record in records for share in shares_of(record).items()]
    ring = next(share.components[0] for path, share in shares if path.startswith("params") and share.shape[0] > 16)
    pattern = ring.tobytes()[:64]
    # Of what SPU's runtime was given; the runtime keeps it, so the pattern is there.
    found = {party: _in_memory(status(served)[party]["worker"], pattern) for party in ("S0", "S1")}
    assert found == {"S0": False, "S1": True}


def test_a_process_with_shares_leaves_no_core_dump(served):
    workers = [status(served)[party]["worker"] for party in ("S0", "S1")]
    for pid in (*workers, *(process.pid for process in served.processes.values())):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
        assert core[4:6] == ["0", "0"]


def _in_memory(pid: int, pattern: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                start, end, rights = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
                if "rw" not in rights:
                    continue
                try:
                    memory.seek(int(start, 16))
                    if pattern in memory.read(int(end, 16) - int(start, 16)):
                        return True
                except (OSError, ValueError, OverflowError):
                    continue
    except PermissionError:
        pytest.skip("this system does not let a process read the memory of its children")
    return False


def _material(local: LocalCluster, party: str, piece: str) -> tuple[int, str]:
    """Ask the dealer for a piece of material, as a party."""
    name = status(local)["S0"]["model"]

    async def go() -> tuple[int, str]:
        connector = aiohttp.TCPConnector(ssl=tls.client_context(local.cluster.tls(party)))
        async with aiohttp.ClientSession(connector=connector) as http:
            asked = {"deployment": name, "piece": piece, "rows": 1, "length": 16}
            url = f"https://{local.cluster.dealer}{MATERIAL_PATH}"
            async with http.post(url, json=asked, server_hostname="dealer") as answer:
                return answer.status, (await answer.read())[:80].decode(errors="replace")

    return asyncio.run(go())


def test_material_is_never_served_twice(fast, served):
    """Not to the other party, not after a restart of the dealer."""
    ask(served, "alice", fast.text(40))
    ledger = served.folder / "tls" / "dealer-state" / "pieces"
    used = ledger.read_text().split()[0]
    assert _material(served, "S0", used)[0] == 409
    assert _material(served, "alice", used)[0] == 403
    half = "a" * 32
    assert _material(served, "S0", half)[0] == 200
    assert _material(served, "S0", half)[0] == 409
    served.kill("dealer")
    served.start("dealer")
    until_ready(served)
    assert _material(served, "S1", half) == (409, "this piece of material has been dealt before: ask for a new one\n")
    text = fast.text(41)
    assert fast.error(text, ask(served, "alice", text)[0]) < TOLERANCE
    pieces = ledger.read_text().split()
    assert len(pieces) == len(set(pieces))


@pytest.mark.parametrize("victim", ["worker of S1", "S0"])
def test_who_dies_is_named_and_the_next_request_is_right(fast, served, victim):
    until_ready(served)
    answered, failures = threading.Event(), []

    async def ask_until_it_fails() -> None:
        # One client: a new one would wait patiently for a server that is not there.
        async with ClusterClient(served.cluster, "alice") as asking:
            while True:
                await asking.infer(fast.text(0))
                answered.set()

    def note_the_failure() -> None:
        try:
            asyncio.run(ask_until_it_fails())
        except UserError as error:
            failures.append((time.monotonic(), str(error)))

    asking = threading.Thread(target=note_the_failure)
    asking.start()
    assert answered.wait(60)
    killed = time.monotonic()
    try:
        if victim == "S0":
            served.kill("S0")
        else:
            os.kill(status(served)["S1"]["worker"], signal.SIGKILL)
        asking.join(60)
        [(when, text)] = failures
        assert when - killed < 30
        assert "\n" not in text and ("S1" if "S1" in victim else "S0") in text
        if victim == "S0":
            # The client may hear of it first, on its own connection.
            until_logged(served, "S1", "S0 is gone", 30)
    finally:
        if victim == "S0":
            served.start("S0")
    until_ready(served)
    text = fast.text(50)
    assert fast.error(text, ask(served, "bob", text)[0]) < TOLERANCE


def test_who_falls_silent_between_requests_is_named(fast, served, monkeypatch):
    """Its connections stay open: nothing tells the client but the time."""
    until_ready(served)
    monkeypatch.setattr(channel, "QUESTION_SECONDS", 2.0)

    async def ask_twice() -> None:
        async with ClusterClient(served.cluster, "alice") as asking:
            await asking.infer(fast.text(0))
            os.kill(served.processes["S1"].pid, signal.SIGSTOP)
            try:
                with pytest.raises(UserError, match=r"^S1 at .* has gone away"):
                    await asyncio.wait_for(asking.infer(fast.text(0)), 15)
            finally:
                os.kill(served.processes["S1"].pid, signal.SIGCONT)

    asyncio.run(ask_twice())
    until_ready(served)
    text = fast.text(51)
    assert fast.error(text, ask(served, "bob", text)[0]) < TOLERANCE


def test_a_client_that_hangs_up_disturbs_nobody(fast, served):
    until_ready(served)
    before = status(served)["S0"]["counts"]["secformer_sessions_total"]

    async def hang_up(seconds: float) -> None:
        async with ClusterClient(served.cluster, "alice") as asking:
            await asking.deployment()
            task = asyncio.create_task(asking.infer(fast.text(60)))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    for seconds in (0.02, 0.2, 0.4):
        asyncio.run(hang_up(seconds))
    text = fast.text(61)
    assert fast.error(text, ask(served, "bob", text)[0]) < TOLERANCE
    assert status(served)["S0"]["counts"]["secformer_sessions_total"] == before


@pytest.mark.parametrize("case", CLIENT_CASES)
@pytest.mark.parametrize("link", ["control of S1", "link of S1", "dealer"])
def test_strangers_are_refused(served, tmp_path, link, case):
    cluster = served.cluster
    of = {"control of S1": cluster.control["S1"], "link of S1": cluster.links["S1"], "dealer": cluster.dealer}
    until_ready(served)
    context = CLIENT_CASES[case](cluster, "S0", tmp_path)
    address = of[link]
    meeting = socket.create_connection((address.host, address.port), 10)
    with pytest.raises((OSError, ssl.SSLError, EOFError)), meeting as plain:
        connection = plain
        if context is not None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(plain)
        connection.settimeout(10)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        # TLS may be through where the chain is right; then the name is refused.
        assert not answer or answer.startswith(b"HTTP/1.1 403")
        raise EOFError


def test_other_models_and_shapes_are_refused(fast, served):
    until_ready(served)
    ids = fast.text(1).input_ids[:, :2]
    with pytest.raises(UserError, match="padded length of 2"):
        ask(served, "alice", Encoded(ids, ids, np.ones((1, 2), np.float32)))
    with pytest.raises(UserError, match="padded length of 64, and 16, 32 are served"):
        ask(served, "alice", fast.text(1, 64))


def test_a_party_that_never_comes_is_named(tmp_path):
    local = LocalCluster(tmp_path, "2pc_semi2k", insecure=True)
    try:
        local.start("S0")
        until_logged(local, "S0", '"waiting for a party", "party": "S1"', 120)
        with pytest.raises(UserError, match=r"S1 at .* can't be reached"):
            asyncio.run(_meet(local))
    finally:
        local.stop()


async def _meet(local: LocalCluster) -> None:
    from secformer_jax.cluster.clients.channel import Servers

    async with Servers(local.cluster, "client") as servers:
        await servers.meet(8)


def test_three_servers(tmp_path):
    tiny = Tiny("secformer")
    with LocalCluster(tmp_path, "3pc_aby3") as local:
        tiny.publish(local)
        texts = [tiny.text(1), tiny.text(2)]
        for text, answer in zip(texts, ask(local, "client", *texts), strict=True):
            assert tiny.error(text, answer) < TOLERANCE


def test_a_model_that_takes_masks_needs_a_dealer(tmp_path):
    """Not only fast's weights: SecFormer's GeLU opens values under masks of a dealer's, whatever the protocol."""
    with LocalCluster(tmp_path, "2pc_cheetah") as local:
        for preset in ("secformer", "fast"):
            with pytest.raises(UserError, match=r"takes masks of a dealer, .*--preset puma"):
                Tiny(preset).publish(local)
        assert {each["model"] for each in status(local).values()} == {None}


def test_what_needs_a_dealer():
    found = {name: requirements.needs_dealer(Tiny(name).description, 18) for name in ("puma", "secformer", "drop-in")}
    assert found == {"puma": False, "secformer": True, "drop-in": True}
