"""The coordinator's view of the parties: its own supervisor, and the others over one WebSocket each.

A command is {"id", "kind", "fields"}; its answer {"id", "fields"}, or {"id", "error", "refused"}. An event is {"event",
"fields"} and has no answer. The socket itself tells that the other supervisor lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from secformer_jax.cluster.config import Address
from secformer_jax.cluster.party.node import Fields, Node, RefusedError
from secformer_jax.cluster.party.process import WorkerError
from secformer_jax.cluster.wire.paths import PEER_PATH
from secformer_jax.errors import UserError

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
"""Half as long again without an answer, and a party is gone: a busy machine takes seconds for one."""
RETRY_SECONDS = 0.5
MAX_TEXT = 1 << 24

FAILURES = (WorkerError, UserError, asyncio.TimeoutError, OSError, LookupError, AssertionError, TypeError, ValueError)
"""What ends a session when a command meets it."""


class LostError(RuntimeError):
    """The session can't go on: a party, a worker or the dealer is gone."""


class Member(Protocol):
    """One computing party, as the coordinator uses it."""

    name: str

    async def call(self, kind: str, fields: Fields) -> Fields:
        """Have it carry out a command of `Node`.

        Raises:
            RefusedError: the command concerns one request, which can't be served.
            LostError: anything else went wrong.
        """


class LocalMember:
    """The coordinator's own party."""

    def __init__(self, node: Node) -> None:
        self.name, self._node = node.name, node

    async def call(self, kind: str, fields: Fields) -> Fields:
        """See Member."""
        try:
            return await carry_out(self._node, kind, fields)
        except RefusedError:
            raise
        except FAILURES as error:
            raise LostError(told(self.name, error)) from None


class RemoteMember:
    """Another party, while its WebSocket is open.

    Args:
        name: the party.
        event: called with (kind, fields) for what it tells unasked.
    """

    def __init__(self, name: str, event: Callable[[str, Fields], None]) -> None:
        self.name, self._event = name, event
        self._socket: aiohttp.ClientWebSocketResponse[bool] | None = None
        self._ids, self._waiting = itertools.count(), dict[int, asyncio.Future[Fields]]()

    async def connect(self, http: aiohttp.ClientSession, address: Address) -> None:
        """Open the WebSocket; waits until the party is there, and says so while it waits."""
        waited = 0.0
        while self._socket is None or self._socket.closed:
            try:
                self._socket = socket = await http.ws_connect(
                    f"https://{address}{PEER_PATH}",
                    server_hostname=self.name,
                    heartbeat=HEARTBEAT_SECONDS,
                    max_msg_size=MAX_TEXT,
                )
                self._reader = asyncio.create_task(self._read(socket))
                log.info("connected", extra={"party": self.name})
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                if waited % 10 == 0:
                    log.warning("waiting for a party", extra={"party": self.name, "reason": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                waited += RETRY_SECONDS

    @property
    def connected(self) -> bool:
        """Whether the WebSocket is open."""
        return self._socket is not None and not self._socket.closed

    async def call(self, kind: str, fields: Fields) -> Fields:
        """See Member."""
        if self._socket is None or self._socket.closed:
            raise LostError(f"{self.name} is not connected")
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send_json({"id": number, "kind": kind, "fields": fields})
            return await answer
        except (ConnectionError, aiohttp.ClientError):
            raise LostError(f"{self.name} is gone") from None
        finally:
            self._waiting.pop(number, None)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            values = json.loads(message.data)
            if "event" in values:
                self._event(values["event"], values["fields"])
                continue
            answer = self._waiting.get(values["id"])
            if answer is None or answer.done():
                continue
            if "error" in values:
                answer.set_exception((RefusedError if values["refused"] else LostError)(values["error"]))
            else:
                answer.set_result(values["fields"])
        await socket.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(LostError(f"{self.name} is gone"))
        self._event("lost", {"text": f"{self.name} is gone"})

    async def close(self) -> None:
        """Close the WebSocket."""
        if self._socket is not None:
            await self._socket.close()


def told(name: str, error: BaseException) -> str:
    """What the others are told of a failure: words that were meant for them, or only its kind."""
    return (
        str(error) if isinstance(error, WorkerError | UserError | RefusedError) else f"{name}: {type(error).__name__}"
    )


async def carry_out(node: Node, kind: str, fields: Fields) -> Fields:
    """Run one of the node's commands."""
    if kind not in node.commands:
        raise UserError(f"{node.name} knows no command {kind!r}: install the same version everywhere")
    return await node.commands[kind](fields)


async def follow(socket: web.WebSocketResponse, node: Node, coordinator: str) -> None:
    """Carry out what the coordinator says until it is gone; then the session is over."""
    tasks: set[asyncio.Task] = set()
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    node.notify = lambda kind, fields: events.put_nowait({"event": kind, "fields": fields})

    async def tell() -> None:
        while True:
            await socket.send_json(await events.get())

    async def answer(number: int, kind: str, fields: Fields) -> None:
        try:
            reply: dict[str, Any] = {"fields": await carry_out(node, kind, fields)}
        except (*FAILURES, RefusedError) as error:
            reply = {"error": told(node.name, error), "refused": isinstance(error, RefusedError)}
        with contextlib.suppress(ConnectionError):
            await socket.send_json({"id": number, **reply})

    teller = asyncio.create_task(tell())
    try:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            values = json.loads(message.data)
            task = asyncio.create_task(answer(values["id"], values["kind"], values["fields"]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    finally:
        teller.cancel()
        for task in tasks:
            task.cancel()
        node.notify = lambda kind, fields: None
        log.warning("lost", extra={"party": coordinator, "reason": f"{coordinator} is gone"})
        await node.close(f"{coordinator} is gone")
