"""Conversations in OpenAI's form: what is asked, and how an answer looks, whole or as it grows.

Source: OpenAI's API reference, POST /v1/chat/completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.answer import Answer, Ending
from secformer_jax.inference.decoders.choice import Choice

CHAT_PATH = "/v1/chat/completions"
KEYS: Mapping[str, str] = {
    "max_completion_tokens": "the most tokens of the answer; max_tokens is its older name",
    "temperature": "0 takes the likeliest token; 1 where it is left out",
    "top_p": "draw among the likeliest tokens that have this probability together",
    "stop": "a text before which the answer ends, or up to four of them",
    "seed": "of what is drawn",
    "stream": "true for the answer as it grows, as server-sent events",
    "stream_options": '{"include_usage": true} for the tokens in the last event',
    "n": "1",
}
"""That a body may have beside "messages" and "model", and what they say."""
NEUTRAL: Mapping[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "response_format": {"type": "text"},
}
"""What libraries send though it asks for nothing."""
OTHERS = ("messages", "model", "user", "max_tokens")
DEFAULT_TOKENS = 64
Body = Mapping[str, Any]
Entry = dict[str, Any]


class QuestionError(UserError):
    """A question that can't be answered, whoever serves."""


@dataclass(frozen=True)
class Asked:
    """What a body asks for.

    Attributes:
        turns: question, answer, question, .., question.
        system: the system's prompt that it gives, if any.
        choice, ending, seed: see `Answer`.
        stream: whether the answer comes as it grows, and with `usage` how many tokens there were.
    """

    turns: tuple[str, ...]
    system: str | None
    choice: Choice
    ending: Ending
    seed: int | None
    stream: bool
    usage: bool


def asked_of(body: Any) -> Asked:
    """What is asked.

    Raises:
        QuestionError: it has another form.
    """
    if not isinstance(body, dict):
        raise QuestionError("the body is a JSON object")
    for key, value in body.items():
        if key in NEUTRAL and value not in (None, NEUTRAL[key]):
            raise QuestionError(f"{key} is {value!r}, and only {NEUTRAL[key]!r} is served")
        if key not in {*KEYS, *NEUTRAL, *OTHERS}:
            raise QuestionError(f"unknown key {key!r}: {', '.join(('messages', 'model', *KEYS))} are known")
    turns, system = _turns(body.get("messages"))
    stops = body.get("stop") or ()
    stops = (stops,) if isinstance(stops, str) else stops
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise QuestionError("stop is a text, or a list of texts")
    most = body.get("max_completion_tokens")
    most = body.get("max_tokens") if most is None else most
    seed, options = body.get("seed"), body.get("stream_options") or {}
    if seed is not None and (type(seed) is not int or seed < 0):
        raise QuestionError(f"seed is {seed!r}, and a whole number from 0 was expected")
    if body.get("n") not in (None, 1):
        raise QuestionError(f"n is {body['n']!r}, and there is one answer to a question")
    if not isinstance(options, dict) or not isinstance(body.get("stream") or False, bool):
        raise QuestionError("stream is true or false, and stream_options an object")
    try:
        choice = Choice(_number(body, "temperature"), _number(body, "top_p"))
        ending = Ending(DEFAULT_TOKENS if most is None else _whole("max_completion_tokens", most), tuple(stops))
    except UserError as error:
        raise QuestionError(str(error)) from None
    return Asked(turns, system, choice, ending, seed, bool(body.get("stream")), bool(options.get("include_usage")))


def whole(about: Entry, answer: Answer, usage: Entry) -> Entry:
    """An answer that has ended."""
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    return {**about, "object": "chat.completion", "choices": [choice], "usage": usage}


def chunk(about: Entry, delta: Entry, finish: str | None = None) -> Entry:
    """What is new of an answer that grows."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {**about, "object": "chat.completion.chunk", "choices": [choice]}


def last_chunk(about: Entry, usage: Entry) -> Entry:
    """How many tokens there were, after all."""
    return {**about, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def usage_of(prompt: Sequence[int], unread: Sequence[int], answer: Answer) -> Entry:
    """In tokens: of all messages, and how many of these the servers had still to read."""
    said = len(answer.ids)
    return {
        "prompt_tokens": len(prompt),
        "completion_tokens": said,
        "total_tokens": len(prompt) + said,
        "prompt_tokens_details": {"cached_tokens": max(0, len(prompt) - len(unread))},
    }


def _turns(messages: Any) -> tuple[tuple[str, ...], str | None]:
    if not isinstance(messages, list) or not messages:
        raise QuestionError('messages is a list of {"role": ..., "content": ...}')
    said = [_message(each) for each in messages]
    system = said.pop(0)[1] if said[0][0] in ("system", "developer") else None
    roles = [role for role, _ in said]
    if len(said) % 2 == 0 or roles != [("user", "assistant")[i % 2] for i in range(len(said))]:
        raise QuestionError("after the system's message, user and assistant speak in turn, and user has the last word")
    return tuple(text for _, text in said), system


def _message(given: Any) -> tuple[str, str]:
    if isinstance(given, dict) and isinstance(given.get("role"), str):
        content = given.get("content")
        if isinstance(content, list) and all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in content
        ):
            content = "".join(part["text"] for part in content)
        # A model may have had nothing to say; a question says something.
        if isinstance(content, str) and (content.strip() or given["role"] == "assistant"):
            return given["role"], content
    raise QuestionError("a message has a role, and a content that is a text")


def _number(body: Body, key: str) -> float:
    value = body.get(key)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuestionError(f"{key} is {value!r}, and a number was expected")
    try:
        return float(value)
    except OverflowError:
        raise QuestionError(f"{key} is too large") from None


def _whole(key: str, value: Any) -> int:
    if type(value) is not int:
        raise QuestionError(f"{key} is {value!r}, and a whole number was expected")
    return value
