"""A request as a model's head takes it. Nothing here needs more of a model than what is public of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.text import Encoded, Tokenizer


class Known(Protocol):
    """What is public of a model: of a checkpoint, or of a published description."""

    @property
    def config(self) -> Architecture:
        """Its architecture."""

    @property
    def head(self) -> str:
        """One of `heads.HEADS`."""


def request_head(model: Known) -> str:
    """The head that answers requests: the model's own, or the cosine of pairs for a sentence encoder."""
    return "similarity" if model.head == "embedding" else model.head


def encode_request(
    model: Known,
    tokenizer: Tokenizer,
    text: str,
    text_pair: str | None = None,
    max_length: int | None = None,
    truncate: bool = False,
    *,
    head: str | None = None,
) -> Encoded:
    """One request as the head takes it, with its tokens: a pair is two rows to compare, and one row for other heads.

    Raises:
        UserError: an empty or overlong text; one text where the head takes two, or two where it takes one.
    """
    head = head or request_head(model)
    if head == "similarity" and text_pair is None:
        raise UserError("this model has no head: give two texts (--text-pair) to compare them, or use secformer embed")
    if head == "question" and text_pair is None:
        raise UserError("this model answers questions: give the question (--text) and the context (--text-pair)")
    if head == "embedding" and text_pair is not None:
        raise UserError("a vector is of one text: leave out the pair")
    texts, pairs = ([text], None) if text_pair is None else ([text], [text_pair])
    if head == "similarity":
        texts, pairs = [text, str(text_pair)], None
    return encode(model, tokenizer, texts, pairs, max_length, truncate, keep_tokens=True)


def encode(
    model: Known,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int | None,
    truncate: bool,
    *,
    keep_tokens: bool = False,
) -> Encoded:
    """Encode a batch; without a padded length given, the least that fits, within the positions of the model."""
    positions = model.config.positions
    if max_length is None:
        encoded = tokenizer.encode(texts, pairs, None, truncate, keep_tokens=keep_tokens)
        if encoded.input_ids.shape[1] <= positions:
            return encoded
        longest = int(encoded.attention_mask.sum(axis=1).max())
        if longest > positions and not truncate:
            raise UserError(f"sequence of {longest} tokens, and the model has {positions} positions: pass --truncate")
        max_length = positions
    return tokenizer.encode(texts, pairs, max_length, truncate, keep_tokens=keep_tokens)
