"""Which requests are next: every client in its turn, and with the first those that can share its run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from secformer_jax.cluster.options import Batching
from secformer_jax.cluster.request_shape import RequestShape


@dataclass
class Request:
    """One request as the servers agree on it; `missing` names the servers that have no share of its input yet.

    `since` is when the first of them had its share, on this host's monotonic clock.
    """

    id: str
    client: str
    shape: RequestShape
    missing: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)


class Turns:
    """Waiting requests by client, taken round robin."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Request]] = OrderedDict()
        self._changed, self._quiet = asyncio.Event(), asyncio.Event()
        self._quiet.set()
        self._quiet_since = self._last_seconds = 0.0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def add(self, request: Request) -> None:
        """Let a request wait behind the others of its client."""
        self._waiting.setdefault(request.client, deque()).append(request)
        self._changed.set()

    def put_back(self, requests: Sequence[Request]) -> None:
        """Let requests that were taken be the next ones, in this order."""
        for request in reversed(requests):
            self._waiting.setdefault(request.client, deque()).appendleft(request)
            self._waiting.move_to_end(request.client, last=False)

    def remove(self, request_id: str) -> None:
        """Forget a request, if it waits."""
        for client, queue in list(self._waiting.items()):
            for request in [request for request in queue if request.id == request_id]:
                queue.remove(request)
            if not queue:
                del self._waiting[client]

    def clear(self) -> list[Request]:
        """Forget all, and the run that was under way; returns those that waited."""
        self.runs_ended(0.0)
        all_of_them = [request for queue in self._waiting.values() for request in queue]
        self._waiting.clear()
        return all_of_them

    async def next(self) -> Request:
        """The first request of the client whose turn it is; that client is last from now on."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        return self._take(next(iter(self._waiting)))

    def run_begins(self) -> None:
        """Note that a run is under way."""
        self._quiet.clear()

    def runs_ended(self, seconds: float) -> None:
        """Note that no run is under way any more; the last one took so long."""
        self._quiet.set()
        self._quiet_since, self._last_seconds = time.monotonic(), seconds

    async def together(self, batching: Batching) -> list[Request]:
        """The request whose turn it is, and those of its size that wait, or come soon enough after it.

        While a run is under way, one that could take more waits for its end: one run of many costs less than several of
        few. And then once more, in which those come who have just been answered: for the waiting time, or a tenth of
        what the run took.
        """
        first = await self.next()
        # A conversation's cache is its own.
        most = 0 if first.shape.conversation else batching.most(first.shape.rows, first.shape.length) - 1
        others = self.like(first, most)
        while len(others) < most:
            self._changed.clear()
            again = self._quiet_since + max(batching.wait_seconds, self._last_seconds / 10)
            left = max(first.since + batching.wait_seconds, again) - time.monotonic()
            if not self._quiet.is_set():
                await self._first_of(self._quiet, self._changed)
            elif left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)
            else:
                break
            others += self.like(first, most - len(others))
        return [first, *others]

    async def _first_of(self, *events: asyncio.Event) -> None:
        waiting = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def like(self, first: Request, most: int) -> list[Request]:
        """Up to so many more of the same size, one of each client in turn; those clients are last from now on."""
        found: list[Request] = []
        while len(found) < most:
            ready = [client for client, queue in self._waiting.items() if queue[0].shape == first.shape]
            if not ready:
                break
            found += [self._take(client) for client in ready[: most - len(found)]]
        return found

    def _take(self, client: str) -> Request:
        queue = self._waiting.pop(client)
        request = queue.popleft()
        if queue:
            self._waiting[client] = queue
        return request
