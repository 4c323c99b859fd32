"""Which request is next: every client in its turn, whatever the others have waiting."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from secformer_jax.cluster.deployment import RequestShape


@dataclass
class Request:
    """One request as the servers agree on it; `missing` names the servers that have no share of its input yet."""

    id: str
    client: str
    shape: RequestShape
    missing: set[str] = field(default_factory=set)


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
        client, queue = self._waiting.popitem(last=False)
        request = queue.popleft()
        if queue:
            self._waiting[client] = queue
        return request
