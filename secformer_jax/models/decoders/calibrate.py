"""A decoder's ranges behind its fixed prefix, from texts that it reads in plaintext."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from importlib import resources
from typing import Any

import jax.numpy as jnp
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration, Range
from secformer_jax.functions.measure import span
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.every_token import first_layer, union
from secformer_jax.models.decoders.model import Kept
from secformer_jax.models.decoders.plaintext import PlaintextDecoder, PlaintextDecoders
from secformer_jax.models.decoders.tokens import ChatTokens

FAMILY = "decoder"
"""Of functions: a decoder's own."""

Progress = Callable[[int, int], None]

SIDE_BY_SIDE = 16
"""Conversations that are read at the same time: what their caches take bounds it."""

OUTPUTS = ("query", "key", "value", "activation", "up", "product")


def calibration_chats() -> list[list[str]]:
    """The questions that come with the package to measure ranges on: a conversation's each."""
    lines = (resources.files("secformer_jax") / "data" / "calibration_questions.txt").read_text(encoding="utf-8")
    return [line.split("\t") for line in lines.split("\n") if line.strip()]


def conversations(
    model: DecoderCheckpoint,
    tokens: ChatTokens,
    chats: Sequence[Sequence[str]],
    most: int,
    *,
    progress: Progress = lambda done, total: None,
) -> list[list[int]]:
    """Ids of conversations behind the prefix: questions, and the likeliest answers in plaintext.

    Args:
        model: the checkpoint.
        tokens: of its folder.
        chats: the questions of each.
        most: tokens of an answer.
        progress: told how many conversations are whole, and of how many.
    """
    longest = max(sum(len(tokens.next_prompt(question)) + most for question in questions) for questions in chats)
    room = min(len(tokens.prefix) + longest, model.config.max_position_embeddings)
    count, found = min(len(chats), SIDE_BY_SIDE), dict[int, list[int]]()
    for start in range(0, len(chats), count):
        group = [
            _conversation(tokens, questions, most, model.config.eos_token_ids)
            for questions in chats[start : start + count]
        ]
        decoders = PlaintextDecoders(model, room, tokens.prefix, count)
        for i, ids in _read_together(decoders, group):
            found[start + i] = ids
            progress(len(found), len(chats))
    return [found[i] for i in range(len(chats))]


Reading = Generator[int, Any, list[int]]
"""Yields the next token to read, is sent the logits after it, and returns what was read and is still to read."""


def _conversation(tokens: ChatTokens, questions: Sequence[str], most: int, last: Sequence[int]) -> Reading:
    ids, unread = list[int](), list[int]()
    for question in questions:
        unread += tokens.next_prompt(question) if ids else tokens.prompt([question])
        for _ in range(most):
            for token in unread:
                logits = yield token
            ids += unread
            unread = [int(np.argmax(logits))]
            if unread[0] in last:
                # It stands in the next prompt, too.
                unread.clear()
                break
    return [*ids, *unread]


def _read_together(decoders: PlaintextDecoders, readings: Sequence[Reading]) -> Iterator[tuple[int, list[int]]]:
    """Which one has ended, and what it returns, as they end."""
    said: dict[int, Any] = dict.fromkeys(range(len(readings)))
    while said:
        wanted = {}
        for i, logits in said.items():
            try:
                wanted[i] = readings[i].send(logits)
            except StopIteration as end:
                yield i, end.value
        said = dict(zip(wanted, decoders.extend(wanted)[list(wanted)], strict=True)) if wanted else {}


def calibrate(model: DecoderCheckpoint, prefix: Sequence[int], texts: Iterable[Sequence[int]]) -> Calibration:
    """The ranges of what comes after the prefix; of what the first attention reads, for every token (`first_layer`).

    Quantities: norms "mean_square" (LayerNorm's without the mean) and "value"; "output" of query and key (turned, the
    query divided by the root of the head's width), value, activation (what goes into it), up, their product, and of the
    head, the logits; softmax "centred_score", less the mean over the keys that a token looks at.

    Args:
        model: the checkpoint.
        prefix: token ids that come before every text.
        texts: token ids.

    Raises:
        UserError: no text, or one without a token.
    """
    read = [np.asarray([*prefix, *text]) for text in texts]
    if any(len(tokens) == len(prefix) for tokens in read):
        raise UserError("a text without a token: give texts that the model is to read")
    # All of one length, and so compiled once: no token looks at the padding behind it.
    longest = max(map(len, read), default=0)
    found: Calibration | None = None
    for tokens in read:
        padded = np.pad(tokens, (0, longest - len(tokens)), mode="edge")
        logits, kept = PlaintextDecoder(model, longest).extend(padded)
        ranges = _measured(model.config, {**kept, "head": jnp.asarray(logits[None])}, slice(len(prefix), len(tokens)))
        old = found or Calibration("", FAMILY)
        found = dataclasses.replace(
            old,
            sentences=old.sentences + 1,
            max_length=max(old.max_length, len(tokens)),
            places=union(old.places, ranges),
        )
    if found is None:
        raise UserError("no text to measure ranges on: give at least one")
    return dataclasses.replace(found, places=union(found.places, first_layer(model, len(prefix))))


def _measured(config: DecoderArchitecture, kept: Kept, own: slice) -> dict[str, dict[str, Range]]:
    """Of some tokens' rows."""
    places: dict[str, dict[str, Range]] = {}
    for place, value in kept.items():
        name, values = place.rpartition(".")[2], np.asarray(value, np.float64)
        if name in OUTPUTS or name == "head":
            places[place] = {"output": span(values[..., own, :])}
        elif name == "softmax":
            places[place] = {"centred_score": span(_centred(values)[..., own, :])}
        elif name.endswith("norm"):
            after = values[..., own, :]
            if not config.rms_norm:
                after = after - after.mean(axis=-1, keepdims=True)
            places[place] = {"mean_square": span(np.mean(after * after, axis=-1)), "value": span(after)}
    return places


def _centred(scores: np.ndarray) -> np.ndarray:
    """Less their mean over the keys up to the token's own; 0 beyond."""
    visible = np.tri(scores.shape[-2], dtype=bool)
    mean = np.mean(scores, axis=-1, where=visible, keepdims=True)
    return np.where(visible, scores - mean, 0.0)
