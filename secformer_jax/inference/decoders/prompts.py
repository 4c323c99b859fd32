"""The lengths that prompts are padded to: few, for each is compiled. How many tokens are real is public."""

from __future__ import annotations

from secformer_jax.errors import UserError

PADDED = (16, 32, 64, 128, 256, 512, 1024)


def padded_prompt(tokens: int) -> int:
    """The least public length for a prompt of so many tokens.

    Raises:
        UserError: there is none.
    """
    for length in PADDED:
        if tokens <= length:
            return length
    raise UserError(f"a prompt of {tokens:,} tokens, and {PADDED[-1]:,} are the most: ask in fewer words")
