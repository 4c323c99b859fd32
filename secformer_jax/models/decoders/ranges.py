"""A decoder's ranges behind its prefix, kept where an encoder's are; measured where there are none yet."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence

from secformer_jax.functions.calibration import Calibration, load
from secformer_jax.models.decoders.calibrate import FAMILY, Progress, calibrate, calibration_chats, conversations
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.tokens import ChatTokens
from secformer_jax.models.ranges import keep, kept_for

ANSWER_TOKENS = 24
"""Of each answer that ranges are measured on."""

MEASURED = 2
"""Raised when ranges are measured otherwise: those that were kept before are not taken."""


def family(prefix: Sequence[int]) -> str:
    """Of functions behind a prefix, which says what values follow it: the name of their ranges in a file."""
    return f"{FAMILY} {hashlib.sha256(repr((MEASURED, tuple(prefix))).encode()).hexdigest()[:16]}"


def ensure_calibration(
    model: DecoderCheckpoint,
    tokens: ChatTokens,
    path: str | None = None,
    *,
    chats: Sequence[Sequence[str]] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Calibration:
    """The model's ranges behind its prefix; measured on conversations where none are kept yet.

    Args:
        model: the checkpoint.
        tokens: of its folder.
        path: a file of ranges to use and no other.
        chats: the questions of each conversation to measure them on, whatever is kept; else the package's own.
        say: told in one line what was measured, and where it is kept.
        progress: told how far it is.

    Raises:
        UserError: a file that was made for another model or prefix, or is damaged.
    """
    name = family(tokens.prefix)
    if path is not None:
        return load(path, fingerprint=model.fingerprint, family=name)
    found = kept_for(model, name, 0) if chats is None else None
    if found is not None:
        return found
    started = time.perf_counter()
    texts = conversations(model, tokens, chats or calibration_chats(), ANSWER_TOKENS, progress=progress)
    measured = dataclasses.replace(calibrate(model, tokens.prefix, texts), fingerprint=model.fingerprint, family=name)
    kept = keep(model, [measured])
    say(
        f"measured the ranges of {FAMILY} functions behind this prefix, once, on {len(texts)} conversations up to "
        f"{measured.max_length} tokens ({time.perf_counter() - started:.0f} s); kept in {kept}"
    )
    return measured
