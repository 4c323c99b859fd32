"""Which requests are next: every client in its turn, and with the first those that can share its run."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from secformer_jax.cluster.deployment import RequestShape
from secformer_jax.cluster.options import Batching


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
        self._changed = asyncio.Event()

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
        """Forget all; returns them."""
        all_of_them = [request for queue in self._waiting.values() for request in queue]
        self._waiting.clear()
        return all_of_them

    async def next(self) -> Request:
        """The first request of the client whose turn it is; that client is last from now on."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        return self._take(next(iter(self._waiting)))

    async def together(self, batching: Batching, quiet: asyncio.Event) -> list[Request]:
        """The request whose turn it is, and those of its size that wait, or come soon enough after it.

        Args:
            batching: how many share a run, and how long the first waits for others.
            quiet: set while no run is under way. Until then a run that could take more waits for them: one run of
                many costs less than several of few.
        """
        first = await self.next()
        most = batching.most(first.shape.rows, first.shape.length) - 1
        others = self.like(first, most)
        left = first.since + batching.wait_seconds - time.monotonic()
        if most > len(others) and left > 0:
            await asyncio.sleep(left)
            others += self.like(first, most - len(others))
        while most > len(others) and not quiet.is_set():
            self._changed.clear()
            waiting = [asyncio.ensure_future(event.wait()) for event in (quiet, self._changed)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()
            others += self.like(first, most - len(others))
        return [first, *others]

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
