"""The dealer's service from outside: answers, refusals of everything that is not SPU's client, each mask once."""

import base64
import concurrent.futures
import json
import os
import urllib.error
import urllib.request

import numpy as np
import pytest
import tls_cases
from dealer_threads import Client, RefusedError, running

pytest.importorskip("gmssl_pyx")

import secformer_jax
from secformer_jax.cluster import config
from secformer_jax.cluster.dealer.beaver import prg, sm2
from secformer_jax.cluster.dealer.beaver.sessions import BOOT_ID, Sessions
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.http import application
from secformer_jax.errors import UserError

KEY = sm2.generate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    return tls_cases.folder(tmp_path_factory.mktemp("certs"), config.load("2pc_semi2k_dealer"))


@pytest.fixture(scope="module")
def dealer(cluster):
    with running(cluster, KEY, memory_limit=64 << 20) as found:
        yield found


@pytest.fixture
def client(dealer):
    return Client(dealer)


def test_an_answer_makes_the_masks_fit(client):
    a, b, c = (client.array(80) for _ in range(3))
    answer = client.ask("AdjustMul", [a, b, c]).view("<u8")
    np.testing.assert_array_equal(answer + client.drawn(c), client.drawn(a) * client.drawn(b))


def test_numbers_may_be_strings_and_defaults_missing(client):
    arrays = [client.array(16) for _ in range(2)]
    a, b = (client.drawn(array) for array in arrays)
    del arrays[0]["prg_count"]
    arrays[1] = {**arrays[1], "prg_count": "1", "buffer_len": "16"}
    np.testing.assert_array_equal(client.ask("AdjustSquare", arrays).view("<u8"), a * a - b)


def test_large_answers_come_in_pieces_one_array_after_the_other(client, cluster):
    size = 33 << 20
    with running(cluster, KEY) as roomy:
        client = Client(roomy)
        arrays = [client.array(size) for _ in range(3)]
        answer = client.ask("AdjustTruncPr", arrays, bits=18).view("<u8")
    first, second = np.split(answer, 2)
    r = client.drawn(arrays[0])
    np.testing.assert_array_equal(first + client.drawn(arrays[1]), (r << np.uint64(1)) >> np.uint64(19))
    np.testing.assert_array_equal(second + client.drawn(arrays[2]), r >> np.uint64(63))


def test_a_request_is_served_once(client):
    arrays = [client.array(32) for _ in range(3)]
    client.ask("AdjustMul", arrays)
    for operation in ("AdjustMul", "AdjustAnd"):
        with pytest.raises(RefusedError, match="masks are used once") as refused:
            client.ask(operation, arrays)
        assert refused.value.code == 1
    assert client.is_served()


def test_weights_are_replayed_and_nothing_else(client):
    weight, others = client.array(64), [client.array(64), client.array(64)]
    client.ask("AdjustMul", [weight, *others])
    again = [client.array(64) for _ in range(2)]
    a, b, c = (client.drawn(array) for array in (again[0], weight, again[1]))
    answer = client.ask("AdjustMul", [again[0], weight, again[1]]).view("<u8")
    np.testing.assert_array_equal(answer, a * b - c)
    # Half of an array that has been drawn is as old as the whole; what nobody has drawn is not old at all.
    client.ask("AdjustSquare", [client.array(32, counter=weight["prg_count"]), client.array(32)])
    later = client.array(32, counter=client.counter + 1000)
    with pytest.raises(RefusedError, match="used once"):
        client.ask("AdjustMul", [later, client.array(32), client.array(32)])
    for operation, rest in (("AdjustAnd", 2), ("AdjustTrunc", 1), ("AdjustEqz", 1), ("AdjustMulPriv", 1)):
        with pytest.raises(RefusedError, match="used once"):
            client.ask(operation, [weight, *(client.array(64) for _ in range(rest))])


def test_the_overlap_that_spu_would_make_is_refused(client):
    """Its product of matrices draws the product's mask where it drew a weight's, the first time that it keeps one."""
    a = client.array(8 * 6)
    b, c = client.array(8 * 6), None
    c = client.array(8, counter=b["prg_count"])
    with pytest.raises(RefusedError, match="used once"):
        client.ask("AdjustDot", [a, b, c], M=1, N=1, K=6, transpose_inputs=[False] * 3)


def test_foreign_seeds_are_refused(client, dealer):
    arrays = [client.array(16) for _ in range(2)]
    client.ask("AdjustSquare", arrays)
    mine, stolen = os.urandom(16), client.seeds[1]
    for seeds in ((mine, stolen), (stolen, mine), client.seeds[::-1], (stolen, stolen)):
        with pytest.raises(RefusedError, match=r"another session|of its own"):
            client.ask("AdjustSquare", [client.array(16, seeds=seeds) for _ in range(2)])
    # A mask that one party knows alone would show it the other's.
    with pytest.raises(RefusedError, match=r"of its own|another session|used once"):
        client.ask("AdjustTrunc", [client.array(16), client.array(16, seeds=(mine, os.urandom(16)))], bits=0)
    with pytest.raises(RefusedError, match="of its own"):
        client.ask("AdjustTrunc", [client.array(16), client.array(16, seeds=(mine, mine))], bits=0)
    other = Client(dealer)
    with pytest.raises(RefusedError, match="no session has drawn"):
        client.ask("AdjustSquare", [client.array(16, seeds=other.seeds), client.array(16)])
    assert client.ask("AdjustSquare", [client.array(16) for _ in range(2)]).size == 16


def test_seeds_for_another_key_are_refused(client):
    arrays = [client.array(16) for _ in range(2)]
    wrong = base64.b64encode(sm2.encrypt(sm2.generate().public_pem(), bytes(16))).decode()
    with pytest.raises(RefusedError, match="not encrypted for this dealer's key") as refused:
        client.ask("AdjustSquare", [{**array, "encrypted_seeds": [wrong, wrong]} for array in arrays])
    assert refused.value.code == 2
    for seeds in (["*"] * 2, [""] * 2, ["A" * 10_000] * 2, [wrong], [wrong] * 3, [7, 8], None):
        with pytest.raises(RefusedError):
            client.ask("AdjustSquare", [{**array, "encrypted_seeds": seeds} for array in arrays])
    short = base64.b64encode(sm2.encrypt(KEY.public_pem(), bytes(8))).decode()
    with pytest.raises(RefusedError, match="8 bytes, and 16"):
        client.ask("AdjustSquare", [{**array, "encrypted_seeds": [short, short]} for array in arrays])
    assert client.is_served()


@pytest.mark.parametrize(
    ("operation", "change", "said"),
    [
        ("AdjustMul", lambda d: d["prg_inputs"].pop(), "2 arrays, and AdjustMul takes 3"),
        ("AdjustMul", lambda d: d.update(prg_inputs=None), "prg_inputs is a list"),
        ("AdjustMul", lambda d: d.update(prg_inputs=[1, 2, 3]), "prg_inputs is a list"),
        ("AdjustMul", lambda d: d.update(field_size=16), "FM64"),
        ("AdjustMul", lambda d: d.update(field_size="x"), "field_size"),
        ("AdjustMul", lambda d: d.update(element_type="GOLDILOCKS"), "element_type"),
        ("AdjustMul", lambda d: d["prg_inputs"][0].update(buffer_len=0), "buffer_len is 0"),
        ("AdjustMul", lambda d: d["prg_inputs"][0].update(buffer_len=-8), "buffer_len is -8"),
        ("AdjustMul", lambda d: d["prg_inputs"][0].update(buffer_len=True), "buffer_len is a bool"),
        ("AdjustMul", lambda d: d["prg_inputs"][0].update(buffer_len=12), "whole elements of 8"),
        ("AdjustMul", lambda d: d["prg_inputs"][0].update(buffer_len=40), "equal ones"),
        ("AdjustMul", lambda d: d["prg_inputs"][2].update(prg_count=2**64 - 1), "prg_count"),
        ("AdjustTruncPr", lambda d: d.update(bits=63), "bits is 63"),
        ("AdjustDot", lambda d: d.update(M=2, N=2, K=3), "do not hold M 2, N 2, K 3"),
        ("AdjustPerm", lambda d: (d["prg_inputs"].pop(), d.update(perm=1)), "perm has prg_count"),
        (
            "AdjustPerm",
            lambda d: (d["prg_inputs"].pop(), d.update(perm={"encrypted_seeds": "AA==", "size": 5})),
            "another",
        ),
        (
            "AdjustPerm",
            lambda d: (d["prg_inputs"].pop(), d.update(perm={"encrypted_seeds": "", "size": 1 << 40})),
            "size",
        ),
        ("AdjustDot", lambda d: d.update(M=0, N=2, K=2), "M is 0"),
        ("AdjustDot", lambda d: d.update(M=1, N=4, K=1, transpose_inputs=[True]), "do not hold"),
    ],
)
def test_malformed_requests(client, operation, change, said):
    document = {"prg_inputs": [client.array(32) for _ in range(3)], "field_size": 8}
    change(document)
    with pytest.raises(RefusedError) as refused:
        client.post(operation, json.dumps(document).encode())
    assert said in str(refused.value) and "\n" not in str(refused.value) and refused.value.code == 1


def test_bodies_that_are_no_requests(client):
    for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, os.urandom(1000)):
        with pytest.raises(RefusedError, match="JSON"):
            client.post("AdjustMul", body)
    for operation, path in (("AdjustNothing", None), ("AdjustMul", "/other")):
        with pytest.raises(urllib.error.HTTPError) as missing:
            client.post(operation, b"{}", **({"path": path} if path else {}))
        assert missing.value.code == 404
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)):
        client.post("AdjustMul", b"x" * (2 << 20))
    assert client.is_served()


def test_oversized_requests_cost_nothing(client, dealer):
    huge = [{**client.array(16), "buffer_len": size} for size in (1 << 40, 1 << 40)]
    with pytest.raises(RefusedError, match="buffer_len"):
        client.ask("AdjustSquare", huge)
    with pytest.raises(RefusedError, match="are the most"):
        client.ask("AdjustMul", [{**client.array(16), "buffer_len": 31 << 20} for _ in range(3)])
    arrays = [{**client.array(16), "buffer_len": size} for size in (1 << 13, 1 << 24, 1 << 14)]
    with pytest.raises(RefusedError, match="asked for at once"):
        client.ask("AdjustDot", arrays, M=1, N=1 << 11, K=1 << 10, transpose_inputs=[False] * 3)
    assert dealer.dealer.budget.used == 0 and client.is_served()


def test_many_at_once_within_the_memory_limit(dealer):
    used = []

    def one(_):
        client = Client(dealer)
        arrays = [client.array(4 << 20) for _ in range(3)]
        answer = client.ask("AdjustMul", arrays).view("<u8")
        used.append(dealer.dealer.budget.used)
        a, b, c = (client.drawn(array) for array in arrays)
        return np.array_equal(answer, a * b - c)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(16)))
    assert max(used) <= dealer.dealer.budget.limit and dealer.dealer.budget.used == 0


def test_a_restart_forgets_no_mask(cluster, tmp_path):
    with running(cluster, KEY, state=tmp_path) as first:
        client = Client(first)
        arrays = [client.array(16) for _ in range(2)]
        client.ask("AdjustSquare", arrays)
        assert client.seeds[0] not in (tmp_path / "beaver-sessions").read_bytes()
    with running(cluster, KEY, state=tmp_path) as second:
        again = Client(second, seeds=client.seeds)
        with pytest.raises(RefusedError, match="used once"):
            again.ask("AdjustSquare", [again.array(16) for _ in range(2)])
        with pytest.raises(RefusedError, match="another session"):
            again.ask("AdjustSquare", [again.array(16, seeds=(client.seeds[0], bytes(16))) for _ in range(2)])
        again.counter = client.counter
        assert again.ask("AdjustSquare", [again.array(16) for _ in range(2)]).size == 16
        assert len(second.dealer.sessions) == 1


def test_after_a_restart_of_the_machine_old_sessions_are_closed(cluster, tmp_path):
    with running(cluster, KEY, state=tmp_path) as first:
        client = Client(first)
        client.ask("AdjustSquare", [client.array(16) for _ in range(2)])
    path = tmp_path / "beaver-sessions"
    content = path.read_bytes()
    boot = BOOT_ID.read_bytes().strip()
    assert boot in content[:64]
    path.write_bytes(content.replace(boot, b"f" * len(boot)))
    with running(cluster, KEY, state=tmp_path) as second:
        again = Client(second, seeds=client.seeds, counter=client.counter)
        with pytest.raises(RefusedError, match="used once"):
            again.ask("AdjustSquare", [again.array(16) for _ in range(2)])
        assert again.is_served()
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="beaver-sessions"):
        Sessions(2, path)


def test_the_number_of_sessions_is_bounded(cluster):
    sessions = Sessions(2, max_sessions=2)
    with running(cluster, KEY) as found:
        found.dealer._beaver._sessions = sessions
        for _ in range(2):
            assert Client(found).is_served()
        with pytest.raises(RefusedError, match="sessions are kept"):
            Client(found).is_served()


@pytest.mark.parametrize("case", tls_cases.CLIENT_CASES)
def test_bad_certificates(cluster, tmp_path, case):
    with running(cluster, KEY, with_tls=True) as found:
        bad = tls_cases.CLIENT_CASES[case](cluster, "S0", tmp_path)
        with pytest.raises(OSError) as refused:
            Client(found, bad).is_served()
        assert case != "other_name" or isinstance(refused.value, urllib.error.HTTPError)
        assert Client(found, tls.client_context(cluster.tls("S0"))).is_served()


def test_only_parties_get_masks_and_a_session_has_one_owner(cluster):
    with running(cluster, KEY, with_tls=True) as found:
        for role in ("owner", "client"):
            with pytest.raises(urllib.error.HTTPError) as forbidden:
                Client(found, tls.client_context(cluster.tls(role))).is_served()
            assert forbidden.value.code == 403 and "S0 or S1 is expected" in forbidden.value.read().decode()
        first = Client(found, tls.client_context(cluster.tls("S0")))
        first.ask("AdjustSquare", [first.array(16) for _ in range(2)])
        other = Client(found, tls.client_context(cluster.tls("S1")), seeds=first.seeds, counter=first.counter)
        with pytest.raises(RefusedError, match="belongs to another party"):
            other.ask("AdjustSquare", [other.array(16) for _ in range(2)])


def test_health_and_metrics(cluster):
    with running(cluster, KEY, with_tls=True) as found:
        context = tls.client_context(cluster.tls("owner"))
        assert Client(found, tls.client_context(cluster.tls("S0"))).is_served()

        def get(path):
            with urllib.request.urlopen(f"https://{found.address}{path}", context=context, timeout=10) as answer:
                return answer.read().decode()

        told = {"status": "ok", "version": secformer_jax.__version__, "role": "dealer", "sessions": 1}
        assert json.loads(get("/health")) == told
        shown = get("/metrics")
        assert 'secformer_dealer_requests_total{operation="AdjustMul",outcome="served"} 1.0' in shown
        assert 'secformer_dealer_sent_bytes_total{operation="AdjustMul"} 24.0' in shown
        assert "secformer_dealer_sessions 1.0" in shown and "secformer_dealer_memory_bytes 0.0" in shown


def test_logs_hold_no_secret(cluster, caplog):
    caplog.set_level("DEBUG", "secformer_jax")
    with running(cluster, KEY) as found:
        client = Client(found)
        arrays = [client.array(16) for _ in range(2)]
        client.ask("AdjustSquare", arrays)
        with pytest.raises(RefusedError):
            client.ask("AdjustSquare", arrays)
    text = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "refused" in text and "AdjustSquare" in text
    for secret in (*client.seeds, KEY.number, client.drawn(arrays[0]).tobytes()):
        assert secret.hex() not in text and repr(secret) not in text and base64.b64encode(secret).decode() not in text


def test_a_plain_server_needs_a_plain_application(cluster):
    from secformer_jax.cluster.wire.http import Server

    with pytest.raises(ValueError, match="plaintext"):
        Server(application([], cluster.roles, operators=()), config.Address("127.0.0.1", 0), None)


def test_blocks():
    assert [prg.blocks(size) for size in (1, 16, 17, 32)] == [1, 1, 2, 2]
