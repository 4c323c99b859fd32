"""The passes that read a prompt: of few lengths, for each is compiled. How many tokens are real is public."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from secformer_jax.errors import UserError

PADDED = (16, 32, 64, 128, 256, 512, 1024)


def prompt_passes(tokens: int, capacity: float = math.inf) -> list[int]:
    """Rows of the passes that read a prompt of so many tokens: the longest that there is, and one for the rest.

    Args:
        tokens: at least 1.
        capacity: of the conversation; a pass that takes all of it leaves no room for an answer.
    """
    longest = max((length for length in PADDED if length < capacity), default=1)
    whole, rest = divmod(tokens, longest)
    return [longest] * whole + [next(length for length in PADDED if rest <= length)] * (rest > 0)


def passes_over(prompt: Sequence[int], start: int, capacity: int) -> list[tuple[Sequence[int], int]]:
    """What each pass reads of a prompt, and its rows.

    Raises:
        UserError: a prompt without a token, or no room for it.
    """
    if not prompt:
        raise UserError("a prompt without a token: ask something")
    rows = prompt_passes(len(prompt), capacity)
    if start + sum(rows) > capacity:
        behind = f", behind {start:,}" if start else ""
        raise UserError(
            f"a prompt of {len(prompt):,} tokens, padded to {sum(rows):,}{behind}, and there is room for {capacity:,}: "
            "ask in fewer words, or give the conversation more room"
        )
    begins = itertools.accumulate(rows, initial=0)
    return [(prompt[begin : begin + each], each) for begin, each in zip(begins, rows, strict=False)]
