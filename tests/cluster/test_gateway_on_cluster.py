"""`secformer gateway` before a real cluster: the package openai as its user, and what travels, read in the clear."""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import openai
import pytest
from cluster_processes import until_ready

from secformer_jax.cluster.clients import owner
from secformer_jax.cluster.loopback import LocalCluster, free_ports
from secformer_jax.cluster.requirements import describe
from secformer_jax.cluster.wire import tls
from secformer_jax.functions import presets
from secformer_jax.models.calibrate import ensure_calibration
from secformer_jax.models.folders import resolve
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Confidential: quarterly revenue fell by nine percent."]


@pytest.fixture(scope="module")
def local(tmp_path_factory, minilm):
    chosen = presets.preset("drop-in")
    ranges = ensure_calibration(minilm, chosen, length=128)
    with LocalCluster(tmp_path_factory.mktemp("cluster")) as found:
        description = describe(minilm, chosen, ranges, head="embedding")
        asyncio.run(owner.publish(found.cluster, minilm, description))
        until_ready(found)
        yield found


@contextlib.asynccontextmanager
async def overheard(local: LocalCluster, heard: bytearray) -> AsyncIterator[Path]:
    """A cluster file whose servers are relays that hold everybody's keys, and so read what TLS hides.

    `heard` takes the client's bytes, without TLS, in the order in which each server gets them.
    """
    cluster, ports = local.cluster, free_ports(len(local.cluster.parties))
    document = json.loads(local.path.read_text())
    upstream = tls.client_context(cluster.tls("client"))
    async with contextlib.AsyncExitStack() as stack:
        for (party, address), port in zip(cluster.control.items(), ports, strict=True):

            async def relay(reader, writer, party=party, address=address) -> None:
                options = {"ssl": upstream, "server_hostname": party}
                behind, ahead = await asyncio.open_connection(address.host, address.port, **options)
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await asyncio.gather(copy(reader, ahead, heard), copy(behind, writer))

            context = tls.server_context(cluster.tls(party))
            await stack.enter_async_context(await asyncio.start_server(relay, "127.0.0.1", port, ssl=context))
            document["nodes"][party] = f"127.0.0.1:{port}"
        path = local.path.with_name("overheard.json")
        path.write_text(json.dumps(document))
        yield path


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray | None = None) -> None:
    while data := await reader.read(1 << 16):
        if heard is not None:
            heard += data
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def gateway(path: Path) -> AsyncIterator[str]:
    command = [sys.executable, "-m", "secformer_jax", "gateway", "--cluster", path, "--model", "minilm", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield (await process.stdout.readline()).split()[0].decode()
    finally:
        process.terminate()
        assert await process.wait() == 0


def test_openai_gets_vectors_and_servers_get_no_token(local, minilm):
    heard = bytearray()

    async def run() -> list[list[float]]:
        async with (
            overheard(local, heard) as path,
            gateway(path) as url,
            openai.AsyncOpenAI(base_url=f"{url}v1", api_key="none", max_retries=0, timeout=300) as client,
        ):
            [model] = (await client.models.list()).data
            found = await client.embeddings.create(model=model.id, input=TEXTS)
            return [each.embedding for each in found.data]

    vectors = asyncio.run(run())
    tokenizer, plain = (
        Tokenizer(resolve("minilm"), minilm.config),
        Plaintext(minilm, presets.preset("exact"), head="embedding"),
    )
    for text, vector in zip(TEXTS, vectors, strict=True):
        encoded = tokenizer.encode([text])
        [expected] = plain(encoded)
        assert np.dot(vector, expected) / np.linalg.norm(vector) / np.linalg.norm(expected) >= 0.9999
        assert not traces(bytes(heard), text, encoded.input_ids[encoded.attention_mask == 1])
    assert len(heard) > 100_000


def traces(heard: bytes, text: str, ids: np.ndarray) -> list[str]:
    """Words of a text, and runs of its ids in any width and order, or written out."""
    words = [word for word in text.split() if len(word) > 4 and word.encode() in heard]
    inner = ids[1:-1]
    for kind in ("<u2", ">u2", "<u4", ">u4", "<u8", ">u8"):
        words += [kind for i in range(len(inner) - 3) if inner[i : i + 4].astype(kind).tobytes() in heard]
    return words + [mark for mark in (", ", ",") if mark.join(map(str, inner[:3])).encode() in heard]


def test_traces_are_found_where_there_are_some():
    ids = np.arange(2000, 2010)
    for heard in (b"xxquickxx", ids.astype("<u4").tobytes(), ids[3:].astype(">u8").tobytes(), b"[2001, 2002, 2003]"):
        assert traces(heard, TEXTS[0], ids)
    assert not traces(b"\x00" * 100, TEXTS[0], ids)
