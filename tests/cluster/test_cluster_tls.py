"""Certificates and the identity check: files as they should be, and every bad certificate refused on both sides."""

import asyncio
import json
import ssl
import stat

import pytest
import tls_cases
from cryptography import x509

pytest.importorskip("gmssl_pyx")

from secformer_jax.cluster import certs, config
from secformer_jax.cluster.dealer.beaver import sm2
from secformer_jax.cluster.wire import tls
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import layout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    return tls_cases.folder(tmp_path_factory.mktemp("certs"), config.load("2pc_semi2k_dealer"))


def talk(server_context, client_context, server_name, allowed):
    """One exchange on loopback; returns the name that the server saw.

    Raises what either side's refusal raises at the client.
    """

    async def answer(reader, writer):
        try:
            writer.write(tls.require_peer(writer.get_extra_info("ssl_object"), allowed).encode() + b"\n")
        except tls.PeerError as error:
            writer.write(f"refused: {error}\n".encode())
        writer.close()

    async def exchange():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            named = {"server_hostname": server_name} if client_context else {}
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context, **named)
            writer.write(b"hello\n")
            line = await asyncio.wait_for(reader.readline(), 10)
            writer.close()
        if not line:
            raise ConnectionError("closed without an answer")
        if line.startswith(b"refused: "):
            raise tls.PeerError(line.decode())
        return line.decode().strip()

    return asyncio.run(exchange())


@pytest.mark.parametrize("client", ["S0", "owner", "client"])
def test_a_right_certificate_is_answered_and_known_by_its_name(cluster, client):
    server, mine = tls.server_context(cluster.tls("S1")), tls.client_context(cluster.tls(client))
    assert talk(server, mine, "S1", ["S0", "owner", "client"]) == client


@pytest.mark.parametrize("case", tls_cases.CLIENT_CASES)
@pytest.mark.parametrize("link", [("S1", "S0"), ("dealer", "S0"), ("S0", "owner"), ("S0", "client")])
def test_a_server_refuses(cluster, tmp_path, link, case):
    server, client = link
    bad = tls_cases.CLIENT_CASES[case](cluster, client, tmp_path)
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        talk(tls.server_context(cluster.tls(server)), bad, server, [client])


@pytest.mark.parametrize("case", tls_cases.SERVER_CASES)
@pytest.mark.parametrize("link", [("S1", "S0"), ("dealer", "S0"), ("S0", "owner"), ("S0", "client")])
def test_a_client_refuses(cluster, tmp_path, link, case):
    server, client = link
    bad = tls_cases.server_context(cluster, server, tmp_path, case)
    with pytest.raises(ssl.SSLError):
        talk(bad, tls.client_context(cluster.tls(client)), server, [client])


def test_a_client_refuses_plaintext(cluster):
    with pytest.raises(OSError):
        talk(None, tls.client_context(cluster.tls("S0")), "S1", ["S0"])


@pytest.mark.parametrize("role", ["client", "owner"])
def test_who_only_calls_can_not_serve(cluster, role):
    with pytest.raises(ssl.SSLError, match=r"purpose|certificate"):
        talk(tls.server_context(cluster.tls(role)), tls.client_context(cluster.tls("S0")), role, ["S0"])


def test_the_dealer_can_not_call(cluster):
    with pytest.raises(OSError):
        talk(tls.server_context(cluster.tls("S0")), tls.client_context(cluster.tls("dealer")), "S0", ["dealer"])


def test_peers_without_a_certificate_have_no_name():
    with pytest.raises(tls.PeerError, match="no certificate"):
        tls.peer_name(None)


def test_files(cluster):
    folder = cluster.tls("S0").ca.parent
    names = {path.name for path in folder.iterdir()}
    pairs = {f"{role}.{kind}" for role in cluster.roles for kind in ("pem", "key")}
    assert names == pairs | {"ca.pem", "ca.key", config.DEALER_CA, certs.SM2_PUBLIC, certs.SM2_PRIVATE}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.suffix == ".key" else 0o644)
    certificate = x509.load_pem_x509_certificate((folder / "dealer.pem").read_bytes())
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["dealer"]
    assert [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert certificate.public_key().curve.name == "secp256r1"


def test_what_is_there_stays_and_a_new_client_is_added(tmp_path):
    first = config.load("2pc_semi2k_dealer")
    assert certs.write(first, tmp_path / "tls")
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert certs.write(first, tmp_path / "tls") == []
    document = json.loads((layout.CONFIG_DIR / "2pc_semi2k_dealer.json").read_text())
    document["secformer"]["clients"] = ["client", "second"]
    (tmp_path / "mine.json").write_text(json.dumps(document))
    more = config.load(tmp_path / "mine.json")
    assert {path.name for path in certs.write(more, tmp_path / "tls")} == {"second.pem", "second.key"}
    assert before.items() <= {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}.items()
    assert talk(tls.server_context(more.tls("S0")), tls.client_context(more.tls("second")), "S0", ["second"])
    certs.write(more, tmp_path / "tls", force=True)
    assert not before.items() & {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}.items()
    (tmp_path / "tls" / "S0.key").unlink()
    with pytest.raises(UserError, match=r"S0\.pem is there without S0\.key"):
        certs.write(more, tmp_path / "tls")


def test_keys_that_others_can_read_are_refused(tmp_path):
    cluster = tls_cases.folder(tmp_path, config.load("2pc_cheetah"))
    cluster.tls("S0").key.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others: chmod 600"):
        tls.server_context(cluster.tls("S0"))
    cluster.tls("S1").certificate.unlink()
    with pytest.raises(UserError, match=r"S1\.pem.*secformer certs"):
        tls.client_context(cluster.tls("S1"))


def test_sm2_keys(cluster, tmp_path):
    files = cluster.tls("dealer")
    key, public = sm2.load(certs.sm2_private(files)), certs.sm2_public(files).read_bytes()
    assert key.public_pem() == public
    message = bytes(range(16))
    ciphertext = sm2.encrypt(public, message)
    assert key.decrypt(ciphertext) == message and message not in ciphertext
    for bad in (b"", b"x" * 120, ciphertext[:-1], sm2.encrypt(sm2.generate().public_pem(), message)):
        with pytest.raises(sm2.DecryptionError):
            key.decrypt(bad)
    assert key.number.hex() not in repr(key)
    for bad in (b"nothing", files.key.read_bytes(), public):
        (tmp_path / "bad.key").write_bytes(bad)
        with pytest.raises(UserError, match=r"bad\.key"):
            sm2.load(tmp_path / "bad.key")


def test_spu_s_client_trusts_nobody_but_the_dealer(cluster):
    """A client that checks chains and no names, as SPU's does, and trusts the dealer's CA."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.load_cert_chain(cluster.tls("S0").certificate, cluster.tls("S0").key)
    blind.load_verify_locations(cluster.party_runtime("S0", "")["ttp_beaver_config"]["ssl_config"]["ca_file_path"])
    assert talk(tls.server_context(cluster.tls("dealer")), blind, None, ["S0"]) == "S0"
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        talk(tls.server_context(cluster.tls("S1")), blind, None, ["S0"])
