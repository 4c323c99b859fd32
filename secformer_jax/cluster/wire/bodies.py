"""The body of an answer, of a size that the reader's memory has: a server that means harm may send without an end."""

from __future__ import annotations

import aiohttp

from secformer_jax.cluster.wire.message import MessageError

MOST_BYTES = 64 << 20
"""Of an answer: shares of 500 labels for each token of 32 texts of 512 are less, and no request has more tokens."""


async def body(answer: aiohttp.ClientResponse, most: int = MOST_BYTES) -> bytes:
    """All of it, decompressed.

    Raises:
        MessageError: it is larger than `most` bytes.
    """
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            raise MessageError(f"an answer of more than {most >> 20} MiB")
    return b"".join(parts)
