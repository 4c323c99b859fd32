"""Guesses of the next tokens, as a client could make them without a model: from what was said already.

It looks up what followed the last two tokens where they stood before, and has some of that checked in one pass, whose
cost grows with its tokens: prompt lookup, a form of speculative decoding (Leviathan et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from results import Entry, table
from rich.table import Table

GUESSES = 2
"""Tokens beside the one that is known, in one pass."""
TOGETHER = f", opened, {GUESSES} guesses in a pass"
"""Ends the name of a cell."""


def passes_with_guesses(prompt: Sequence[int], answer: Sequence[int]) -> int:
    """How many passes an answer takes behind its prompt's, where guesses that are right need none of their own."""
    known, count = [*prompt, answer[0]], 0
    while len(known) < len(prompt) + len(answer):
        rest, guesses = answer[len(known) - len(prompt) :], lookup(known)
        right = next((i for i, (one, other) in enumerate(zip(guesses, rest, strict=False)) if one != other), None)
        # A pass says the token behind the last guess that is right.
        accepted = min(len(guesses), len(rest)) if right is None else right
        known += rest[: accepted + 1]
        count += 1
    return count


def lookup(known: Sequence[int]) -> list[int]:
    """What followed the last two tokens where they stood before, the last time."""
    for i in reversed(range(len(known) - 2)):
        if known[i : i + 2] == known[-2:]:
            return list(known[i + 2 : i + 2 + GUESSES])
    return []


def table_of_guesses(answers: Sequence[Entry], one: Entry, more: Entry) -> Table:
    """What guesses would have saved of answers, and what a pass with them costs beside one without."""
    # The first token of an answer comes with its prompt's pass.
    tokens = sum(each["tokens"] - 1 for each in answers)
    count = sum(each["passes_with_guesses"] for each in answers)
    times = [f"{more[key] / one[key]:.2f}" for key in ("seconds", "send_bytes", "dealt_bytes", "client_bytes")]
    columns = (
        "tokens",
        "passes",
        "tokens a pass",
        "a pass: seconds, times",
        "MB sent",
        "MB dealt",
        "MB from the client",
    )
    row = (str(tokens), str(count), f"{tokens / count:.2f}", *times)
    return table(f"{GUESSES} guesses in a pass, against one token in a pass", columns, [row])
