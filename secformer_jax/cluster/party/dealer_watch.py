"""Whether the dealer is there: the coordinator asks it, before a session and all through it."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from secformer_jax.cluster.config import DEALER, Cluster
from secformer_jax.cluster.wire.paths import HEALTH_PATH

log = logging.getLogger(__name__)
POLL_SECONDS, TIMEOUT_SECONDS = 1.0, 5.0


async def until_there(http: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Wait until the dealer answers; says so every ten seconds."""
    waited = 0
    while not await _answers(http, cluster):
        if waited % 10 == 0:
            log.warning("waiting for the dealer", extra={"address": str(cluster.dealer)})
        waited += 1
        await asyncio.sleep(POLL_SECONDS)


async def until_gone(http: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Wait until the dealer no longer answers."""
    while await _answers(http, cluster):
        await asyncio.sleep(POLL_SECONDS)


async def _answers(http: aiohttp.ClientSession, cluster: Cluster) -> bool:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    url = f"https://{cluster.dealer_address()}{HEALTH_PATH}"
    try:
        async with http.get(url, server_hostname=DEALER, timeout=timeout) as answer:
            return answer.status == 200
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False
