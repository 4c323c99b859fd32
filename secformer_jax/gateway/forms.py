"""What is asked over HTTP, and how it is answered: OpenAI's form of embeddings, and ours for labels in the same style.

Source: OpenAI's API reference, POST /v1/embeddings.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.answers import Entry
from secformer_jax.inference.texts import Request

MOST_TEXTS = 256
Body = Mapping[str, Any]


@dataclass(frozen=True)
class Route:
    """One kind of question.

    Attributes:
        path: where it is asked.
        heads: that answer it.
        says: what it is for.
        keys: that a body may have beside "input" and "model", and what they say.
        data: (body, entry) -> what stands in "data" for one text, beside "object" and "index".
        kind: "object" of each.
    """

    path: str
    heads: tuple[str, ...]
    says: str
    keys: Mapping[str, str]
    data: Callable[[Body, Entry], Entry]
    kind: str


def requests_of(route: Route, body: Any) -> list[Request]:
    """The texts of a body.

    Raises:
        UserError: it has another form.
    """
    if not isinstance(body, dict):
        raise UserError("the body is a JSON object")
    for key in body:
        if key not in {"input", "model", "user", *route.keys}:
            raise UserError(f"unknown key {key!r}: {', '.join(('input', 'model', *route.keys))} are known")
    given = body.get("input")
    found = given if isinstance(given, list) else [given]
    if not 1 <= len(found) <= MOST_TEXTS:
        raise UserError(f"{len(found)} texts in input: 1 to {MOST_TEXTS} are answered at once")
    return [_request(each) for each in found]


def _request(given: Any) -> Request:
    if isinstance(given, str):
        return given, None
    if isinstance(given, dict) and set(given) == {"text", "text_pair"}:
        text, pair = given["text"], given["text_pair"]
        if isinstance(text, str) and isinstance(pair, str):
            return text, pair
    raise UserError('input is a text, {"text": ..., "text_pair": ...}, or a list of these; token ids are not taken')


def checked(entries: Sequence[Entry]) -> None:
    """Refuse where one text can't be answered.

    Raises:
        UserError: it names the text.
    """
    for index, entry in enumerate(entries):
        if "error" in entry:
            raise UserError(f"input[{index}]: {entry['error']}")


def _embedding(body: Body, entry: Entry) -> Entry:
    vector, form = entry["embedding"], body.get("encoding_format", "float")
    if body.get("dimensions") not in (None, len(vector)):
        raise UserError(f"dimensions {body['dimensions']}, and this model's vectors have {len(vector)}")
    if form == "base64":
        return {"embedding": base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()}
    if form != "float":
        raise UserError(f"encoding_format {form!r}: float and base64 are known")
    return {"embedding": vector}


def _label(body: Body, entry: Entry) -> Entry:
    return {key: entry[key] for key in ("label", "score", "labels", "logits") if key in entry}


def _entities(body: Body, entry: Entry) -> Entry:
    return {"entities": entry["entities"], **({"tokens": entry["tokens"]} if body.get("tokens") else {})}


def _answer(body: Body, entry: Entry) -> Entry:
    return {"answer": entry["answer"], "no_answer_score": entry["no_answer_score"]}


ROUTES = (
    Route(
        "/v1/embeddings",
        ("embedding",),
        "Vectors of texts, as OpenAI's embeddings.",
        {"encoding_format": "float or base64", "dimensions": "that of the model, or left out"},
        _embedding,
        "embedding",
    ),
    Route(
        "/v1/classify",
        ("classification", "multi_label", "regression", "cross_encoder", "similarity"),
        "Labels and scores of texts, or the likeness of pairs.",
        {},
        _label,
        "classification",
    ),
    Route(
        "/v1/tokens",
        ("tokens",),
        "Entities in texts.",
        {"tokens": "true for each token's label, too"},
        _entities,
        "entities",
    ),
    Route(
        "/v1/answers",
        ("question",),
        "Answers from contexts: text is the question, text_pair the context.",
        {},
        _answer,
        "answer",
    ),
)
