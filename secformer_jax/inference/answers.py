"""From revealed numbers to what a client wants to read: labels, entities, a span of text, a score, a vector.

All of it is the client's own arithmetic on what was revealed to it; the names are those of Hugging Face's pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from secformer_jax.models.architecture import Architecture
from secformer_jax.models.text import Token

Entry = dict[str, Any]
LONGEST_ANSWER = 15
"""Tokens of an answer to a question, as in transformers' pipeline."""


def decode(
    config: Architecture,
    head: str,
    output: np.ndarray,
    tokens: Sequence[Token],
    texts: tuple[str, str | None],
    *,
    labels_alone: bool = False,
) -> Entry:
    """What one request's output says.

    Args:
        config: the model.
        head: one of `heads.HEADS`.
        output: the request's own output: (labels,), (length, labels), (length, 2), (width,) or one cosine.
        tokens: the request's tokens; needed for heads that answer for each.
        texts: the text, and the second one of a pair.
        labels_alone: the output has 1 for the label and 0 for the others, see `reveal.Reveal`.

    Returns:
        "logits" and, by head, "label" and "score"; "labels"; "tokens" and "entities"; "answer"; or "embedding" alone.
        Where labels alone are revealed, there are neither logits nor scores.
    """
    output = np.asarray(output, np.float64)
    if head in ("tokens", "question"):
        output = output[: len(tokens)]
    if head == "embedding":
        return {"embedding": output.reshape(-1).tolist()}
    if labels_alone:
        return _without_scores(_DECODERS[head](config, output, tokens, texts))
    logits = output.tolist() if output.ndim == 2 else output.reshape(-1).tolist()
    return {"logits": logits, **_DECODERS[head](config, output, tokens, texts)}


def _without_scores(entry: Entry) -> Entry:
    lists = {key: [_without_scores(each) for each in value] for key, value in entry.items() if isinstance(value, list)}
    return {key: lists.get(key, value) for key, value in entry.items() if key != "score"}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each logit."""
    return 1 / (1 + np.exp(-logits))


def _classification(config: Architecture, output: np.ndarray, tokens: Sequence[Token], texts: tuple) -> Entry:
    probabilities = softmax(output.reshape(-1))
    best = int(probabilities.argmax())
    return {"label": config.id2label[best], "score": float(probabilities[best])}


def _multi_label(config: Architecture, output: np.ndarray, tokens: Sequence[Token], texts: tuple) -> Entry:
    found = zip(config.id2label, sigmoid(output.reshape(-1)), strict=True)
    ordered = sorted(found, key=lambda pair: -pair[1])
    return {"labels": [{"label": label, "score": float(score)} for label, score in ordered]}


def _score(config: Architecture, output: np.ndarray, tokens: Sequence[Token], texts: tuple) -> Entry:
    value = output.reshape(-1)
    return {"score": float(sigmoid(value)[0] if config.output_activation == "sigmoid" else value[0])}


def _tokens(config: Architecture, output: np.ndarray, tokens: Sequence[Token], texts: tuple) -> Entry:
    probabilities = softmax(output)
    rows: list[tuple[Token, Entry]] = []
    for index, (token, row) in enumerate(zip(tokens, probabilities, strict=True)):
        if token.text is None:
            continue
        best = int(row.argmax())
        label = config.id2label[best]
        found = {
            "index": index,
            "token": token.token,
            "start": token.start,
            "end": token.end,
            "label": label,
            "score": float(row[best]),
        }
        rows.append((token, found if texts[1] is None else {**found, "text": token.text}))
    return {"tokens": [found for _, found in rows], "entities": group(rows, texts)}


def group(rows: Sequence[tuple[Token, Entry]], texts: tuple[str, str | None]) -> list[Entry]:
    """Entities by the BIO scheme, with their characters in the text; a score is the mean of the tokens' own.

    B- begins an entity, I- of the same kind carries it on, and begins one where there is none to carry on. A label
    without either carries on what has the same label. Later pieces of a word go with its first one; and a B- that
    touches an entity of its own kind goes with it: two entities have a character between them.
    """
    entities: list[Entry] = []
    scores: list[list[float]] = []
    before: Token | None = None
    kind = None
    for token, found in rows:
        label = found["label"]
        inside = (
            before is not None and token.word is not None and (token.text, token.word) == (before.text, before.word)
        )
        before = token
        if not inside:
            mark, own = (label[0], label[2:]) if label[:2] in ("B-", "I-") else ("I", label)
            own = None if label == "O" else own
            goes_on = own == kind and entities and entities[-1]["text"] == token.text
            if own is not None and not (goes_on and (mark == "I" or token.start == entities[-1]["end"])):
                entities.append({"label": own, "start": token.start, "end": token.end, "text": token.text})
                scores.append([])
            kind = own
        if kind is not None:
            entities[-1]["end"] = token.end
            scores[-1].append(found["score"])
    for entity, all_scores in zip(entities, scores, strict=True):
        which = entity.pop("text")
        entity["score"] = float(np.mean(all_scores))
        entity["text"] = (texts[which] or "")[entity["start"] : entity["end"]]
        if texts[1] is not None:
            entity["in_pair"] = bool(which)
    return entities


def _question(config: Architecture, output: np.ndarray, tokens: Sequence[Token], texts: tuple) -> Entry:
    """The likeliest span of the context, of at most `LONGEST_ANSWER` tokens, as transformers' pipeline chooses it."""
    context = np.array([token.text == 1 for token in tokens])
    allowed = context.copy()
    allowed[0] = True  # The first token stands for "no answer".
    start, end = (softmax(np.where(allowed, output[:, i], -1e4)) for i in (0, 1))
    nothing = float(start[0] * end[0])
    spans = np.triu(np.outer(start * context, end * context))
    spans = np.tril(spans, LONGEST_ANSWER - 1)
    first, last = (int(index) for index in np.unravel_index(int(spans.argmax()), spans.shape))
    low, high = tokens[first].start, tokens[last].end
    answer = {"text": (texts[1] or "")[low:high], "start": low, "end": high, "score": float(spans[first, last])}
    return {"answer": answer, "no_answer_score": nothing}


_DECODERS: Mapping[str, Callable[[Architecture, np.ndarray, Sequence[Token], tuple], Entry]] = {
    "classification": _classification,
    "multi_label": _multi_label,
    "regression": _score,
    "cross_encoder": _score,
    "similarity": _score,
    "tokens": _tokens,
    "question": _question,
}
