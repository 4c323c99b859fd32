"""SPU's beaver service over HTTP: one route for each operation, in the form that SPU's client reads.

POST /spu.mpc.semi2k.beaver.ttp_server.BeaverService/<Op> with a JSON body. The answer is a stream of pieces: a status
byte (0, or an error code), an int64 little-endian length, and the bytes: at most 32 MiB of one array, or one line about
the error.
"""

from __future__ import annotations

import asyncio
import functools
import struct
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from aiohttp import web

from secformer_jax.cluster.dealer.beaver import sm2
from secformer_jax.cluster.dealer.beaver.adjust import OPERATIONS, Kept, Operation, answers
from secformer_jax.cluster.dealer.beaver.request import Request, RequestError, decrypted, parse
from secformer_jax.cluster.dealer.beaver.sessions import ReplayError, Sessions
from secformer_jax.cluster.dealer.budget import Budget, BusyError
from secformer_jax.cluster.dealer.metrics import DealerMetrics
from secformer_jax.cluster.wire.http import peer_of
from secformer_jax.mpc.ring import layout
from secformer_jax.mpc.runtime.shares import RING_BITS

PATH = "/spu.mpc.semi2k.beaver.ttp_server.BeaverService"
# What SPU's client takes as one piece, and its error codes.
MAX_PIECE = 32 << 20
OK, ADJUST_ERROR, DECRYPT_ERROR = 0, 1, 2
# Below this an answer takes less time than handing it to another thread and back.
INLINE_BYTES = 1 << 20
ONE_WRITE_BYTES = 1 << 16
SEEDS_KEPT = 1024
KEPT_BYTES = 256 << 20


class BeaverService:
    """Answers the computing parties of one cluster.

    Args:
        key: the dealer's SM2 key.
        parties: their names: only they are answered, and each array has a seed from each.
        sessions: what has served.
        budget: the memory that all requests under way may take.
        metrics: what is counted.
        threads: how many requests are computed at once.
    """

    def __init__(
        self,
        key: sm2.PrivateKey,
        parties: Collection[str],
        sessions: Sessions,
        budget: Budget,
        metrics: DealerMetrics,
        *,
        threads: int = 2,
    ) -> None:
        self._key, self._parties, self._sessions = key, tuple(parties), sessions
        self._budget, self._metrics = budget, metrics
        self._seeds: dict[str, bytes] = {}
        self._kept = Kept(KEPT_BYTES)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="beaver")
        _keep_freed_memory()

    def routes(self) -> list[web.RouteDef]:
        """For `http.application`."""
        return [web.post(f"{PATH}/{name}", self._handler(name, OPERATIONS[name])) for name in OPERATIONS]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _handler(self, name: str, operation: Operation) -> Callable:
        async def handle(http: web.Request) -> web.StreamResponse:
            peer = peer_of(http, self._parties)
            started = time.perf_counter()
            with self._metrics.request(name) as outcome:
                try:
                    request = parse(
                        name,
                        await http.read(),
                        self._seed,
                        parties=len(self._parties),
                        max_bytes=self._budget.limit,
                    )
                    async with self._budget.take(_memory(name, request)):
                        masks, replays = operation.masks, operation.replays
                        older = self._sessions.admit(request, masks=masks, replays=replays, owner=peer)
                        parts = await self._compute(operation, request, older)
                        outcome.served(sum(part.nbytes for part in parts), time.perf_counter() - started)
                        return await _send(http, parts)
                except sm2.DecryptionError as error:
                    return _refusal(outcome.refused(peer, error), DECRYPT_ERROR)
                except (RequestError, ReplayError, BusyError) as error:
                    return _refusal(outcome.refused(peer, error), ADJUST_ERROR)

        return handle

    async def _compute(self, operation: Operation, request: Request, older: list[int]):
        work = functools.partial(answers, operation, request, older, self._kept)
        if sum(array.size for array in request.arrays) <= INLINE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _seed(self, text: str) -> bytes:
        """A seed; those of the latest sessions are kept, for each comes with every request."""
        seed = self._seeds.pop(text, None) or decrypted(text, self._key.decrypt)
        self._seeds[text] = seed
        if len(self._seeds) > SEEDS_KEPT:
            del self._seeds[next(iter(self._seeds))]
        return seed


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed: fresh pages for every request cost several times what is done in them.

    It returns freed memory to the system at once until it has seen a large piece come and go, up to 32 MiB.
    """
    np.empty(31 << 20, np.uint8)


def _memory(name: str, request: Request) -> int:
    """About the bytes that a request takes at its greatest, its answer on the way included."""
    arrays = sum(array.size for array in request.arrays)
    if name == "AdjustPerm":
        return 8 * arrays
    if name == "AdjustDot":
        # Both parties' streams; digits of as many terms as are multiplied at once; four results while they add up.
        digits = 5 * min(1.0, layout(RING_BITS)[2] / request.dimensions[2])
        return int((2 + digits) * arrays) + 4 * request.arrays[-1].size
    return arrays


async def _send(http: web.Request, parts) -> web.StreamResponse:
    """The answer's pieces; a small one is one write."""
    pieces = [part[start : start + MAX_PIECE] for part in parts for start in range(0, part.size, MAX_PIECE)]
    if sum(piece.nbytes for piece in pieces) <= ONE_WRITE_BYTES:
        return web.Response(body=b"".join(b"".join((_head(OK, len(piece)), piece)) for piece in pieces))
    response = web.StreamResponse()
    response.content_length = sum(piece.nbytes + 9 for piece in pieces)
    await response.prepare(http)
    for piece in pieces:
        await response.write(_head(OK, piece.nbytes))
        await response.write(piece.data)
    await response.write_eof()
    return response


def _refusal(message: str, code: int) -> web.Response:
    text = message.encode()
    return web.Response(body=_head(code, len(text)) + text)


def _head(code: int, length: int) -> bytes:
    return struct.pack("<Bq", code, length)
