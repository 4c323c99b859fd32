"""A client: shares its input among the servers and adds up their shares of the logits. No server sees either."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secformer_jax.cluster import transcript
from secformer_jax.cluster.clients.channel import Servers
from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.party import identity
from secformer_jax.cluster.published import Published, read_description
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire.message import Message, MessageError, shares_of, unpack, with_shares
from secformer_jax.cluster.wire.paths import CLOSE_PATH, INFER_PATH, STATEMENT_PATH
from secformer_jax.errors import UserError
from secformer_jax.inference.texts import powers_of_two
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.runtime import one_hot
from secformer_jax.mpc.runtime.shares import Share, decode, expand, join, pack

SEEN_BYTES = 512
"""Of a share, to be looked at."""


@dataclass(frozen=True)
class Answer:
    """What the client learns, and what it cost.

    Attributes:
        logits: as `inference.Answer`.
        seconds: from the encoded input to the logits, as the client sees it.
        sent_bytes: by party: the share of the input.
        party: the first party's own figures for the online part: seconds, send_bytes, send_actions.
        transcript: what the servers have signed, see `cluster.transcript`.
        seen: by party, the beginning of the last share of an input that it was sent.
    """

    logits: np.ndarray
    seconds: float
    sent_bytes: tuple[int, ...]
    party: dict[str, float]
    transcript: tuple[dict[str, str], ...] = ()
    seen: tuple[bytes, ...] = ()

    @classmethod
    def joined(cls, answers: Sequence[Answer]) -> Answer:
        """Those of several requests, one after the other, as one."""
        return cls(
            np.concatenate([answer.logits for answer in answers]),
            sum(answer.seconds for answer in answers),
            tuple(map(sum, zip(*(answer.sent_bytes for answer in answers), strict=True))),
            {name: sum(answer.party[name] for answer in answers) for name in answers[0].party},
            tuple(each for answer in answers for each in answer.transcript),
            answers[-1].seen,
        )


class ClusterClient:
    """Asks a cluster for predictions; to be entered with `async with`.

    Args:
        cluster: where the servers are.
        role: this client's name in the cluster file.
    """

    def __init__(self, cluster: Cluster, role: str) -> None:
        self._cluster, self._role, self._servers = cluster, role, Servers(cluster, role)
        self._signer = identity.Signer(cluster.tls(role))
        self._bits = cluster.fraction_bits
        self._served: Deployment | None = None

    async def __aenter__(self) -> ClusterClient:
        await self._servers.__aenter__()
        return self

    async def __aexit__(self, *exception) -> None:
        await self._servers.__aexit__()

    async def deployment(self) -> Deployment:
        """The encoder that the servers serve; they have to agree on it.

        Raises:
            UserError: no model is served or another kind, or a server says another one than the others.
        """
        served = await self.published()
        if not isinstance(served, Deployment):
            raise UserError("this cluster serves a model that generates text: ask it with secformer generate")
        self._served = served
        return served

    async def decoder(self) -> DecoderDeployment:
        """The decoder that they serve; as `deployment`."""
        served = await self.published()
        if not isinstance(served, DecoderDeployment):
            raise UserError("this cluster serves an encoder, which generates no text: ask it with secformer infer")
        return served

    async def published(self) -> Published:
        """The model that they serve, of either kind; as `deployment`."""
        await self._servers.meet()
        found = [json.loads(status) for status in await self._servers.each(self._servers.status)]
        names = {status["model"] for status in found}
        if names == {None}:
            raise UserError(f"no model is served ({found[0]['state']}): the owner runs secformer publish")
        if len(names) != 1:
            raise UserError("the servers don't serve the same model yet: try again in a while")
        deployment = read_description(found[0]["description"])
        if deployment.name not in names:
            raise UserError("the servers' description of the model is not the one that they name")
        return deployment

    async def infer(self, encoded: Encoded) -> Answer:
        """Answer one encoded batch, in several requests where it is more than one run takes.

        Raises:
            UserError: a server refuses, or anything died on the way: nothing is answered then, and it says what.
        """
        served = self._served or await self.deployment()
        rows, length = encoded.input_ids.shape
        most = self.most(served, length)
        parts = powers_of_two(rows, most)
        return Answer.joined([await self._ask(served, encoded.rows(part)) for part in parts])

    def most(self, served: Deployment, length: int) -> int:
        """Texts of a padded length in one request."""
        return self._cluster.options.batching.rows(length, served.unit)

    async def _ask(self, served: Deployment, encoded: Encoded) -> Answer:
        """One request."""
        rows, length = encoded.input_ids.shape
        shape = RequestShape(rows, length)
        answer = await self.ask(served, shape, served.inputs.arrays(encoded))
        return dataclasses.replace(answer, logits=served.reveal.read(answer.logits))

    async def ask(self, served: Published, shape: RequestShape, inputs: Sequence[np.ndarray]) -> Answer:
        """One request; its logits are as they are revealed.

        Args:
            served: the model.
            shape: public.
            inputs: what is shared.

        Raises:
            UserError: as `infer`.
        """
        started, name = time.perf_counter(), served.name
        fields = {"request": secrets.token_hex(16), "deployment": name, **shape.fields()}
        parties, protocol = self._cluster.parties, self._cluster.protocol
        # In a conversation its first pass has them stated.
        stated = [] if shape.start else await self._statements(name, shape)
        specs = served.inputs.specs(shape.rows, shape.length)
        shares = one_hot.shared(specs, inputs, protocol, len(parties), self._bits)
        messages = [with_shares("infer", fields, own) for own in shares]
        bodies = {party: b"".join(message.pack()) for party, message in zip(parties, messages, strict=True)}

        async def ask(party: str) -> bytes:
            return await self._servers.post(party, INFER_PATH, data=bodies[party])

        answers = await self._servers.each(ask)
        try:
            results = [unpack(answer) for answer in answers]
            outputs = [_output(result, served.result_bits) for result in results]
            if len({(output.dtype, output.shape) for output in outputs}) > 1:
                raise MessageError("results of several shapes")
            receipts = [result.fields["receipt"] for result in results]
        except (MessageError, KeyError):
            raise UserError("the servers' answers don't have the expected form: install the same version") from None
        known = {"client": self._role, "request": fields["request"], "model": name}
        found = [
            transcript.read(
                self._signer, party, transcript.RECEIPT, receipt, known | {"input": transcript.digest(sent)}
            )
            for party, receipt, sent in zip(parties, receipts, messages, strict=True)
        ]
        transcript.agree(found, parties)
        ring = join([output.rings()[0] for output in outputs])
        logits = decode(ring, outputs[0].dtype, self._bits)
        cost = {name: value for name, value in results[0].fields.items() if isinstance(value, int | float)}
        sent = tuple(len(body) for body in bodies.values())
        seen = tuple(_beginning(own["input0"]) for own in shares)
        return Answer(logits, time.perf_counter() - started, sent, cost, (*stated, *receipts), seen)

    async def end(self, conversation: str) -> None:
        """Have a conversation's cache forgotten; one that the servers no longer know is no error."""

        async def end(party: str) -> bytes:
            return await self._servers.question(party, CLOSE_PATH, {"conversation": conversation})

        await self._servers.each(end)

    async def _statements(self, name: str, shape: RequestShape) -> list[dict[str, str]]:
        """What the servers put their names to, before anything is sent to them.

        Raises:
            UserError: they say different things, or serve another model.
        """
        asked = {"nonce": secrets.token_hex(16), **shape.fields()}

        async def ask(party: str) -> bytes:
            return await self._servers.question(party, STATEMENT_PATH, {**asked, "deployment": name})

        found, known = await self._servers.each(ask), {**asked, "client": self._role, "model": name}
        try:
            stated = [json.loads(each) for each in found]
        except ValueError:
            raise UserError("the servers' statements are no JSON: install the same version") from None
        facts = [
            transcript.read(self._signer, party, transcript.STATEMENT, each, known)
            for party, each in zip(self._cluster.parties, stated, strict=True)
        ]
        transcript.agree(facts, self._cluster.parties)
        return stated


def _output(result: Message, bits: int) -> Share:
    """A party's component of the result, in full: a key may stand for more than any memory holds.

    Raises:
        MessageError: it has another form.
        KeyError: it is not there.
    """
    share = shares_of(result)["output0"]
    if share.bits != bits or len(share.components) != 1 or isinstance(share.components[0], bytes):
        raise MessageError("a result is one component of the model's bits")
    return share


def _beginning(share: Share) -> bytes:
    """Of what a share says: a key is as good as what its generator gives."""
    component = share.components[0]
    if isinstance(component, bytes):
        component = pack(expand(component, (SEEN_BYTES,), share.bits), share.bits)
    return np.ascontiguousarray(component).reshape(-1).view(np.uint8)[:SEEN_BYTES].tobytes()


async def statuses(cluster: Cluster, role: str) -> dict[str, dict[str, Any]]:
    """What every party says of itself; for one that does not answer, {"error": why}."""
    async with Servers(cluster, role) as servers:

        async def ask(party: str) -> dict[str, Any]:
            try:
                return json.loads(await asyncio.wait_for(servers.status(party), 10))
            except (TimeoutError, UserError) as error:
                return {"role": party, "error": str(error) or "no answer"}

        found = await servers.each(ask)
    return dict(zip(cluster.parties, found, strict=True))
