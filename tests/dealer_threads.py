"""A dealer in a thread of the test, and a client that speaks to it as SPU's does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secformer_jax.cluster import config
from secformer_jax.cluster.dealer.beaver import prg, sm2
from secformer_jax.cluster.dealer.beaver.service import PATH
from secformer_jax.cluster.dealer.server import Dealer
from secformer_jax.cluster.wire import http, tls


@dataclass
class Running:
    """A dealer that listens, and where."""

    dealer: Dealer
    address: config.Address
    key: sm2.PrivateKey


@contextlib.contextmanager
def running(
    cluster: config.Cluster,
    key: sm2.PrivateKey,
    *,
    state: Path | None = None,
    with_tls: bool = False,
    **options,
) -> Iterator[Running]:
    """A dealer on a free port, ended with the context."""
    dealer = Dealer(cluster, key, state, plaintext=not with_tls, **options)
    context = tls.server_context(cluster.tls(config.DEALER)) if with_tls else None
    loop = asyncio.new_event_loop()
    server = http.Server(dealer.application(), config.Address("127.0.0.1", 0), context)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        address = asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield Running(dealer, address, key)
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        dealer.close()


class RefusedError(Exception):
    """The dealer's line, and SPU's code for it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Client:
    """A session of SPU's client: seeds, and a counter that both parties move alike."""

    to: Running
    context: ssl.SSLContext | None = None
    seeds: tuple[bytes, ...] = field(default_factory=lambda: (os.urandom(16), os.urandom(16)))
    counter: int = 0

    def array(self, size: int, *, counter: int | None = None, seeds: Sequence[bytes] | None = None) -> dict:
        """The description of one array, new unless a counter is given."""
        if counter is None:
            counter, self.counter = self.counter, self.counter + prg.blocks(size)
        encrypted = [sm2.encrypt(self.to.key.public_pem(), seed) for seed in seeds or self.seeds]
        return {
            "prg_count": counter,
            "buffer_len": size,
            "encrypted_seeds": [base64.b64encode(text).decode() for text in encrypted],
        }

    def drawn(self, array: dict, dtype="<u8") -> np.ndarray:
        """What the parties' parts of an array add up to."""
        return sum(s.view(dtype) for s in prg.ring_bytes(self.seeds, array["prg_count"], array["buffer_len"]))  # type: ignore[return-value]

    def ask(self, operation: str, arrays: Sequence[dict], field_size: int = 8, **more) -> np.ndarray:
        """The answer's bytes.

        Raises:
            RefusedError: the dealer said why not.
        """
        return self.post(operation, json.dumps({"prg_inputs": arrays, "field_size": field_size, **more}).encode())

    def post(self, operation: str, body: bytes, path: str = PATH) -> np.ndarray:
        """The answer to any body at all."""
        scheme = "http" if self.context is None else "https"
        url = f"{scheme}://{self.to.address}{path}/{operation}"
        with urllib.request.urlopen(url, body, timeout=30, context=self.context) as answer:
            return decoded(answer.read())

    def is_served(self) -> bool:
        """Whether a request of a new session is answered rightly."""
        client = Client(self.to, self.context)
        arrays = [client.array(24) for _ in range(3)]
        a, b, c = (client.drawn(array) for array in arrays)
        return bool(np.array_equal(client.ask("AdjustMul", arrays).view("<u8"), a * b - c))


def decoded(stream: bytes) -> np.ndarray:
    """The pieces of an answer, joined."""
    pieces = b""
    while stream:
        code, length = struct.unpack("<Bq", stream[:9])
        piece, stream = stream[9 : 9 + length], stream[9 + length :]
        if code:
            raise RefusedError(code, piece.decode())
        assert len(piece) == length <= 32 << 20
        pieces += piece
    return np.frombuffer(pieces, np.uint8)
