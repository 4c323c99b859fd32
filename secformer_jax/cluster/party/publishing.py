"""What a model's owner asks of a computing server: to keep its shares of a model, and to serve it."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from secformer_jax.cluster.clients.material import MaterialClient
from secformer_jax.cluster.config import OWNER, Cluster
from secformer_jax.cluster.party.coordinator import Coordinator
from secformer_jax.cluster.party.metrics import PartyMetrics
from secformer_jax.cluster.party.node import Node, RefusedError
from secformer_jax.cluster.party.peers import LostError
from secformer_jax.cluster.published import Published, read_description
from secformer_jax.cluster.requirements import checked, needs_dealer
from secformer_jax.cluster.wire import frames
from secformer_jax.cluster.wire.http import peer_of, question
from secformer_jax.cluster.wire.message import MessageError, shares_of
from secformer_jax.cluster.wire.paths import END
from secformer_jax.errors import UserError

log = logging.getLogger(__name__)

ACTIVATE_SECONDS = 300


class Publishing:
    """Answers the owner; one publication at a time.

    Args:
        cluster: who takes part.
        node: this party's supervisor.
        coordinator: the first party's.
        material: where the dealer's masks come from.
        metrics: of this party.
    """

    def __init__(
        self,
        cluster: Cluster,
        node: Node,
        coordinator: Coordinator | None,
        material: MaterialClient | None,
        metrics: PartyMetrics,
    ) -> None:
        self._cluster, self._node, self._coordinator = cluster, node, coordinator
        self._material, self._metrics, self._one = material, metrics, asyncio.Lock()

    async def publish(self, request: web.Request) -> web.Response:
        """The owner's shares for this party, one message a tensor; they go to disk sealed, and nowhere else."""
        peer_of(request, [OWNER])
        async with self._one:
            try:
                first = await frames.read(request.content)
                described = read_description(first.fields.get("description"))
                deployment = await asyncio.to_thread(checked, described)
                await asyncio.to_thread(self._check_dealer, deployment)
                if self._node.shelf.weights(deployment.name).exists():
                    raise UserError("a model of this name has been published: another publication has another name")
                writer = self._node.shelf.writer(deployment)
            except (MessageError, UserError, asyncio.IncompleteReadError) as error:
                raise web.HTTPBadRequest(text=f"{error}\n") from None
            try:
                received = 0
                while (message := await frames.read(request.content)).kind != END:
                    shares_of(message)
                    received += sum(memoryview(chunk).nbytes for chunk in message.chunks)
                    await asyncio.to_thread(writer.add, message)
                if deployment.masked and self._material is not None:
                    async for message in self._material.masks(deployment):
                        writer.add(message)
                await asyncio.to_thread(writer.finish)
            except (MessageError, UserError, asyncio.IncompleteReadError, ConnectionError) as error:
                writer.abandon()
                raise web.HTTPBadRequest(text=f"{error}\n") from None
            except BaseException:
                writer.abandon()
                raise
        self._metrics.received.labels("owner").inc(received)
        log.info("published", extra={"bytes": received})
        return web.json_response({"deployment": deployment.name})

    def _check_dealer(self, deployment: Published) -> None:
        if self._material is None and needs_dealer(deployment, self._cluster.fraction_bits):
            raise UserError(
                'this model takes masks of a dealer, and the cluster has none: add "dealer": "host:port" to its file, '
                "or publish an encoder with --preset puma"
            )

    async def activate(self, request: web.Request) -> web.Response:
        """Serve what all parties have been given."""
        peer_of(request, [OWNER])
        if self._coordinator is None:
            raise web.HTTPBadRequest(text=f"{self._cluster.parties[0]} is told which model is served\n")
        name = (await question(request)).token("deployment")
        try:
            await asyncio.wait_for(self._coordinator.activate(name), ACTIVATE_SECONDS)
        except (RefusedError, LostError) as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from None
        except TimeoutError:
            raise web.HTTPServiceUnavailable(text=f"the model is not served: {self._coordinator.state}\n") from None
        return web.json_response({"deployment": name})
