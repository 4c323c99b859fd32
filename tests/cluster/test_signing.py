"""Keys that never leave their roles: requests, and what the CA makes of them."""

import contextlib
import shutil
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secformer_jax.cluster import certs, config, signing
from secformer_jax.cluster.config import TlsFiles
from secformer_jax.cluster.dealer.beaver import sm2
from secformer_jax.cluster.wire import tls
from secformer_jax.errors import UserError


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> tuple[config.Cluster, dict[str, TlsFiles]]:
    """Every role with a folder of its own, into which the CA's answers were copied."""
    cluster, ca = config.load("2pc_semi2k_dealer"), tmp_path_factory.mktemp("ca")
    folders = {role: tmp_path_factory.mktemp(role) for role in cluster.roles}
    everybodys = []
    for role, folder in folders.items():
        sent = [shutil.copy(path, ca) for path in signing.request(cluster, role, folder)]
        for path in signing.sign(cluster, ca / f"{role}.csr", ca):
            shutil.copy(path, folder)
        everybodys += [ca / certs.SM2_PUBLIC, ca / config.DEALER_CA] if role == "dealer" else []
        assert sent
    for folder in folders.values():
        for path in everybodys:
            shutil.copy(path, folder)
    assert {path.name for path in ca.glob("*.key")} == {certs.CA_KEY}
    return cluster, {role: config.load("2pc_semi2k_dealer", tls=folder).tls(role) for role, folder in folders.items()}


def handshake(server: TlsFiles, client: TlsFiles, name: str) -> str:
    """Who the server finds at the other end of a connection to `name`."""
    ours, theirs = socket.socketpair()
    found = []

    def serve() -> None:
        with (
            contextlib.suppress(ssl.SSLError),
            tls.server_context(server).wrap_socket(ours, server_side=True) as connection,
        ):
            found.append(tls.peer_name(connection))

    serving = threading.Thread(target=serve)
    serving.start()
    with tls.client_context(client).wrap_socket(theirs, server_hostname=name):
        serving.join(10)
    return found[0]


def test_every_role_is_known_by_its_own_key(signed):
    _, files = signed
    assert handshake(files["S0"], files["client"], "S0") == "client"
    assert handshake(files["dealer"], files["S1"], "dealer") == "S1"
    assert handshake(files["S1"], files["owner"], "S1") == "owner"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files["S0"], files["client"], "S1")
    keys = {path.key.read_bytes() for path in files.values()}
    assert len(keys) == len(files) and all(path.key.stat().st_mode & 0o077 == 0 for path in files.values())


def test_the_dealers_own_key_is_the_one_that_servers_have(signed):
    _, files = signed
    pair = sm2.load(certs.sm2_private(files["dealer"]))
    assert certs.sm2_public(files["S1"]).read_bytes() == pair.public_pem()
    assert not certs.sm2_private(files["S0"]).exists()


def test_an_sm2_key_that_others_can_read_is_refused(signed):
    _, files = signed
    path = certs.sm2_private(files["dealer"])
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        sm2.load(path)
    path.chmod(0o600)


def test_bad_requests_are_refused(signed, tmp_path):
    cluster, _ = signed
    [asked] = signing.request(cluster, "S0", tmp_path)
    with pytest.raises(UserError, match="there already"):
        signing.request(cluster, "S0", tmp_path)
    with pytest.raises(UserError, match="no role 'eve'"):
        signing.request(cluster, "eve", tmp_path)
    key = ec.generate_private_key(ec.SECP384R1())
    for name, key, said in (
        ("eve", ec.generate_private_key(ec.SECP256R1()), "no role 'eve'"),
        ("S0", ec.generate_private_key(ec.SECP384R1()), "P-256"),
    ):
        builder = x509.CertificateSigningRequestBuilder().subject_name(certs.named(name))
        asked.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        with pytest.raises(UserError, match=said):
            signing.sign(cluster, asked, tmp_path / "ca")
    asked.write_text("nothing")
    with pytest.raises(UserError, match="no signing request"):
        signing.sign(cluster, asked, tmp_path / "ca")
