"""The first party's second task: to order sessions and requests so that all parties do the same at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from pathlib import Path
from typing import Any

import aiohttp

from secformer_jax.cluster.party.arrival import input_bytes, payload_seconds
from secformer_jax.cluster.party.dealer_watch import until_gone, until_there
from secformer_jax.cluster.party.lane import CheatedError
from secformer_jax.cluster.party.node import Fields, Node, RefusedError
from secformer_jax.cluster.party.peers import LocalMember, LostError, Member, RemoteMember
from secformer_jax.cluster.party.runs import Runs
from secformer_jax.cluster.party.scheduling import Request, Turns
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.message import Message

log = logging.getLogger(__name__)

ARRIVAL_SECONDS = 25.0
CONNECTED_SECONDS = 60.0
PAUSE_SECONDS = 1.0
LOOK_SECONDS = 15.0


class Coordinator:
    """Keeps a session running and takes requests in turn.

    Args:
        node: this party's own supervisor.
        folder: for the name of the published model.
    """

    def __init__(self, node: Node, folder: Path) -> None:
        self._node, self._cluster, self._current = node, node.cluster, folder / "current.json"
        self._remote = [RemoteMember(name, self._event) for name in self._cluster.parties if name != node.name]
        by_name: dict[str, Member] = {member.name: member for member in self._remote}
        self._members = [by_name.get(name) or LocalMember(node) for name in self._cluster.parties]
        self._turns, self._arriving = Turns(), dict[str, Request]()
        self._lost: asyncio.Future[str] | None = None
        self._ready, self._ended = asyncio.Event(), asyncio.Event()
        self._cheated: CheatedError | None = None
        self._told: set[asyncio.Task] = set()
        self.state = "starting"
        node.notify = self._event

    @property
    def waiting(self) -> int:
        """Requests that are not being computed yet."""
        return len(self._turns)

    def deployment(self) -> str | None:
        """The name of the published model."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads(self._current.read_text())["deployment"]
        return None

    async def activate(self, deployment: str) -> None:
        """Serve another publication from now on; returns when it is served.

        Raises:
            RefusedError: a party has not got all of it; what was served before stays.
            LostError: a party is not there.
        """
        if self._serves(deployment):
            return
        ends = time.monotonic() + CONNECTED_SECONDS
        while not all(member.connected for member in self._remote) and time.monotonic() < ends:
            await asyncio.sleep(0.2)
        await self._all("has", {"deployment": deployment})
        partial = self._current.with_name(self._current.name + ".partial")
        partial.write_text(json.dumps({"deployment": deployment}))
        partial.replace(self._current)
        self._ready.clear()
        self._break("another model is published")
        while not self._serves(deployment):
            await self._ready.wait()
            await asyncio.sleep(0.05)

    def _serves(self, deployment: str) -> bool:
        served = self._node.deployment
        return self._ready.is_set() and served is not None and served.name == deployment

    def _event(self, kind: str, fields: Fields) -> None:
        if kind == "lost" and fields.get("session") in (None, self._node.session):
            self._break(fields["text"])
        elif kind == "arrived":
            self._arrived(**fields)
        elif kind == "ended":
            self._node.rooms.end_soon(fields["conversation"])
            self._ended.set()
        elif kind == "gone":
            self._turns.remove(fields["request"])
            self._arriving.pop(fields["request"], None)
            self._tell("fail", {"request": fields["request"], "text": "the client is gone"})

    def _break(self, text: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(text)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, CheatedError):
            log.critical("stopped", extra={"reason": str(error)})
            self._cheated = error
        elif not isinstance(error, LostError):
            log.error("an error of this program", exc_info=error)
        self._break(str(error))

    def _arrived(self, party: str, request: str, client: str, **size: Any) -> None:
        """A party has its share of an input; when all have, the request waits for its turn."""
        fresh, shape = request not in self._arriving, RequestShape.read(Message("arrived", size))
        entry = self._arriving.setdefault(request, Request(request, client, shape, set(self._cluster.parties)))
        if fresh:
            deployment = self._node.deployment
            # One party gets keys, and another may still get whole arrays, over a slow line.
            longest = payload_seconds(input_bytes(deployment, shape) if deployment else 0)
            asyncio.get_running_loop().call_later(ARRIVAL_SECONDS + longest, self._overdue, entry)
        if (entry.client, entry.shape) != (client, shape):
            return
        entry.missing.discard(party)
        if not entry.missing:
            del self._arriving[request]
            self._turns.add(entry)

    def _overdue(self, entry: Request) -> None:
        """Another request may have come under this number since."""
        if self._arriving.get(entry.id) is entry:
            del self._arriving[entry.id]
            missing = ", ".join(sorted(entry.missing))
            self._tell("fail", {"request": entry.id, "text": f"{missing} did not get its share of the input"})

    def _tell(self, kind: str, fields: Fields) -> None:
        """Say something to all parties that are there, without waiting."""

        async def tell(member: Member) -> None:
            with contextlib.suppress(LostError, RefusedError):
                await member.call(kind, fields)

        for member in self._members:
            task = asyncio.create_task(tell(member))
            self._told.add(task)
            task.add_done_callback(self._told.discard)

    async def run(self) -> None:
        """Sessions, one after the other, until the process ends.

        Raises:
            CheatedError: the dealer was caught.
        """
        context = tls.client_context(self._cluster.tls(self._node.name))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            while self._cheated is None:
                await self._session(http)
        raise self._cheated

    async def _session(self, http: aiohttp.ClientSession) -> None:
        self._lost = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(self._serve(http))
        try:
            waited: set[asyncio.Future[Any]] = {serving, self._lost}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            error = serving.exception() if serving.done() else None
            if error is not None:
                self._failed(error)
            text = self._lost.result()
        finally:
            self._ready.clear()
            self._node.metrics.ready.set(0)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        log.warning("session ended", extra={"reason": text})
        self.state = f"starting again: {text}"
        self._arriving.clear()
        self._turns.clear()
        closing = (self._quietly(member, "close", {"text": text}) for member in self._members)
        await asyncio.gather(*closing)
        await asyncio.sleep(PAUSE_SECONDS)

    async def close(self) -> None:
        """Leave the other parties."""
        for member in self._remote:
            await member.close()

    async def _quietly(self, member: Member, kind: str, fields: Fields) -> None:
        with contextlib.suppress(LostError, RefusedError, asyncio.TimeoutError):
            await asyncio.wait_for(member.call(kind, fields), 15)

    async def _serve(self, http: aiohttp.ClientSession) -> None:
        dealer, tasks = None, list[asyncio.Task[None]]()
        try:
            if self._cluster.dealer is not None:
                self.state = "waiting for the dealer"
                await until_there(http, self._cluster)
                dealer = asyncio.create_task(self._watch_dealer(http))
            for member in self._remote:
                if not member.connected:
                    self.state = f"waiting for {member.name}"
                    await member.connect(http, self._cluster.control[member.name])
            self.state = "starting"
            await self._start()
            lanes, batching, metrics = (
                self._cluster.options.runs_in_flight,
                self._cluster.options.batching,
                self._node.metrics,
            )
            runs = Runs(self._turns, self._all, lanes, batching, metrics, self._next, self._failed)
            tasks = [asyncio.create_task(each) for each in (runs.serve(), self._end_conversations(runs))]
            # Neither ends by itself.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if dealer is not None:
                dealer.cancel()

    def _next(self, shape: RequestShape) -> RequestShape | None:
        return None if self._node.deployment is None else self._node.deployment.next(shape)

    async def _end_conversations(self, runs: Runs) -> None:
        """Those that clients end, and those that have been idle too long."""
        rooms = self._node.rooms
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), LOOK_SECONDS)
            self._ended.clear()
            for conversation in rooms.over():
                with contextlib.suppress(RefusedError):
                    await runs.end(conversation)

    async def _start(self) -> None:
        opened = await self._all("open", {"session": secrets.token_hex(16), "deployment": self.deployment()})
        certificates = {
            member.name: answer["certificate"] for member, answer in zip(self._members, opened, strict=True)
        }
        options = self._cluster.options
        chosen = {"lanes": options.runs_in_flight, "audits": options.audits}
        await self._all("start", {"certificates": certificates, **chosen})
        self._node.metrics.sessions.inc()
        self.state = "ready" if self._node.deployment else "ready; no model is published"
        self._node.metrics.ready.set(1)
        self._ready.set()
        log.info("ready", extra={"count": len(self._members)})

    async def _watch_dealer(self, http: aiohttp.ClientSession) -> None:
        await until_gone(http, self._cluster)
        self._break("the dealer is gone")

    async def _all(self, kind: str, fields: Fields) -> list[Fields]:
        """The same command to all parties at once; the first error ends the wait."""
        calls = [asyncio.create_task(member.call(kind, fields)) for member in self._members]
        try:
            if kind == "claim":
                # All parties answer: what one has taken, it has to give up again.
                answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
                for answer in answers:
                    if isinstance(answer, BaseException):
                        raise answer
                return answers
            return await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
