"""Servers that mean harm to who asks them: redirections, answers without an end, results that are not what they say."""

import asyncio
import contextlib
import gzip
import resource

import numpy as np
import pytest
from aiohttp import web
from tls_cases import on_free_ports

from secformer_jax.cluster import config
from secformer_jax.cluster.checks import others
from secformer_jax.cluster.clients.channel import Servers
from secformer_jax.cluster.clients.client import _output
from secformer_jax.cluster.wire import bodies, tls
from secformer_jax.cluster.wire.connections import DESCRIPTORS, Connections
from secformer_jax.cluster.wire.http import Server
from secformer_jax.cluster.wire.message import Message, MessageError, with_shares
from secformer_jax.cluster.wire.paths import HEALTH_PATH, INFER_PATH, STATUS_PATH
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime.shares import SEED_BYTES, Share, pack


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> config.Cluster:
    return on_free_ports(tmp_path_factory.mktemp("channel"))


def refusal(cluster: config.Cluster, handler, path: str = STATUS_PATH) -> str:
    """What a client says of an S0 that answers so."""

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.get(STATUS_PATH, handler), web.post(INFER_PATH, handler)])
        running = Server(app, cluster.control["S0"], tls.server_context(cluster.tls("S0")))
        await running.start()
        try:
            async with Servers(cluster, "client") as servers:
                await (servers.status("S0") if path == STATUS_PATH else servers.post("S0", path, data=b"shares"))
        finally:
            await running.close()

    with pytest.raises(UserError) as refused:
        asyncio.run(run())
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("path", [STATUS_PATH, INFER_PATH])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirection_is_followed(cluster, path, status):
    asked = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(status=status, headers={"Location": f"https://{cluster.control['S0']}{STATUS_PATH}?again"})

    assert f"status {status}" in refusal(cluster, redirect, path)
    assert asked == [path]


def test_a_check_follows_none_either(cluster):
    asked = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(status=302, headers={"Location": f"https://{cluster.control['S0']}{HEALTH_PATH}?again"})

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            app = web.Application()
            app.add_routes([web.get(HEALTH_PATH, redirect)])
            running = Server(app, cluster.control["S0"], tls.server_context(cluster.tls("S0")))
            await running.start()
            stack.push_async_callback(running.close)
            await others.examine(cluster, "owner", 2.0)

    asyncio.run(run())
    assert asked == [HEALTH_PATH]


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("compressed", [False, True])
def test_no_answer_takes_all_memory(cluster, status, compressed):
    content = bytes(bodies.MOST_BYTES + 1)
    headers = {"Content-Encoding": "gzip"} if compressed else {}

    async def large(request: web.Request) -> web.Response:
        return web.Response(status=status, body=gzip.compress(content) if compressed else content, headers=headers)

    assert "more than 64 MiB" in refusal(cluster, large)


def test_a_result_is_what_the_model_gives():
    ring = np.arange(6).reshape(2, 3)
    message = with_shares("result", {}, {"output0": Share("float32", ring.shape, (pack(ring, 32),), 32)})
    assert np.array_equal(_output(message, 32).rings()[0], ring)
    with pytest.raises(MessageError):
        _output(message, 64)
    # 32 bytes that stand for 16 GiB.
    large = Message(
        "result",
        {
            "shares": [
                {"name": "output0", "dtype": "float32", "shape": [1 << 31], "bits": 64, "components": ["seed"]},
            ]
        },
        [bytes(SEED_BYTES)],
    )
    with pytest.raises(MessageError):
        _output(large, 64)


def test_a_server_has_all_descriptors_that_it_may_have():
    """Each connection of a stranger takes one, until its handshake is given up."""

    async def run() -> int:
        listening = await Connections(asyncio.Protocol).listen("127.0.0.1", 0, None)
        listening.close()
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        assert asyncio.run(run()) == min(most, DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
