"""A computing server's supervisor as an HTTP server: the owner publishes to it, clients ask it, the others meet it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from secformer_jax.cluster import transcript
from secformer_jax.cluster.clients.material import MaterialClient
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.memory import keep_memory_private
from secformer_jax.cluster.party import arrival, identity
from secformer_jax.cluster.party.allowance import Allowance
from secformer_jax.cluster.party.coordinator import Coordinator
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.node import Node, RefusedError
from secformer_jax.cluster.party.peers import HEARTBEAT_SECONDS, follow
from secformer_jax.cluster.party.publishing import Publishing
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.http import Server, application, peer_of, question, until_stopped
from secformer_jax.cluster.wire.message import Header, Message, MessageError
from secformer_jax.cluster.wire.paths import (
    ACTIVATE_PATH,
    CLOSE_PATH,
    INFER_PATH,
    PEER_PATH,
    PUBLISH_PATH,
    STATEMENT_PATH,
    STATUS_PATH,
)
from secformer_jax.cluster.wire.revocation import Revoked
from secformer_jax.errors import UserError

log = logging.getLogger(__name__)

DRAIN_SECONDS = 25


class PartyServer:
    """One computing party's supervisor.

    Args:
        cluster: who takes part.
        name: this party.
        folder: for what has to stay.
    """

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        self.cluster, self.name, self.folder = cluster, name, folder
        self.metrics = PartyMetrics()
        self._material = MaterialClient(cluster, name) if cluster.dealer else None
        self.node = Node(cluster, name, folder, self.metrics, self._material)
        self.coordinator = Coordinator(self.node, folder) if cluster.rank(name) == 0 else None
        self._leader: web.WebSocketResponse | None = None
        self._draining = False
        self._quota, self._signer = arrival.Quota(), identity.Signer(cluster.tls(name))
        self._numbers = arrival.Numbers()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._allowance = Allowance(folder / "answers.json", cluster.options.answers)
        self._publishing = Publishing(cluster, self.node, self.coordinator, self._material, self.metrics)
        self.metrics.waiting.set_function(lambda: self.waiting)

    def application(self) -> web.Application:
        """All its routes."""
        routes = [
            web.post(PUBLISH_PATH, self._publishing.publish),
            web.post(ACTIVATE_PATH, self._publishing.activate),
            web.post(INFER_PATH, self._infer),
            web.post(CLOSE_PATH, self._close),
            web.get(STATUS_PATH, self._status),
            web.post(STATEMENT_PATH, self._state),
            web.get(PEER_PATH, self._follow),
        ]
        roles, operators = self.cluster.roles, self.cluster.operators
        registry, revoked = self.metrics.registry, Revoked(self.cluster.tls(self.name).ca)
        return application(routes, roles, operators=operators, registry=registry, health=self._health, revoked=revoked)

    @property
    def state(self) -> str:
        """In words."""
        if self._draining:
            return "stopping"
        if self.coordinator is not None:
            return self.coordinator.state
        leader = self.cluster.parties[0]
        return "connected" if self._leader is not None else f"waiting for {leader}"

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self.coordinator.waiting if self.coordinator else len(self.node.inputs)

    def _health(self) -> dict[str, Any]:
        return {"role": self.name, "state": self.state}

    async def _status(self, request: web.Request) -> web.Response:
        """What is served, for everybody; how much it is used, for operators."""
        deployment = self.node.deployment
        found = {
            **self._health(),
            "protocol": self.cluster.protocol,
            "model": None if deployment is None else deployment.name,
            "description": None if deployment is None else deployment.to_json(),
        }
        if peer_of(request, self.cluster.roles) in self.cluster.operators:
            worker = self.node.worker.pid if self.node.worker else None
            found |= {"waiting": self.waiting, "worker": worker, "counts": self.metrics.values()}
        answer = web.json_response(found)
        # A description's series are up to hundreds of kilobytes of digits.
        answer.enable_compression()
        return answer

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        """A client's share of an input; the answer is this party's share of its logits."""
        client, number = peer_of(request, self.cluster.clients), "?"
        try:
            with self._quota.request(client):
                header = await arrival.read_header(request.content)
                number, shape = self._admit(client, header)
                with self._quota.input(client, sum(header.sizes)):
                    message = await arrival.read_payload(request.content, header)
                    self.metrics.received.labels("clients").inc(sum(header.sizes))
                    # Shares may take minutes to arrive, and another model be served by then.
                    self._admit(client, header)
                    arrived = self._arrive(client, number, self._own(client, shape), message)
                    while not (await asyncio.wait({arrived.answer}, timeout=1))[0]:
                        if request.transport is None or request.transport.is_closing():
                            self._gone(number)
            result = arrived.answer.result()
            facts = {"client": client, "request": number.partition("/")[2], **shape.fields()}
            facts |= {**arrived.used, "input": await asyncio.to_thread(transcript.digest, message)}
            result.fields["receipt"] = self._signed(transcript.RECEIPT, facts)
        except (MessageError, UserError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        except arrival.BusyError as error:
            raise web.HTTPTooManyRequests(text=f"{error}\n") from None
        except RefusedError as error:
            log.warning("not answered", extra={"request": number, "peer": client, "reason": str(error)})
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from None
        body = b"".join(result.pack())
        self.metrics.sent.labels("clients").inc(len(body))
        return web.Response(body=body)

    def _admit(self, client: str, header: Header) -> tuple[str, RequestShape]:
        """A request's number, which is this client's own, and its size."""
        number, shape = self._admission().check(header)
        return f"{client}/{number}", shape

    def _own(self, client: str, shape: RequestShape) -> RequestShape:
        """The same by the servers' own name for a client's conversation."""
        if not shape.conversation:
            return shape
        return dataclasses.replace(shape, conversation=self.node.own_name(client, shape.conversation))

    def _admission(self) -> arrival.Admission:
        admission = self.node.admission
        if self._draining:
            raise RefusedError(f"{self.name} is stopping")
        if admission is None or (self.coordinator is None and self._leader is None):
            raise RefusedError(f"{self.name} serves no model now: {self.state}")
        return admission

    async def _state(self, request: web.Request) -> web.Response:
        """What this party puts its name to before a client sends anything."""
        client = peer_of(request, self.cluster.clients)
        try:
            nonce, deployment, shape = await arrival.read_question(request.content)
            self._admission().check_size(deployment, shape)
        except RefusedError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from None
        except (MessageError, UserError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        facts = {"client": client, "nonce": nonce, **shape.fields(), **self.node.facts(shape)}
        return web.json_response(self._signed(transcript.STATEMENT, facts))

    def _signed(self, kind: str, facts: dict[str, Any]) -> dict[str, str]:
        return transcript.signed(self._signer, kind, {"party": self.name, **facts})

    def _arrive(self, client: str, number: str, shape: RequestShape, message: Message) -> arrival.Arrived:
        if self.node.has(number) or not self._numbers.take(number):
            raise UserError("a request of this number has been here: each has a number of its own")
        if shape.conversation:
            self.node.rooms.enter(client, shape)
        arrived = arrival.Arrived(client, shape, message, asyncio.get_running_loop().create_future())
        try:
            self._allowance.take(client, shape.rows)
        except (UserError, OSError):  # nothing left, or its count can't be written
            self.node.rooms.leave(shape.conversation)
            raise
        self.node.inputs[number] = arrived
        fields = {"party": self.name, "request": number, "client": client, **shape.fields()}
        self.node.notify("arrived", fields)
        return arrived

    async def _close(self, request: web.Request) -> web.Response:
        """A client's conversation is over: its cache goes."""
        client = peer_of(request, self.cluster.clients)
        conversation = self.node.own_name(client, (await question(request)).token("conversation"))
        if self.node.rooms.end_soon(conversation):
            self.node.notify("ended", {"conversation": conversation})
        return web.json_response({})

    def _gone(self, number: str) -> None:
        """A client that has hung up: what waits is forgotten, and what is computed goes on, for the others' sake."""
        if number in self.node.inputs:
            self.node.fail(number, "the client is gone")
            self.node.notify("gone", {"request": number})

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """The coordinator's WebSocket; a new one takes the place of the old."""
        leader = self.cluster.parties[0]
        peer_of(request, [leader])
        if self.coordinator is not None:
            raise web.HTTPBadRequest(text=f"{self.name} is the coordinator\n")
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=1 << 24)
        await socket.prepare(request)
        old, self._leader = self._leader, socket
        if old is not None:
            await old.close()
        try:
            await follow(socket, self.node, leader)
        finally:
            if self._leader is socket:
                self._leader = None
        return socket

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; the request under way is answered first.

        Raises:
            UserError: TLS files that can't be used, an address that is taken, or a dealer that was caught.
        """
        keep_memory_private()
        address = self.cluster.control[self.name]
        server = Server(self.application(), address, tls.server_context(self.cluster.tls(self.name)))
        try:
            await server.start()
        except OSError as error:
            raise UserError(
                f"{self.name} can't listen on {address} ({error.strerror}): is it running already?"
            ) from None
        log.info("listening", extra={"address": str(address)})
        ordering = asyncio.create_task(self.coordinator.run()) if self.coordinator else None
        stopped = asyncio.create_task(until_stopped())
        await asyncio.wait({stopped, *([ordering] if ordering else [])}, return_when=asyncio.FIRST_COMPLETED)
        log.info("draining", extra={"count": len(self.node.inputs)})
        self._draining = True
        ends = time.monotonic() + DRAIN_SECONDS
        while (self.node.inputs or self.node.busy) and time.monotonic() < ends:
            await asyncio.sleep(0.1)
        if ordering is not None and self.coordinator is not None:
            ordering.cancel()
            await asyncio.gather(ordering, return_exceptions=True)
            await self.coordinator.close()
        await self.node.close(f"{self.name} has stopped")
        if self._leader is not None:
            await self._leader.close()
        if self._material is not None:
            await self._material.close()
        with contextlib.suppress(aiohttp.ClientError):
            await server.close()
        log.info("stopped")
        if ordering is not None and not ordering.cancelled() and (caught := ordering.exception()) is not None:
            raise UserError(str(caught))
