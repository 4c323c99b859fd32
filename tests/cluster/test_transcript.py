"""What servers put their names to, and what a client makes of it."""

import pytest
import tls_cases

pytest.importorskip("gmssl_pyx")

from secformer_jax.cluster import config, transcript
from secformer_jax.cluster.party.identity import Signer
from secformer_jax.cluster.transcript import RECEIPT, STATEMENT
from secformer_jax.cluster.wire.message import Message
from secformer_jax.errors import UserError

FACTS = {"party": "S0", "session": "a", "model": "b", "link": ["c", "d"], "program": None, "nonce": "e"}
PARTIES = ("S0", "S1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    return tls_cases.folder(tmp_path_factory.mktemp("certs"), config.load("2pc_semi2k_dealer"))


def signed(cluster, role: str = "S0", **changes) -> dict[str, str]:
    return transcript.signed(Signer(cluster.tls(role)), STATEMENT, FACTS | changes)


def read(cluster, found, **expected):
    return transcript.read(Signer(cluster.tls("client")), "S0", STATEMENT, found, expected)


def test_what_is_signed_is_read(cluster):
    facts = read(cluster, signed(cluster), nonce="e", model="b")
    assert facts == FACTS | {"kind": STATEMENT}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found | {"text": found["text"].replace('"b"', '"x"')}, "no statement"),
        (lambda found: found | {"proof": ""}, "no statement"),
        (lambda found: {}, "no statement"),
        (lambda found: None, "no statement"),
    ],
)
def test_what_was_changed_is_refused(cluster, change, reason):
    with pytest.raises(UserError, match=reason):
        read(cluster, change(signed(cluster)))


def test_what_another_signed_or_what_was_not_asked_for_is_refused(cluster):
    with pytest.raises(UserError, match="no statement"):
        read(cluster, signed(cluster, "S1"))
    with pytest.raises(UserError, match="another nonce"):
        read(cluster, signed(cluster), nonce="f")
    with pytest.raises(UserError, match="another party"):
        read(cluster, signed(cluster, party="S1"))
    with pytest.raises(UserError, match="another kind"):
        transcript.read(Signer(cluster.tls("client")), "S0", RECEIPT, signed(cluster), {})


@pytest.mark.parametrize("key", ["session", "model", "link", "program", "piece"])
def test_servers_that_say_different_things_are_refused(key):
    other = FACTS | {"party": "S1"}
    transcript.agree([FACTS, other], PARTIES)
    transcript.agree([FACTS | {key: "x"}, FACTS | {key: "x"}], PARTIES)
    with pytest.raises(UserError, match=f"different things of the {key}"):
        transcript.agree([FACTS | {key: "x"}, FACTS | {key: "y"}], PARTIES)


def test_a_program_that_only_one_knows_yet_is_no_difference():
    transcript.agree([FACTS | {"program": "x"}, FACTS], PARTIES)


def test_a_digest_is_of_the_shares():
    assert transcript.digest(Message("infer", {"a": 1}, [b"ab", b"c"])) == transcript.digest(Message("x", {}, [b"abc"]))
    assert transcript.digest(Message("infer", {}, [b"abd"])) != transcript.digest(Message("infer", {}, [b"abc"]))
