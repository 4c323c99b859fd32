"""What `secformer generate` and `chat` share: how answers are made, and who makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.answer import Answer, Ending
from secformer_jax.inference.decoders.choice import Choice
from secformer_jax.models.decoders.tokens import ChatTokens


@dataclass(frozen=True)
class Asked:
    """How answers are made.

    Attributes:
        choice: of each token.
        ending: of an answer.
        seed: of what is drawn; None for another each time.
        compare: have plaintext answer, too.
    """

    choice: Choice
    ending: Ending
    seed: int | None
    compare: bool

    def answer(self, tokens: ChatTokens, last: Sequence[int], prompt: Sequence[int]) -> Answer:
        """A new one; see `Answer`."""
        generator = None if self.seed is None else np.random.default_rng(self.seed)
        return Answer(tokens, last, prompt, self.choice, self.ending, generator)


def prompt_ids(tokens: ChatTokens, text: str) -> list[int]:
    """Ids of a first prompt.

    Raises:
        UserError: there is nothing in it.
    """
    ids = tokens.prompt([text])
    if not text.strip() or not ids:
        raise UserError("an empty prompt, and the model has nothing to go on with: say something")
    return ids


def next_ids(tokens: ChatTokens, answer: Answer | None, text: str) -> list[int]:
    """Ids of a conversation's next prompt, with what the model has not read of its last answer."""
    return prompt_ids(tokens, text) if answer is None else answer.unread + tokens.next_prompt(text)
