"""The public lengths of prompts: few, for each is compiled, and a prompt's own is hidden among those of its padding."""

from __future__ import annotations

from secformer_jax.errors import UserError

PADDED = (16, 64, 256, 1024)


def padded_prompt(tokens: int) -> int:
    """The least public length for a prompt of so many tokens.

    Raises:
        UserError: there is none.
    """
    for length in PADDED:
        if tokens <= length:
            return length
    raise UserError(f"a prompt of {tokens:,} tokens, and {PADDED[-1]:,} are the most: ask in fewer words")
