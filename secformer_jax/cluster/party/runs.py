"""Computes what waits: requests in turn, those of one size together, each run on a lane that is free."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from secformer_jax.cluster.options import Batching
from secformer_jax.cluster.party.lane import Lane
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.node import RefusedError
from secformer_jax.cluster.party.scheduling import Request, Turns
from secformer_jax.cluster.party.sizes import TOGETHER, Sizes
from secformer_jax.cluster.request_shape import RequestShape

log = logging.getLogger(__name__)


class Runs:
    """One session's runs.

    While one lane computes, the others prepare the next run: the dealer's material and the servers' work ahead.

    Args:
        turns: what waits.
        call: (command, fields): has all parties carry out a command of `Node`.
        lanes: how many runs can be in flight.
        batching: which requests share a run.
        metrics: of this party.
        next_of: what most likely comes after a request.
        failed: told what ends the session.
    """

    def __init__(
        self,
        turns: Turns,
        call: Callable[[str, dict[str, Any]], Awaitable[list[dict[str, Any]]]],
        lanes: int,
        batching: Batching,
        metrics: PartyMetrics,
        next_of: Callable[[RequestShape], RequestShape | None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._next = next_of
        self._turns, self._call, self._batching, self._metrics, self._failed = turns, call, batching, metrics, failed
        self._over: set[str] = set()
        self._all = [Lane(number, call, self._over) for number in range(lanes)]
        self._idle = list(self._all)
        self._freed = asyncio.Event()
        self._sizes, self._compiling = Sizes(), False
        self._wanted: RequestShape | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until this is cancelled."""
        try:
            while True:
                while not self._idle:
                    self._freed.clear()
                    await self._freed.wait()
                taken = await self._turns.together(self._batching)
                lane = min(self._idle, key=lambda lane: lane.work_before(taken[0].shape))
                self._idle.remove(lane)
                self._turns.run_begins()
                count = self._size_for(lane, taken[0].shape, len(taken)).rows // taken[0].shape.rows
                self._turns.put_back(taken[count:])
                self._start(self._serve_on(lane, taken[:count]))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def _serve_on(self, lane: Lane, taken: list[Request]) -> None:
        """Serve requests of one size: in one run, or in several where a party has not got all of them."""
        claimed: list[Request] = []
        # This lane's own: another may be in the midst of another conversation.
        latest: RequestShape | None = None
        began = time.monotonic()
        for request in taken:
            named = {"request": request.id, "client": request.client, **request.shape.fields()}
            try:
                await self._call("claim", named)
                claimed.append(request)
            except RefusedError as error:
                await self._fail([request], str(error))
        while claimed:
            latest = shape = self._size_for(lane, claimed[0].shape, len(claimed))
            count = shape.rows // claimed[0].shape.rows
            try:
                await self._compute(lane, claimed[:count], shape)
            except RefusedError as error:
                await self._fail(claimed[:count], str(error))
            claimed = claimed[count:]
        self._idle.append(lane)
        self._freed.set()
        if len(self._idle) == len(self._all):
            self._turns.runs_ended(time.monotonic() - began)
        if self._wanted is not None and not self._compiling:
            self._compiling = True
            self._start(self._compile_beside(self._wanted))
        elif not len(self._turns) and latest is not None and (following := self._next(latest)):
            self._start(self._prepare(lane, following))

    async def _fail(self, requests: list[Request], text: str) -> None:
        for request in requests:
            await self._call("fail", {"request": request.id, "text": text})

    def _size_for(self, lane: Lane, shape: RequestShape, count: int) -> RequestShape:
        """The size of the run for some of so many requests of a shape: a power of two of them.

        The greatest that they fill by three quarters at least. Where that is not compiled yet it is compiled after this
        run, for the next time.
        """
        if shape.conversation:
            return shape
        most = self._batching.most(shape.rows, shape.length)
        doublings = range(most.bit_length())
        sizes = [RequestShape(shape.rows << n, shape.length) for n in doublings if 3 << n <= 4 * count]
        if len(sizes) > 1 and not lane.has(sizes[-1]):
            self._wanted = sizes[-1]
        return next((size for size in reversed(sizes[1:]) if lane.has(size)), shape)

    async def _compile_beside(self, run: RequestShape) -> None:
        # An idle lane compiles; the others only set it up, between two runs.
        first, *others = sorted(self._all, key=lambda lane: lane not in self._idle)
        try:
            with contextlib.suppress(RefusedError):
                await first.rehearse(run)
                for lane in others:
                    await lane.compile(run)
        finally:
            self._compiling, self._wanted = False, None

    def _use(self, requests: list[Request], shape: RequestShape) -> None:
        client = requests[0].client if len(requests) == 1 else TOGETHER
        for old in self._sizes.use(client, shape.size):
            for lane in self._all:
                self._start(lane.forget(old))

    async def _compute(self, lane: Lane, requests: list[Request], shape: RequestShape) -> None:
        """One run for requests that are claimed."""
        started, ids = time.perf_counter(), [request.id for request in requests]
        self._use(requests, shape)
        for other in self._idle:
            # One lane goes on with a conversation.
            if not shape.conversation and other.work_before(shape) > 1:
                self._start(self._prepare(other, shape))
        await lane.run(ids, shape)
        released, *_ = await self._call("release", {"requests": ids})
        seconds = time.perf_counter() - started
        for request in requests:
            extra = {"request": request.id, "peer": request.client, "seconds": round(seconds, 3)}
            if request.id in released["refused"]:
                log.warning("refused: no text", extra=extra)
                continue
            self._metrics.seconds.observe(time.monotonic() - request.since)
            log.info("answered", extra={**extra, "count": len(requests)})

    async def end(self, conversation: str) -> None:
        """Forget a conversation, everywhere."""
        self._over.add(conversation)
        for lane in self._all:
            await lane.end(conversation)
        await self._call("end", {"conversation": conversation})

    async def _prepare(self, lane: Lane, shape: RequestShape) -> None:
        """Ahead of the next request; what is refused now is refused to that request."""
        with contextlib.suppress(RefusedError):
            await lane.prepare(shape)
