"""Text to padded token ids, with the tokenizer of a Hugging Face BERT folder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.models import WordPiece

from secformer_jax.errors import UserError

PADDED_LENGTHS = (16, 32, 64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A batch of texts, padded: ids and token types int32, mask float32 of 0 and 1, each (batch, length)."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    attention_mask: np.ndarray


def padded_length(tokens: int) -> int:
    """The public length for a text of that many tokens: the smallest of `PADDED_LENGTHS` that fits."""
    for length in PADDED_LENGTHS:
        if tokens <= length:
            return length
    raise UserError(f"sequence of {tokens} tokens, and the limit is {PADDED_LENGTHS[-1]}: pass --truncate")


class Tokenizer:
    """BERT's WordPiece tokenizer, from tokenizer.json or else vocab.txt."""

    def __init__(self, directory: str | os.PathLike[str], vocab_size: int | None = None):
        """Load it; ``vocab_size`` is the model's, and a tokenizer with more tokens than that is refused."""
        directory = Path(directory)
        try:
            self._tokenizer = _load(directory)
        except UserError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise UserError(f"the tokenizer in {directory} can't be read ({error}): fetch the folder again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        size = self._tokenizer.get_vocab_size()
        if vocab_size is not None and size > vocab_size:
            raise UserError(
                f"the tokenizer in {directory} has {size} tokens, and the model has {vocab_size}: "
                "use the folder's own tokenizer"
            )
        self.pad_token_id: int = self._tokenizer.token_to_id("[PAD]") or 0

    def encode(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        truncate: bool = False,
    ) -> Encoded:
        """Encode texts, or pairs as [CLS] text [SEP] pair [SEP], padded to ``max_length`` (None: the least)."""
        if text_pairs is not None and len(text_pairs) != len(texts):
            raise UserError(f"{len(texts)} texts and {len(text_pairs)} pairs: pass one pair for each text")
        if not len(texts):
            raise UserError("no text, and at least one was expected: pass --text")
        texts = [_clean(text) for text in texts]
        pairs = None if text_pairs is None else [_clean(text) for text in text_pairs]
        inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = self._tokenizer.encode_batch(inputs)
        longest = max(len(encoding.ids) for encoding in encodings)
        limit = padded_length(min(longest, PADDED_LENGTHS[-1])) if max_length is None else max_length
        if longest > limit:
            if not truncate:
                fits = f"--max-length {padded_length(longest)} or " if longest <= PADDED_LENGTHS[-1] else ""
                raise UserError(f"sequence of {longest} tokens, and the limit is {limit}: pass {fits}--truncate")
            encodings = self._truncated(inputs, limit)
        shape = (len(encodings), limit)
        ids, types = np.full(shape, self.pad_token_id, np.int32), np.zeros(shape, np.int32)
        mask = np.zeros(shape, np.float32)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            types[row, : len(encoding.ids)] = encoding.type_ids
            mask[row, : len(encoding.ids)] = 1
        return Encoded(ids, types, mask)

    def _truncated(self, inputs: list, limit: int) -> list[tokenizers.Encoding]:
        """Cut to the limit, the longer text of a pair first."""
        special = self._tokenizer.num_special_tokens_to_add(isinstance(inputs[0], tuple))
        if limit <= special:
            raise UserError(f"--max-length {limit} leaves no room for text: pass at least {special + 1}")
        self._tokenizer.enable_truncation(limit, strategy="longest_first")
        try:
            return self._tokenizer.encode_batch(inputs)
        finally:
            self._tokenizer.no_truncation()


def _clean(text: str) -> str:
    """Refuse an empty text; a lone surrogate, which no encoding has, becomes U+FFFD."""
    if not text.strip():
        raise UserError("empty text, and at least one word was expected: pass some text")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _load(directory: Path) -> tokenizers.Tokenizer | BertWordPieceTokenizer:
    if (directory / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    if not (directory / "vocab.txt").is_file():
        raise UserError(f"no tokenizer in {directory}: tokenizer.json or vocab.txt was expected beside config.json")
    options = {}
    if (directory / "tokenizer_config.json").is_file():
        options = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    return BertWordPieceTokenizer(
        WordPiece.read_file(str(directory / "vocab.txt")),
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )
