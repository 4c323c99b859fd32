"""A conversation as token ids: the fixed prefix's, and what a client shares behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.chat import CHECKED, ChatFormat, read_format


class ChatTokens:
    """A model's tokenizer and chat format.

    Args:
        folder: with tokenizer.json, and a chat template.
        system: the system's prompt; by default the template's own.

    Attributes:
        prefix: ids of what stands before every conversation, and that everybody knows.

    Raises:
        UserError: files that are missing, or a tokenizer that joins the prefix with what follows it.
    """

    def __init__(self, folder: Path, system: str | None = None) -> None:
        self._format: ChatFormat = read_format(folder, system)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"{folder} has no tokenizer.json, which a decoder's tokens are read with: fetch it again")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self.prefix = tuple(self._ids(self._format.prefix))
        for turns in CHECKED:
            whole = self._ids(self._format.prefix + self._format.text(turns))
            if whole != [*self.prefix, *self.prompt(turns)]:
                raise UserError(
                    f"the tokenizer of {folder} joins the system's prompt with the question: it is not supported"
                )

    def prompt(self, turns: Sequence[str]) -> list[int]:
        """Ids of a conversation behind the prefix, up to where the model answers; see `ChatFormat.text`."""
        return self._ids(self._format.text(turns))

    def text(self, ids: Sequence[int]) -> str:
        """What an answer's ids say; special tokens say nothing."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Iterator[int]) -> Iterator[str]:
        """The same as the ids come; a character of several tokens comes whole."""
        seen: list[int] = []
        said = 0
        for token in ids:
            seen.append(token)
            text = self.text(seen)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[said:]
                said = len(text)
        yield self.text(seen)[said:]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
