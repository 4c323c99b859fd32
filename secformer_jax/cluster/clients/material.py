"""The servers' side of the dealer's material service; see `dealer.service` for the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from secformer_jax.cluster.config import DEALER, Cluster
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.wire import bodies, frames, tls
from secformer_jax.cluster.wire.message import Message, MessageError
from secformer_jax.cluster.wire.paths import END
from secformer_jax.errors import UserError

DESCRIBE_PATH, MASKS_PATH, MATERIAL_PATH = "/v1/describe", "/v1/masks", "/v1/material"
REVEAL_PATH = "/v1/reveal"


class ForgottenError(UserError):
    """The dealer has no masks of a conversation any more; it serves others."""


class MaterialClient:
    """Asks the dealer for this party's shares of masks.

    Args:
        cluster: where the dealer is.
        role: who asks.
    """

    def __init__(self, cluster: Cluster, role: str) -> None:
        self._url = f"https://{cluster.dealer_address()}"
        self._context = tls.client_context(cluster.tls(role))
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._http is not None:
            await self._http.close()

    async def describe(self, deployment: Published) -> None:
        """Tell the dealer what is published: the owner's part."""
        async for _ in self._ask(DESCRIBE_PATH, {"description": deployment.to_json()}):
            pass

    def masks(self, deployment: Published, conversation: str = "") -> AsyncIterator[Message]:
        """This party's shares of the masks of the weights, or of a conversation's cache, once."""
        of = {"conversation": conversation} if conversation else {}
        return self._ask(MASKS_PATH, {"deployment": deployment.name, **of})

    def fetch(self, deployment: Published, shape: RequestShape, piece: str) -> AsyncIterator[Message]:
        """This party's shares of one request's material, in several messages.

        Args:
            deployment: the published model.
            shape: of the request.
            piece: a number that all parties give and that was never given before.

        Raises:
            ForgottenError: the piece is a conversation's that the dealer has forgotten.
            UserError: the dealer refuses, or is not there.
        """
        asked = {"deployment": deployment.name, "piece": piece, **shape.fields()}
        return self._ask(MATERIAL_PATH, asked)

    async def reveal(self, piece: str) -> bytes:
        """The seed that the dealer dealt a piece from; it answers when all parties have asked.

        Raises:
            UserError: the dealer refuses, or is not there.
        """
        [message] = [message async for message in self._ask(REVEAL_PATH, {"piece": piece})]
        return b"".join(map(bytes, message.chunks))

    async def _ask(self, path: str, values: dict[str, Any]) -> AsyncIterator[Message]:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
            connector = aiohttp.TCPConnector(ssl=self._context)
            self._http = aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 20)
        try:
            url = self._url + path
            async with self._http.post(url, json=values, server_hostname=DEALER, allow_redirects=False) as answer:
                if answer.status != 200:
                    refusal = ForgottenError if answer.status == 410 else UserError
                    text = (await bodies.body(answer)).decode("utf-8", "replace")
                    raise refusal(f"the dealer refuses: {text.strip()[:200]}")
                while (message := await frames.read(answer.content)).kind != END:
                    yield message
        except (TimeoutError, aiohttp.ClientError, OSError, asyncio.IncompleteReadError, MessageError) as error:
            raise UserError(f"the dealer is gone ({type(error).__name__})") from error
