"""The gateway's HTTP: questions in OpenAI's style, health, metrics, and a page. Whoever asks is on this machine."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from secformer_jax.cluster.decoder_deployment import GENERATION, REVEALS
from secformer_jax.cluster.published import Published
from secformer_jax.errors import UserError
from secformer_jax.gateway.asking import Asking, BusyError
from secformer_jax.gateway.chat import answered
from secformer_jax.gateway.chat_forms import CHAT_PATH, QuestionError, asked_of
from secformer_jax.gateway.chatting import Chat, Chatting
from secformer_jax.gateway.forms import ROUTES, Route, checked, requests_of
from secformer_jax.gateway.openapi import document
from secformer_jax.models.heads import HEADS

MOST_BYTES = 1 << 20
"""Of a body."""
PAGES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN = (*PAGES, "/openapi.json", "/health")
"""What needs no key: nothing of a text is in it."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _NotHere(Exception):  # noqa: N818 - a status, not an error of this program
    """Another model is served, or another kind."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class Gateway:
    """One.

    Args:
        asking: the cluster, where it serves an encoder.
        chatting: the same, where it serves a decoder.
        model: what the model is called in answers.
        hosts: names by which it may be called: a page of somebody else's has another.
        key: that every question has to carry; "" for none.
    """

    def __init__(self, asking: Asking, chatting: Chatting, model: str, hosts: frozenset[str], key: str = "") -> None:
        self._chatting = chatting
        self._asking, self._model, self._hosts, self._key = asking, model, hosts, key
        self._registry = CollectorRegistry()
        of: Any = {"registry": self._registry}
        self._texts = Counter("secformer_gateway_texts", "Texts by outcome", ["outcome"], **of)
        self._seconds = Histogram("secformer_gateway_seconds", "From question to answer", **of)
        self._sent = Counter("secformer_gateway_sent_bytes", "Sent to servers", ["server"], **of)

    def application(self) -> web.Application:
        """All of it."""
        made = web.Application(client_max_size=MOST_BYTES, middlewares=[self._guard])
        for route in ROUTES:
            made.router.add_post(route.path, self._question(route))
        made.router.add_post(CHAT_PATH, self._chat)
        for path in PAGES:
            made.router.add_get(path, _page)
        made.router.add_get("/openapi.json", self._openapi)
        made.router.add_get("/v1/models", self._models)
        made.router.add_get("/health", self._health)
        made.router.add_get("/metrics", self._metrics)
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may ask; and every error in OpenAI's form."""
        try:
            response = await self._guarded(request, handler)
        except web.HTTPException as error:
            response = _error(error.status, error.text or error.reason)
        response.headers.update(HEADERS)
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # A page from elsewhere whose name was made to lead here, or that posts here, is no user of this machine's.
        host = re.sub(r":\d+$", "", request.host)
        if host not in self._hosts:
            return _error(403, f"called as {host!r}: this gateway is {', '.join(sorted(self._hosts))}")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{request.scheme}://{request.host}":
            return _error(403, f"asked from {origin}: only this gateway's own page may ask in a browser")
        if self._key and request.path not in OPEN:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                return _error(401, "the gateway's key was expected: Authorization: Bearer KEY", "invalid_api_key")
        try:
            return await handler(request)
        except _NotHere as error:
            return _error(404, error.message, error.code)
        except UserError as error:
            return _error(400, str(error))
        except BusyError:
            return _error(429, "too many requests wait: ask again in a while", "rate_limit_exceeded")

    def _question(self, route: Route) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            body = await _body(request)
            asked = requests_of(route, body)
            try:
                self._check(await self._asking.served(), route.heads, body)
                entries, cost = await self._asking.answers(asked)
            except UserError as error:
                self._texts.labels("failed").inc(len(asked))
                return _error(503, str(error))
            refused = sum("error" in entry for entry in entries)
            self._texts.labels("refused").inc(refused)
            checked(entries)
            self._texts.labels("answered").inc(len(asked))
            self._seconds.observe(cost.seconds)
            for index, sent in enumerate(cost.sent_bytes):
                self._sent.labels(str(index)).inc(sent)
            tokens = self._asking.tokens(asked)
            data = [
                {"object": route.kind, "index": index, **route.data(body, entry)} for index, entry in enumerate(entries)
            ]
            return web.json_response(
                {
                    "object": "list",
                    "data": data,
                    "model": self._model,
                    "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                    "secformer": cost.entry(),
                }
            )

        return answer

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        asked = asked_of(body)
        try:
            self._check(await self._asking.served(), (GENERATION,), body)
            return await answered(request, asked, self._chatting, self._model, self._noted, HEADERS)
        except QuestionError:
            raise
        except UserError as error:
            return _error(503, str(error))

    def _noted(self, outcome: str, chat: Chat | None) -> None:
        self._texts.labels(outcome).inc()
        if outcome == "failed":
            self._asking.look_again()
        if chat is not None:
            self._seconds.observe(chat.cost.seconds)
            for index, sent in enumerate(chat.cost.sent_bytes):
                self._sent.labels(str(index)).inc(sent)

    def _check(self, served: Published, heads: Sequence[str], body: Mapping[str, Any]) -> None:
        """Refuse a question that the model does not answer."""
        if served.head not in heads:
            raise _NotHere(f"the model answers with {served.head}: {_path(served.head)} is where to ask")
        if body.get("model") not in (None, self._model, served.name):
            raise _NotHere(f"no model {body['model']!r}: {self._model} is served", "model_not_found")

    async def _models(self, request: web.Request) -> web.StreamResponse:
        try:
            served = await self._asking.served()
        except UserError as error:
            return _error(503, str(error))
        found = {"id": self._model, "object": "model", "created": 0, "owned_by": "the cluster"}
        about = {
            "head": served.head,
            "ask": _path(served.head),
            "reveals": served.reveal.words(REVEALS if served.head == GENERATION else HEADS[served.head].reveals),
        }
        return web.json_response({"object": "list", "data": [{**found, **about}]})

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(document())

    async def _health(self, request: web.Request) -> web.StreamResponse:
        """Whether the cluster serves; a cluster that is away is no reason to start the gateway anew."""
        try:
            served = await asyncio.wait_for(self._asking.served(), 5)
        except (UserError, TimeoutError) as error:
            return web.json_response({"state": "waiting", "reason": str(error) or "no answer"}, status=503)
        waiting = self._asking.waiting + self._chatting.waiting
        return web.json_response({"state": "ready", "model": served.name, "waiting": waiting})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _page(request: web.Request) -> web.StreamResponse:
    name, kind = PAGES[request.path]
    text = resources.files("secformer_jax.gateway").joinpath("page", name).read_text(encoding="utf-8")
    return web.Response(text=text, content_type=kind, charset="utf-8")


async def _body(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="a body of the type application/json was expected")
    try:
        return json.loads(await request.text())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is no JSON") from None


def _path(head: str) -> str:
    if head == GENERATION:
        return CHAT_PATH
    return next(route.path for route in ROUTES if head in route.heads)


def _error(status: int, message: str, code: str | None = None) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    text = " ".join(message.split())
    return web.json_response({"error": {"message": text, "type": kind, "param": None, "code": code}}, status=status)
