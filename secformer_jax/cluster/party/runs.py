"""Computes what waits: requests in turn, those of one size together, each run on a lane that is free."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from secformer_jax.cluster.config import Batching
from secformer_jax.cluster.deployment import RequestShape
from secformer_jax.cluster.party.lane import Lane
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.node import RefusedError
from secformer_jax.cluster.party.scheduling import Request, Turns

log = logging.getLogger(__name__)

MAX_SHAPES = 24


class Runs:
    """One session's runs.

    While one lane computes, the others prepare the next run: the dealer's material and the servers' work ahead.

    Args:
        turns: what waits.
        call: (command, fields): has all parties carry out a command of `Node`.
        lanes: how many runs can be in flight.
        batching: which requests share a run.
        metrics: of this party.
        failed: told what ends the session.
    """

    def __init__(
        self,
        turns: Turns,
        call: Callable[[str, dict[str, Any]], Awaitable[list[dict[str, Any]]]],
        lanes: int,
        batching: Batching,
        metrics: PartyMetrics,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._turns, self._call, self._batching, self._metrics, self._failed = turns, call, batching, metrics, failed
        self._idle = [Lane(number, call) for number in range(lanes)]
        self._freed = asyncio.Event()
        self._sizes: set[RequestShape] = set()
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
                self._start(self._serve_on(lane, taken))
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
        for request in taken:
            named = {"request": request.id, "client": request.client, **dataclasses.asdict(request.shape)}
            try:
                of = await self._compiled_for(lane, request.shape, len(taken))
                await self._call("claim", {**named, "compiled_rows": of.rows})
                claimed.append(request)
            except RefusedError as error:
                await self._call("fail", {"request": request.id, "text": str(error)})
        while claimed:
            shape = await self._compiled_for(lane, claimed[0].shape, len(claimed))
            count = shape.rows // claimed[0].shape.rows
            part, claimed = claimed[:count], claimed[count:]
            try:
                await self._compute(lane, part, shape)
            except RefusedError as error:
                for request in part:
                    await self._call("fail", {"request": request.id, "text": str(error)})
        self._idle.append(lane)
        self._freed.set()
        if not len(self._turns) and self._sizes:
            self._start(self._prepare(lane, self._latest))

    async def _compiled_for(self, lane: Lane, shape: RequestShape, count: int) -> RequestShape:
        """The size of the greatest run that so many requests of a shape fill: a power of two of them, compiled.

        Runs of several requests take half of a session's places at most: each size has to be compiled.
        """
        while True:
            together = 1 << (count.bit_length() - 1)
            run = RequestShape(shape.rows * together, shape.length)
            if together == 1 or run in self._sizes or len(self._sizes) < MAX_SHAPES // 2:
                if run not in self._sizes and len(self._sizes) >= MAX_SHAPES:
                    raise RefusedError(f"{MAX_SHAPES} sizes of request are served in one session: use one of those")
                await lane.compile(run)
                self._sizes.add(run)
                return run
            count = together - 1

    async def _compute(self, lane: Lane, requests: list[Request], shape: RequestShape) -> None:
        """One run for requests that are claimed."""
        started, ids = time.perf_counter(), [request.id for request in requests]
        self._latest = shape
        for other in self._idle:
            if other.work_before(shape) > 1:
                self._start(self._prepare(other, shape))
        await lane.run(ids, shape)
        await self._call("release", {"requests": ids})
        seconds = time.perf_counter() - started
        for request in requests:
            self._metrics.seconds.observe(time.monotonic() - request.since)
            extra = {"request": request.id, "peer": request.client, "seconds": round(seconds, 3)}
            log.info("answered", extra={**extra, "count": len(requests)})

    async def _prepare(self, lane: Lane, shape: RequestShape) -> None:
        """Ahead of the next request; what is refused now is refused to that request."""
        with contextlib.suppress(RefusedError):
            await lane.prepare(shape)
