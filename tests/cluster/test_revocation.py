"""A certificate that the CA has taken back is no longer good, at once and everywhere."""

import asyncio
import ssl

import aiohttp
import pytest
import tls_cases
from aiohttp import web

pytest.importorskip("gmssl_pyx")

from secformer_jax.cluster import certs, config, signing
from secformer_jax.cluster.party import identity
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.http import Server, application
from secformer_jax.cluster.wire.revocation import REVOKED, Revoked
from secformer_jax.errors import UserError


@pytest.fixture
def cluster(tmp_path):
    return tls_cases.folder(tmp_path, config.load("2pc_semi2k_dealer"))


def revoke(cluster: config.Cluster, role: str) -> None:
    files = cluster.tls(role)
    signing.revoke(files.certificate, files.ca.parent)


async def serving(cluster: config.Cluster, role: str) -> tuple[Server, str]:
    revoked = Revoked(cluster.tls(role).ca)

    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    app = application([web.get("/", answer)], cluster.roles, operators=(), revoked=revoked)
    server = Server(app, config.Address("127.0.0.1", 0), tls.server_context(cluster.tls(role)))
    return server, f"https://{await server.start()}/"


def test_a_client_is_refused_on_the_connection_that_it_has_and_on_every_new_one(cluster):
    async def run() -> None:
        server, url = await serving(cluster, "S0")

        def client(role: str) -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls.client_context(cluster.tls(role))))

        async with client("client") as one, client("owner") as other:
            for session in (one, other):
                assert (await session.get(url, server_hostname="S0")).status == 200
            revoke(cluster, "client")
            refused = await one.get(url, server_hostname="S0")
            assert refused.status == 403 and "certificate of client has been revoked" in await refused.text()
            assert (await other.get(url, server_hostname="S0")).status == 200
        async with client("client") as again:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await again.get(url, server_hostname="S0")
        await server.close()

    asyncio.run(run())


def test_a_client_refuses_a_server(cluster):
    async def run() -> None:
        server, url = await serving(cluster, "S1")
        context = tls.client_context(cluster.tls("client"))
        revoke(cluster, "S1")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            with pytest.raises((aiohttp.ClientSSLError, ssl.SSLError), match="revoked"):
                await session.get(url, server_hostname="S1")
        await server.close()

    asyncio.run(run())


def test_a_party_is_refused_on_the_link(cluster):
    signed = identity.Signer(cluster.tls("S1")).sign(b"statement")
    verifier = identity.Signer(cluster.tls("S0"))
    verifier.verify("S1", b"statement", signed)
    revoke(cluster, "S1")
    with pytest.raises(tls.PeerError, match="certificate of S1 has been revoked"):
        verifier.verify("S1", b"statement", signed)


def test_a_list_grows_and_only_its_own_ca_can_make_it(cluster, tmp_path):
    files = cluster.tls("client")
    revoked = Revoked(files.ca)
    for role in ("client", "owner"):
        revoke(cluster, role)
    path = files.ca.with_name(REVOKED)
    good = path.read_bytes()
    with open(files.certificate, "rb") as file:
        serial = certs.x509.load_pem_x509_certificate(file.read()).serial_number
    assert serial in revoked and serial + 1 not in revoked
    # What is not the CA's list, or none, takes nothing back.
    for bad in (b"", b"garbage", certs.Authority.create().revoke([], 1)):
        path.write_bytes(bad)
        assert serial in revoked
        with pytest.raises(UserError, match="get it from the CA again"):
            Revoked(files.ca)
    path.unlink()
    assert serial in revoked
    path.write_bytes(good)
    assert serial in revoked and serial in Revoked(files.ca)


def test_only_a_certificate_of_this_ca_can_be_revoked(cluster, tmp_path):
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(certs.Authority.create().issue("client")[0])
    folder = cluster.tls("client").ca.parent
    for path in (stranger, tmp_path / "nothing.pem"):
        with pytest.raises(UserError, match="no certificate of the CA"):
            signing.revoke(path, folder)
    with pytest.raises(UserError, match="no CA"):
        signing.revoke(cluster.tls("client").certificate, tmp_path / "elsewhere")
