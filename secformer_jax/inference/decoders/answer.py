"""An answer that grows at the client, token by token: what is shown of it, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.choice import Choice
from secformer_jax.models.decoders.tokens import ChatTokens

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer says of a character of which not all tokens are there."""
MOST_STOPS = 4


@dataclass(frozen=True)
class Ending:
    """When an answer ends, besides the model's own last token.

    Attributes:
        most: tokens.
        stops: texts before which it ends.
        block: the servers see a multiple of so many passes, whatever the answer's length.

    Raises:
        UserError: no token, an empty text, or more than `MOST_STOPS`.
    """

    most: int = 64
    stops: tuple[str, ...] = ()
    block: int = 1

    def __post_init__(self) -> None:
        if self.most < 1 or self.block < 1:
            raise UserError(
                f"{self.most} tokens of an answer, seen as a multiple of {self.block}, and at least 1 was expected"
            )
        if len(self.stops) > MOST_STOPS or not all(self.stops):
            raise UserError(f"{len(self.stops)} texts that end an answer: at most {MOST_STOPS}, and none empty")


class Answer:
    """What the model says next.

    Args:
        tokens: the model's.
        last: ids of tokens that end an answer.
        prompt: ids before it.
        choice: of each token.
        ending: when it ends.
        generator: what draws; by default seeded by the operating system.

    Attributes:
        ids: of its tokens, the one that ends it with them.
        most: the most tokens that it may have.
        passes: how many passes have given it logits.
        finish: None while it grows; then "stop", or "length" where there is no room for more.
    """

    def __init__(
        self,
        tokens: ChatTokens,
        last: Sequence[int],
        prompt: Sequence[int],
        choice: Choice,
        ending: Ending,
        generator: np.random.Generator | None = None,
    ) -> None:
        self._tokens, self._last, self._prompt = tokens, frozenset(last), tuple(prompt)
        self._choice, self._ending, self.most = choice, ending, ending.most
        self._generator = np.random.default_rng() if generator is None else generator
        self.ids: list[int] = []
        self.finish: str | None = None
        self._said = self.passes = 0

    @property
    def text(self) -> str:
        """What has been said so far."""
        return self._cut()[0]

    @property
    def unread(self) -> list[int]:
        """What the model has not read yet of its own answer; the token that ends it says nothing."""
        return [token for token in self.ids[-1:] if token not in self._last]

    @property
    def goes_on(self) -> bool:
        """Whether another pass follows: the answer grows, or has ended within a block."""
        return self.finish is None or self.passes % self._ending.block > 0

    def add(self, logits: np.ndarray) -> str:
        """Choose the next token; returns what can be shown more: whole characters, and nothing that may be a stop.

        An answer that has ended takes no more, in the same time: the pass is there to hide where it ended.

        Args:
            logits: (vocab_size,), of the model for the next token.
        """
        self.passes += 1
        token = self._choice.next(logits, (*self._prompt, *self.ids), self._generator)
        if self.finish is not None:
            self._cut()
            return ""
        self.ids.append(token)
        text, stopped = self._cut()
        if token in self._last or stopped:
            self.finish = "stop"
        elif len(self.ids) == self.most:
            self.finish = "length"
        upto = len(text) if self.finish else self._sure(text)
        said, self._said = self._said, max(self._said, upto)
        return text[said : self._said]

    def end(self) -> str:
        """There is no room for more; returns what was held back."""
        self.finish = "length"
        return self.text[self._said :]

    def _cut(self) -> tuple[str, bool]:
        """The text up to the first stop, and whether there is one."""
        whole = self._tokens.text([token for token in self.ids if token not in self._last])
        found = [place for stop in self._ending.stops if (place := whole.find(stop)) >= 0]
        return whole[: min(found, default=len(whole))], bool(found)

    def _sure(self, text: str) -> int:
        """How much of a text stays, whatever follows."""
        if text.endswith(UNFINISHED):
            text = text.rstrip(UNFINISHED)
        held = (
            size for stop in self._ending.stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])
        )
        return len(text) - max(held, default=0)
