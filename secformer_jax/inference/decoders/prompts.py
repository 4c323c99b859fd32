"""The passes that read a prompt: of few lengths, for each is compiled. How many tokens are real is public."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from secformer_jax.errors import UserError

PADDED = (16, 32, 64, 128, 256, 512, 1024)
PADDING = 64
"""A pass may have so many rows without a token, or a quarter of its rows."""


def pass_lengths(capacity: float) -> tuple[int, ...]:
    """New tokens of a pass, where a conversation has so many: one, or a padded part of a prompt."""
    return (1, *(length for length in PADDED if length < capacity))


def prompt_passes(tokens: int, room: float = math.inf, capacity: float = math.inf) -> list[int]:
    """Rows of the few passes that read so many tokens: as they are, or padded a little where there is room for it.

    Args:
        tokens: of the prompt.
        room: for all rows.
        capacity: of the conversation.
    """
    lengths, rows = pass_lengths(capacity), list[int]()
    while tokens > 0:
        each = min((length for length in lengths if tokens <= length <= room), default=0)
        if not each or each - tokens > max(PADDING, each / 4):
            each = max(length for length in lengths if length <= tokens)
        rows.append(each)
        tokens, room = tokens - each, room - each
    return rows


def passes_over(prompt: Sequence[int], start: int, capacity: int, most: int) -> list[tuple[Sequence[int], int]]:
    """What each pass reads of a prompt, and its rows.

    Args:
        prompt: ids.
        start: how many tokens of the conversation are taken.
        capacity: all of them.
        most: tokens of the answer; its last one is not read.

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
    # Padding takes what the longest answer leaves, or a quarter: passes of one token are slow.
    left = capacity - start - len(prompt)
    rows = prompt_passes(len(prompt), len(prompt) + max(left - most + 1, left // 4), capacity)
    begins = itertools.accumulate(rows, initial=0)
    return [(prompt[begin : begin + each], each) for begin, each in zip(begins, rows, strict=False)]
