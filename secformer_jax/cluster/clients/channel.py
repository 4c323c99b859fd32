"""Requests to all computing servers at once, for the owner and the clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp

from secformer_jax.cluster.config import Cluster
from secformer_jax.cluster.wire import bodies, tls
from secformer_jax.cluster.wire.message import MessageError
from secformer_jax.cluster.wire.paths import STATUS_PATH
from secformer_jax.errors import UserError

T = TypeVar("T")
CONNECT_SECONDS, PATIENCE_SECONDS = 10, 60.0
_RETRY_SECONDS = 0.5

QUESTION_SECONDS = 20.0
"""The most that a question takes which needs no computing: who is cut off behind an open connection says nothing."""


class Servers:
    """A role's connections to the cluster; to be entered with `async with`.

    Args:
        cluster: where the servers are.
        role: who asks: the owner or a client.
    """

    def __init__(self, cluster: Cluster, role: str) -> None:
        self.cluster, self.role = cluster, role
        self._context = tls.client_context(cluster.tls(role))

    async def __aenter__(self) -> Servers:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._context, limit=0))
        return self

    async def __aexit__(self, *exception) -> None:
        await self._http.close()

    async def each(self, ask: Callable[[str], Awaitable[T]]) -> list[T]:
        """Ask all parties at once; the first error ends the others' questions."""
        asked = [asyncio.ensure_future(ask(party)) for party in self.cluster.parties]
        try:
            return list(await asyncio.gather(*asked))
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def meet(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until every party is there: nobody has to start first.

        Raises:
            UserError: one does not come, or is somebody else.
        """
        await self.each(lambda party: patiently(lambda: self.status(party), seconds))

    async def post(self, party: str, path: str, *, data: Any = None, json: Any = None) -> bytes:
        """Post to one party; returns the answer's body.

        Raises:
            UserError: the party refuses, is not there, or is somebody else.
        """
        return await self._request("POST", party, path, None, data=data, json=json)

    async def question(self, party: str, path: str, json: Any) -> bytes:
        """As `post`, of what a party answers at once.

        Raises:
            UserError: as for `post`; or no answer within `QUESTION_SECONDS`.
        """
        return await self._request("POST", party, path, QUESTION_SECONDS, json=json)

    async def status(self, party: str) -> bytes:
        """What a party says of itself, JSON.

        Raises:
            UserError: as for `question`.
        """
        return await self._request("GET", party, STATUS_PATH, QUESTION_SECONDS)

    async def _request(self, method: str, party: str, path: str, seconds: float | None, **body: Any) -> bytes:
        address = self.cluster.control[party]
        # A redirection would have this machine send to whatever address a server names.
        options = {"server_hostname": party, "timeout": _timeout(seconds), "allow_redirects": False, **body}
        try:
            async with self._http.request(method, f"https://{address}{path}", **options) as answer:
                found = await bodies.body(answer)
                if answer.status != 200:
                    text = " ".join(found.decode("utf-8", "replace").split())[:300] or f"status {answer.status}"
                    raise UserError(f"{party} at {address}: {text}")
                return found
        except MessageError as error:
            raise UserError(f"{party} at {address} sent {error}: ask its operator") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise UserError(f"{party} at {address} is not who it has to be: {error.certificate_error}") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{party} at {address} can't be reached or has gone away ({reason}): is it running?"
            ) from error


def _timeout(seconds: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)


async def patiently(ask: Callable[[], Awaitable[T]], seconds: float = PATIENCE_SECONDS) -> T:
    """Ask again while nobody listens at the other end: nobody has to start first.

    Raises:
        UserError: still nobody, or another error.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except UserError as error:
            if not isinstance(error.__cause__, aiohttp.ClientConnectorError) or time.monotonic() > ends:
                raise
        await asyncio.sleep(_RETRY_SECONDS)
