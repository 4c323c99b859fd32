"""One server's supervisor: its worker, its sealed weights, and the inputs that wait for their turn.

It does what the coordinator (the first party's supervisor) says, in that order, and answers its own clients.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from secformer_jax.cluster.clients.material import ForgottenError, MaterialClient
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.party import identity
from secformer_jax.cluster.party.arrival import Admission, Arrived
from secformer_jax.cluster.party.joining import joined, parted
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.process import WorkerError, WorkerProcess
from secformer_jax.cluster.party.rooms import Rooms, own_name
from secformer_jax.cluster.party.shelf import Shelf
from secformer_jax.cluster.party.starting import start_message, write_link_files
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire.message import Message
from secformer_jax.errors import UserError

log = logging.getLogger(__name__)

Fields = dict[str, Any]
START_SECONDS = 180
COMMANDS = ("has", "open", "start", "compile", "claim", "prepare", "audit", "run", "release", "fail", "end", "close")
WORKERS_COMMANDS = ("drop", "forget", "rehearse")
"""See `computing.Computing`."""


NO_INPUT = "what was sent is no text: its rows are not one-hot, or their proof is another's; nothing was answered"


class RefusedError(RuntimeError):
    """One request can't be served; the session goes on."""


class Node:
    """The supervisor's state and its commands.

    Args:
        cluster: who takes part.
        name: this party.
        folder: for what has to stay: the sealed weights.
        notify: tells the coordinator of an event.
    """

    def __init__(
        self, cluster: Cluster, name: str, folder: Path, metrics: PartyMetrics, material: MaterialClient | None
    ) -> None:
        self.cluster, self.name, self.metrics = cluster, name, metrics
        self._folder, self._material, self._files = folder, material, cluster.tls(name)
        self.shelf = Shelf(folder, name, self._files)
        self.notify: Callable[[str, Fields], None] = lambda kind, fields: None
        self.deployment: Published | None = None
        self.session = ""
        self.inputs: dict[str, Arrived] = {}
        self._running: dict[str, Arrived] = {}
        self._results: dict[str, Message | RefusedError] = {}
        self._programs: dict[RequestShape, str] = {}
        self._pieces: dict[int, str] = {}
        self.rooms, self._begun = Rooms(), set[str]()
        self._link: list[str] = []
        self.admission: Admission | None = None
        self.worker: WorkerProcess | None = None
        self._watch: asyncio.Task | None = None
        self.commands: dict[str, Callable[[Fields], Awaitable[Fields]]] = {
            name: getattr(self, f"_{name}") for name in COMMANDS
        }
        self.commands |= {name: functools.partial(self._tell_worker, name) for name in WORKERS_COMMANDS}

    def facts(self, shape: RequestShape) -> Fields:
        """What this party knows of the present session, for `transcript`."""
        program, link = self._programs.get(shape.size), [hashlib.sha256(pem.encode()).hexdigest() for pem in self._link]
        name = None if self.deployment is None else self.deployment.name
        return {"session": self.session, "model": name, "link": link, "program": program}

    @property
    def busy(self) -> bool:
        """Whether a client's input is being computed on."""
        return bool(self._running)

    def own_name(self, client: str, conversation: str) -> str:
        """See `rooms.own_name`."""
        return own_name(self.session, client, conversation)

    def has(self, request: str) -> bool:
        """Whether an input of this number waits or is computed on."""
        return request in self.inputs or request in self._running

    async def _open(self, fields: Fields) -> Fields:
        """A new session: end the old one's worker, and make a certificate for the link."""
        await self.close("a new session begins")
        self.session, name = str(fields["session"]), fields["deployment"]
        self._programs, self._pieces, self._link = {}, {}, []
        self.rooms, self._begun = Rooms(), set()
        self.deployment = None if name is None else self.shelf.deployment(name)
        certificate, self._link_key = identity.session_certificate(self.name)
        self._link_certificate = certificate
        self.worker = WorkerProcess(self._folder / "worker")
        await self.worker.spawn()
        self._watch = asyncio.create_task(self._miss(self.worker))
        return {"certificate": certificate.decode()}

    async def _miss(self, worker: WorkerProcess) -> None:
        await worker.ended.wait()
        if worker is self.worker:
            self.notify("lost", {"session": self.session, "text": f"{self.name}: its computing process ended"})

    async def _start(self, fields: Fields) -> Fields:
        """Have the worker meet the others and load the weights."""
        worker = self._present()
        audits = self.cluster.options.audits
        if fields["audits"] != audits:
            raise WorkerError(
                f'{self.name}: "audits" is {audits} in its cluster file, and {fields["audits"]} elsewhere'
            )
        certificates = {party: str(fields["certificates"][party]) for party in self.cluster.parties}
        if certificates[self.name] != self._link_certificate.decode():
            raise WorkerError(f"{self.name}: another certificate of this server is passed on than it made")
        self._link, deployment = list(certificates.values()), self.deployment
        link_tls = write_link_files(self._folder / "worker", self.name, certificates, self._link_key)
        session = {"session": self.session, "certificates": certificates, "lanes": fields["lanes"]}
        message = start_message(self.cluster, self.name, self.shelf, deployment, {**session, "link_tls": link_tls})
        answer = await asyncio.wait_for(self._call(message, worker), START_SECONDS)
        if deployment is not None:
            self.admission = Admission(deployment, self.cluster, self.cluster.rank(self.name))
            self.shelf.forget_before(deployment.name)
        return answer.fields

    async def _has(self, fields: Fields) -> Fields:
        """Whether a publication is whole here."""
        if not self.shelf.weights(fields["deployment"]).is_file():
            raise RefusedError(f"{self.name} has no shares of this model: publish it again")
        return {}

    async def _compile(self, fields: Fields) -> Fields:
        """Compile for a shape."""
        answer = await self._call(Message("compile", _addressed(fields)), self._present())
        self._programs[_shape(fields).size] = answer.fields["program"]
        return {"needs_material": answer.fields["needs_material"]}

    async def _claim(self, fields: Fields) -> Fields:
        """Take a client's input out of those that wait; it has to be this client's, and of this size."""
        arrived = self.inputs.get(fields["request"])
        if arrived is None:
            raise RefusedError(f"{self.name} no longer has its share of the input")
        if arrived.client != fields["client"] or arrived.shape != _shape(fields):
            raise RefusedError(f"{self.name} was sent another request under this number")
        self._running[fields["request"]] = self.inputs.pop(fields["request"])
        return {}

    async def _prepare(self, fields: Fields) -> Fields:
        """Give one piece of material to the worker as it comes from the dealer, and run what needs no input."""
        worker, deployment = self._present(), self.deployment
        if self._material is None or deployment is None:
            raise UserError("this model needs a dealer, and the cluster has none")
        shape = _shape(fields)
        if shape.conversation and shape.conversation not in self._begun:
            self._begun.add(shape.conversation)
            async for message in self._material.masks(deployment, shape.conversation):
                await worker.send(Message("masks", {**message.fields, **_addressed(fields)}, message.chunks).pack())
        try:
            async for message in self._material.fetch(deployment, shape, fields["piece"]):
                parts = Message("material", {**message.fields, **_addressed(fields)}, message.chunks).pack()
                self.metrics.received.labels("dealer").inc(sum(memoryview(part).nbytes for part in parts))
                await worker.send(parts)
        except ForgottenError as error:
            self.rooms.end_soon(shape.conversation)
            raise RefusedError(str(error)) from None
        answer = await self._call(Message("prepare", _addressed(fields)), worker)
        self._pieces[fields["lane"]] = fields["piece"]
        return self._cost(answer) | {"audit": answer.fields["audit"]}

    async def _audit(self, fields: Fields) -> Fields:
        """Look at how a piece was dealt that is used for nothing else."""
        assert self._material is not None
        worker = self._present()
        try:
            seed = await self._material.reveal(fields["piece"])
        except UserError as error:
            raise WorkerError(f"{self.name} can't see how material was dealt: {error}") from None
        answer = await self._call(Message("audit", _addressed(fields), [seed]), worker)
        return {"holds": answer.fields["holds"]}

    async def _tell_worker(self, kind: str, fields: Fields) -> Fields:
        """What the worker does with a program by itself."""
        await self._call(Message(kind, _addressed(fields)), self._present())
        return {}

    async def _run(self, fields: Fields) -> Fields:
        """Compute on claimed inputs in one run; its shares of the results wait for `release`."""
        worker, requests = self._present(), fields["requests"]
        if _shape(fields).conversation:
            self.rooms.use(_shape(fields))
        messages = [self._running[request].message for request in requests]
        answer = await self._call(await asyncio.to_thread(joined, messages, _addressed(fields)), worker)
        used = self.facts(_shape(fields)) | {"piece": self._pieces.pop(fields["lane"], None)}
        for request in requests:
            self._running[request].used = used
        rows = self._running[requests[0]].shape.rows
        wrong = {row // rows for row in answer.fields["wrong"]}
        # What lies behind the last request is nobody's.
        for i, (request, part) in enumerate(zip(requests, parted(answer, fields["rows"] // rows), strict=False)):
            self._results[request] = RefusedError(NO_INPUT) if i in wrong else part
        return self._cost(answer)

    def _cost(self, answer: Message) -> Fields:
        cost = {key: answer.fields[key] for key in ("seconds", "send_bytes", "send_actions")}
        self.metrics.sent.labels("link").inc(cost["send_bytes"])
        return cost

    async def _release(self, fields: Fields) -> Fields:
        """All parties have computed: answer the clients, each with its own part; says whose input was none."""
        refused = []
        for request in fields["requests"]:
            answer = self._results.pop(request)
            if isinstance(answer, RefusedError):
                refused.append(request)
                # Its cache holds now what is no token: the logits of another pass would tell of it.
                self.rooms.end_soon(self._running[request].shape.conversation)
                self.fail(request, str(answer))
                continue
            arrived = self._running.pop(request)
            self.rooms.leave(arrived.shape.conversation)
            if not arrived.answer.done():
                arrived.answer.set_result(answer)
            self.metrics.requests.labels("answered").inc()
        return {"refused": refused}

    async def _fail(self, fields: Fields) -> Fields:
        """Tell a client that its request is not answered."""
        self.fail(fields["request"], fields["text"])
        return {}

    def fail(self, request: str, text: str) -> None:
        """Answer a request with an error, wherever it is."""
        self._results.pop(request, None)
        arrived = self.inputs.pop(request, None) or self._running.pop(request, None)
        if arrived is not None:
            self.rooms.leave(arrived.shape.conversation)
            self.metrics.requests.labels("failed").inc()
            if not arrived.answer.done():
                arrived.answer.set_exception(RefusedError(text))

    async def _end(self, fields: Fields) -> Fields:
        """Forget a conversation."""
        self.rooms.end(fields["conversation"])
        self._begun.discard(fields["conversation"])
        await self._call(Message("end", {"conversation": fields["conversation"], "lane": 0}), self._present())
        return {}

    async def _close(self, fields: Fields) -> Fields:
        await self.close(fields["text"])
        return {}

    async def close(self, text: str) -> None:
        """End the session: the worker goes, and what waited here is answered with an error."""
        worker, self.worker = self.worker, None
        if self._watch is not None:
            self._watch.cancel()
        self.admission = None
        for request in [*self._running, *self.inputs]:
            self.fail(request, f"{text}: nothing was answered, send it again")
        if worker is not None:
            log.warning("session over", extra={"reason": text})
            await worker.kill()

    def _present(self) -> WorkerProcess:
        """The session's worker. A command keeps to the one that it began with: the next session has another."""
        if self.worker is None:
            raise WorkerError("there is no session")
        return self.worker

    async def _call(self, message: Message, worker: WorkerProcess) -> Message:
        if worker is not self.worker:
            raise WorkerError(f"{self.name}: the session is over")
        try:
            return await worker.call(message.pack(), message.fields.get("lane", 0))
        except WorkerError as error:
            raise WorkerError(f"{self.name}: {error}") from None


def _shape(fields: Fields) -> RequestShape:
    return RequestShape.read(Message("command", fields))


def _addressed(fields: Fields) -> Fields:
    """What tells the worker which program, on which lane."""
    return {**_shape(fields).fields(), "lane": fields["lane"]}
