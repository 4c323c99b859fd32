"""The passes that read a prompt: of few lengths, for each is compiled. How many tokens are real is public."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from secformer_jax.errors import UserError

PADDED = (16, 32, 64, 128, 256, 512, 1024)
PADDING = 64
"""Rows without a token that cost less than another pass; of a long one a quarter."""


def pass_lengths(capacity: float) -> tuple[int, ...]:
    """New tokens of a pass, where a conversation has so many: one, or a padded part of a prompt."""
    return (1, *(length for length in PADDED if length < capacity))


def prompt_passes(tokens: int, room: float = math.inf, capacity: float = math.inf) -> list[int]:
    """Rows of the passes that read so many tokens: few, with little padding, and none where there is no room for it.

    Args:
        tokens: of the prompt.
        room: what is left of the conversation's tokens.
        capacity: all of them.
    """
    lengths, rows = pass_lengths(capacity), list[int]()
    while tokens > 0:
        padded = next((length for length in lengths if tokens <= length <= room), math.inf)
        few = padded - tokens <= max(PADDING, padded / 4) < math.inf
        rows.append(int(padded) if few else max(length for length in lengths if length <= tokens))
        tokens, room = tokens - rows[-1], room - rows[-1]
    return rows


def passes_over(prompt: Sequence[int], start: int, capacity: int) -> list[tuple[Sequence[int], int]]:
    """What each pass reads of a prompt that stands behind so many tokens, and its rows.

    Raises:
        UserError: a prompt without a token, or no room for it.
    """
    if not prompt:
        raise UserError("a prompt without a token: ask something")
    if start + len(prompt) > capacity:
        behind = f" behind {start:,}" if start else ""
        raise UserError(
            f"a prompt of {len(prompt):,} tokens{behind}, and there is room for {capacity:,}: ask in fewer words, or "
            "give the conversation more room"
        )
    rows = prompt_passes(len(prompt), capacity - start, capacity)
    begins = itertools.accumulate(rows, initial=0)
    return [(prompt[begin : begin + each], each) for begin, each in zip(begins, rows, strict=False)]
