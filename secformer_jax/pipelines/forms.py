"""Tasks as Hugging Face's pipelines know them: which heads do them, and the names and types of what comes back.

Source: transformers 4.57, `transformers.pipelines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.answers import Entry, sigmoid, softmax
from secformer_jax.inference.texts import Request
from secformer_jax.models.architecture import Architecture

AGGREGATIONS = ("none", "simple")


@dataclass(frozen=True)
class Options:
    """What a call may choose.

    Attributes:
        top_k: labels of a text, the likeliest first; None for all of them. Not given: one, and no list around it.
        aggregation_strategy: "none" for each token, "simple" for whole entities.
        ignore_labels: of tokens that are left out.
    """

    top_k: int | bool | None = False
    aggregation_strategy: str = "none"
    ignore_labels: tuple[str, ...] = ("O",)

    def __post_init__(self) -> None:
        if self.aggregation_strategy not in AGGREGATIONS:
            known = ", ".join(AGGREGATIONS)
            raise UserError(f"aggregation_strategy {self.aggregation_strategy!r}: choose one of {known}")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        heads: that do it.
        requests: (inputs, keywords) -> the requests, and whether one came alone.
        form: (config, head, entry, options) -> what a pipeline gives for one request.
    """

    heads: tuple[str, ...]
    requests: Callable[[Any, Mapping[str, Any]], tuple[list[Request], bool]]
    form: Callable[[Architecture, str, Entry, Options], Any]


def _texts(inputs: Any, keywords: Mapping[str, Any]) -> tuple[list[Request], bool]:
    """A text, {"text": ..., "text_pair": ...}, or a list of them."""
    if keywords:
        raise UserError(f"unknown argument {', '.join(keywords)}")
    if isinstance(inputs, list | tuple):
        return [_text(each) for each in inputs], False
    return [_text(inputs)], True


def _text(given: Any) -> Request:
    if isinstance(given, Mapping) and set(given) <= {"text", "text_pair"} and isinstance(given.get("text"), str):
        pair = given.get("text_pair")
        if pair is None or isinstance(pair, str):
            return given["text"], pair
    if isinstance(given, str):
        return given, None
    raise UserError(f'a text, or a dict with "text" and "text_pair", was expected, and it is {type(given).__name__}')


def _questions(inputs: Any, keywords: Mapping[str, Any]) -> tuple[list[Request], bool]:
    """question=..., context=..., or a dict of both, or lists of them."""
    given = inputs if inputs is not None else dict(keywords)
    if inputs is not None and keywords:
        raise UserError(f"unknown argument {', '.join(keywords)}")
    if isinstance(given, list | tuple):
        return [_question(each) for each in given], False
    if isinstance(given, Mapping) and isinstance(given.get("question"), list | tuple):
        questions, contexts = given["question"], given.get("context")
        if isinstance(contexts, str):
            contexts = [contexts] * len(questions)
        if not isinstance(contexts, list | tuple) or len(contexts) != len(questions):
            raise UserError(f"{len(questions)} questions, and a context for each was expected")
        pairs = zip(questions, contexts, strict=True)
        return [_question({"question": question, "context": context}) for question, context in pairs], False
    return [_question(given)], True


def _question(given: Any) -> Request:
    if isinstance(given, Mapping) and set(given) == {"question", "context"}:
        question, context = given["question"], given["context"]
        if isinstance(question, str) and isinstance(context, str):
            return question, context
    raise UserError("a question and a context, both texts, were expected")


def _classified(config: Architecture, head: str, entry: Entry, options: Options) -> Any:
    if "logits" not in entry:  # The label alone is revealed.
        found = [{"label": entry["label"]}]
    else:
        scores = _scores(config, head, entry)
        found = [{"label": label, "score": score} for label, score in zip(config.id2label, scores, strict=True)]
        found.sort(key=lambda each: -each["score"])
    return found[0] if options.top_k is False else found[: options.top_k]


def _scores(config: Architecture, head: str, entry: Entry) -> list[float]:
    if head in ("regression", "cross_encoder"):
        return [entry["score"]]
    function = sigmoid if head == "multi_label" else softmax
    return function(np.asarray(entry["logits"])).tolist()


def _tokens(config: Architecture, head: str, entry: Entry, options: Options) -> list[Entry]:
    if options.aggregation_strategy == "simple":
        return [
            {
                "entity_group": found["label"],
                **_score(found),
                "word": found["text"],
                "start": found["start"],
                "end": found["end"],
            }
            for found in entry["entities"]
        ]
    return [
        {
            "entity": found["label"],
            **_score(found),
            "index": found["index"],
            "word": found["token"],
            "start": found["start"],
            "end": found["end"],
        }
        for found in entry["tokens"]
        if found["label"] not in options.ignore_labels
    ]


def _score(found: Entry) -> Entry:
    return {"score": found["score"]} if "score" in found else {}


def _answered(config: Architecture, head: str, entry: Entry, options: Options) -> Entry:
    answer = entry["answer"]
    return {"score": answer["score"], "start": answer["start"], "end": answer["end"], "answer": answer["text"]}


def _vector(config: Architecture, head: str, entry: Entry, options: Options) -> list[list[list[float]]]:
    """One vector stands where a pipeline has one for each token: no more is revealed."""
    return [[entry["embedding"]]]


_classify = Task(("classification", "multi_label", "regression", "cross_encoder"), _texts, _classified)
_label_tokens = Task(("tokens",), _texts, _tokens)
TASKS: Mapping[str, Task] = {
    "text-classification": _classify,
    "sentiment-analysis": _classify,
    "token-classification": _label_tokens,
    "ner": _label_tokens,
    "question-answering": Task(("question",), _questions, _answered),
    "feature-extraction": Task(("embedding",), _texts, _vector),
}
