"""The gateway's description of itself, OpenAPI 3.1, made from its routes."""

from __future__ import annotations

from typing import Any

import secformer_jax
from secformer_jax.gateway.chat_forms import CHAT_PATH, KEYS
from secformer_jax.gateway.forms import MOST_TEXTS, ROUTES, Route

_TEXT = {"type": "string"}
_PAIR = {
    "type": "object",
    "properties": {"text": _TEXT, "text_pair": _TEXT},
    "required": ["text", "text_pair"],
    "additionalProperties": False,
}
_ERROR = {"type": "object", "properties": {"error": {"type": "object", "properties": {"message": _TEXT}}}}


def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "secformer gateway",
            "version": secformer_jax.__version__,
            "description": "Private answers: texts leave this machine as shares alone.",
        },
        "paths": {
            **{route.path: {"post": _question(route)} for route in ROUTES},
            CHAT_PATH: {"post": _chat()},
            "/v1/models": {"get": _plain("The model that is served, and where to ask it.")},
            "/health": {"get": _plain("Whether the cluster serves: 200, or 503.")},
            "/metrics": {"get": _plain("Figures for Prometheus.")},
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _question(route: Route) -> dict[str, Any]:
    one = {"anyOf": [_TEXT, _PAIR]}
    properties = {
        "input": {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_TEXTS}]},
        "model": _TEXT,
        **{key: {"description": says} for key, says in route.keys.items()},
    }
    return _post(
        route.says,
        {"type": "object", "properties": properties, "required": ["input"]},
        "data has an entry for each text, in order.",
    )


def _post(summary: str, body: dict[str, Any], answer: str) -> dict[str, Any]:
    statuses = {
        "400": "The body, or a text, can't be answered.",
        "401": "Another key was expected.",
        "404": "The model that is served answers elsewhere.",
        "429": "Too many requests wait.",
        "503": "The cluster doesn't answer.",
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": answer},
            **{
                status: {"description": says, "content": {"application/json": {"schema": _ERROR}}}
                for status, says in statuses.items()
            },
        },
        "security": [{}, {"key": []}],
    }


def _chat() -> dict[str, Any]:
    message = {"type": "object", "properties": {"role": _TEXT, "content": _TEXT}, "required": ["role", "content"]}
    properties = {
        "messages": {"type": "array", "items": message, "minItems": 1},
        "model": _TEXT,
        **{key: {"description": says} for key, says in KEYS.items()},
    }
    return _post(
        "The next message of a conversation, as OpenAI's chat completions.",
        {"type": "object", "properties": properties, "required": ["messages"]},
        "A completion; with stream, events with what is new of it.",
    )


def _plain(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary}}}
