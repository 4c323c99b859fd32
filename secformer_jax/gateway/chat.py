"""The gateway's /v1/chat/completions: an answer whole, or as server-sent events while it grows."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from secformer_jax.errors import UserError
from secformer_jax.gateway.chat_forms import Asked, Entry, chunk, last_chunk, usage_of, whole
from secformer_jax.gateway.chatting import Chat, Chatting

CLIENT_GONE = 499
"""Who asked is not there to read it."""
Noted = Callable[[str, Chat | None], None]
"""(outcome, what was answered)."""


async def answered(
    request: web.Request, asked: Asked, chatting: Chatting, model: str, noted: Noted, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer one question.

    Raises:
        QuestionError: it can't be answered.
        UserError: the cluster doesn't; of a stream that has begun the error is its last event.
        BusyError: too many wait.
    """
    about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
    async with chatting.chat(asked) as chat:
        try:
            # It may have waited long for its turn.
            _still_there(request)
            if asked.stream:
                return await _streamed(request, asked, chat, about, noted, headers)
            async for _ in chat.pieces:
                _still_there(request)
        except ConnectionResetError:
            noted("left", None)
            return web.Response(status=CLIENT_GONE)
        except UserError:
            noted("failed", None)
            raise
        noted("answered", chat)
        found = whole(about, chat.answer, usage_of(chat.prompt, chat.unread, chat.answer))
        return web.json_response({**found, "secformer": chat.cost.entry()})


async def _streamed(
    request: web.Request, asked: Asked, chat: Chat, about: Entry, noted: Noted, headers: Mapping[str, str]
) -> web.StreamResponse:
    # What fails before the first word is answered with a status, as a question that is not streamed.
    first = ""
    while not chat.answer.ids:
        _still_there(request)
        first = await anext(chat.pieces)
    response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def send(entry: Entry) -> None:
        await response.write(f"data: {json.dumps(entry)}\n\n".encode())

    try:
        await send(chunk(about, {"role": "assistant", "content": first}))
        async for said in chat.pieces:
            _still_there(request)
            if said:
                await send(chunk(about, {"content": said}))
    except UserError as error:
        noted("failed", None)
        await send({"error": {"message": str(error), "type": "server_error", "param": None, "code": None}})
    else:
        noted("answered", chat)
        await send({**chunk(about, {}, chat.answer.finish), "secformer": chat.cost.entry()})
        if asked.usage:
            await send(last_chunk(about, usage_of(chat.prompt, chat.unread, chat.answer)))
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _still_there(request: web.Request) -> None:
    """Nothing is computed for a client that is gone.

    Raises:
        ConnectionResetError: it is.
    """
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
