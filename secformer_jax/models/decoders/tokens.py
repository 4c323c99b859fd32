"""A conversation as token ids: the fixed prefix's, and what a client shares behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from secformer_jax.errors import UserError


@dataclass(frozen=True)
class ChatFormat:
    """A conversation is prefix, then user + question + assistant + answer + end for each turn; the last has no answer.

    Attributes:
        prefix: what stands before the first question whatever it is: the system's prompt.
        user, assistant, end: as above.
        trims: whether white space around what is said is left out.
    """

    prefix: str
    user: str
    assistant: str
    end: str
    trims: bool = False

    def text(self, turns: Sequence[str]) -> str:
        """A conversation without its prefix, up to where the model goes on.

        Args:
            turns: question, answer, question, .., question.
        """
        if len(turns) % 2 == 0:
            raise UserError("a conversation ends with a question: leave out the last answer")
        after, said = (self.assistant, self.end), [turn.strip() if self.trims else turn for turn in turns]
        return "".join((self.user if i % 2 == 0 else "") + turn + after[i % 2] for i, turn in enumerate(said))


CHECKED = (["What is it?"], ["A", " b ", "c\nd"], ["1", "2", "3", "4", "5"])
"""Conversations, on which a format or a tokenizer is tried."""


class ChatTokens:
    """A model's tokenizer and chat format.

    Args:
        folder: with tokenizer.json.
        format: of the conversations.

    Attributes:
        prefix: ids of what stands before every conversation, and that everybody knows.

    Raises:
        UserError: files that are missing, or a tokenizer that joins the prefix with what follows it.
    """

    def __init__(self, folder: Path, format: ChatFormat) -> None:
        self.format = format
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"{folder} has no tokenizer.json, which a decoder's tokens are read with: fetch it again")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self.prefix = tuple(self._ids(self.format.prefix))
        for turns in CHECKED:
            whole = self._ids(self.format.prefix + self.format.text(turns))
            if whole != [*self.prefix, *self.prompt(turns)]:
                raise UserError(
                    f"the tokenizer of {folder} joins the system's prompt with the question: it is not supported"
                )

    def prompt(self, turns: Sequence[str]) -> list[int]:
        """Ids of a conversation behind the prefix, up to where the model answers; see `ChatFormat.text`."""
        return self._ids(self.format.text(turns))

    def next_prompt(self, question: str) -> list[int]:
        """Ids of what follows an answer that has ended: the next question, up to where the model answers."""
        return self._ids(self.format.end + self.format.text([question]))

    def plain(self, text: str) -> list[int]:
        """Ids of a text as it is, which the model is to go on with."""
        return self._ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """What an answer's ids say; special tokens say nothing."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _ids(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                "a text with halves of characters (surrogates), which is no text: mend its source"
            ) from None
        return self._tokenizer.encode(text, add_special_tokens=False).ids
