"""Text to padded token ids, with the tokenizer of a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.models import WordPiece

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture

PADDED_LENGTHS = (16, 32, 64, 128, 256, 512)


class Token(NamedTuple):
    """One token of a text.

    Attributes:
        token: as the tokenizer's vocabulary has it.
        text: 0 for the first text, 1 for the second of a pair, None for a special token.
        start, end: its characters in that text.
        word: the number of the word that it is a part of.
    """

    token: str
    text: int | None
    start: int
    end: int
    word: int | None


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A batch of texts, padded: ids and token types int32, mask float32 of 0 and 1, each (batch, length).

    ``tokens`` holds each text's tokens, padding left out, where they were asked for.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    attention_mask: np.ndarray
    tokens: tuple[tuple[Token, ...], ...] = ()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, types and mask, as a model takes them."""
        return self.input_ids, self.token_type_ids, self.attention_mask

    def rows(self, which: slice | np.ndarray, length: int | None = None) -> Encoded:
        """Some of the texts, cut to a length; without `tokens`."""
        ids, types, mask = (array[which, :length] for array in self.arrays())
        return Encoded(ids, types, mask)

    def padded(self, length: int, pad_token_id: int) -> Encoded:
        """The same texts, padded to a greater length; without `tokens`."""
        more = (0, 0), (0, length - self.input_ids.shape[1])
        ids, types, mask = self.arrays()
        return Encoded(np.pad(ids, more, constant_values=pad_token_id), np.pad(types, more), np.pad(mask, more))

    @classmethod
    def joined(cls, batches: Sequence[Encoded]) -> Encoded:
        """Batches of one length as one."""
        ids, types, mask = (np.concatenate(parts) for parts in zip(*(b.arrays() for b in batches), strict=True))
        return cls(ids, types, mask)


def padded_length(tokens: int) -> int:
    """The public length for a text of that many tokens: the smallest of `PADDED_LENGTHS` that fits."""
    for length in PADDED_LENGTHS:
        if tokens <= length:
            return length
    raise UserError(f"sequence of {tokens} tokens, and the limit is {PADDED_LENGTHS[-1]}: pass --truncate")


class Tokenizer:
    """A folder's own tokenizer, checked against the model that it is for.

    Args:
        directory: the folder: tokenizer.json, or else the older files.
        config: the model; None for a tokenizer by itself.

    Raises:
        UserError: no tokenizer, a damaged one, or one that does not fit the model.
    """

    def __init__(self, directory: str | os.PathLike[str], config: Architecture | None = None):
        directory = Path(directory)
        try:
            self._tokenizer = _load(directory, "bert" if config is None else config.model_type)
        except UserError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise UserError(f"the tokenizer in {directory} can't be read ({error}): fetch the folder again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        named = [self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>")]
        pad = next((found for found in named if found is not None), None)
        self.pad_token_id: int = (0 if pad is None else pad) if config is None else config.pad_token_id
        self._types = config is None or config.type_vocab_size > 1
        self._lower = _lowers(directory)
        if config is None:
            return
        size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if size > config.vocab_size:
            raise UserError(
                f"the tokenizer in {directory} has {size} tokens, and the model has {config.vocab_size}: "
                "use the folder's own tokenizer"
            )
        if pad is not None and pad != config.pad_token_id:
            raise UserError(
                f"the tokenizer in {directory} pads with {pad}, and the model with {config.pad_token_id}: "
                "use the folder's own tokenizer"
            )
        if not self._tokenizer.num_special_tokens_to_add(False):
            raise UserError(
                f"the tokenizer in {directory} puts no special tokens around a text, which the model expects: "
                "save it again with transformers' AutoTokenizer"
            )

    def encode(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        *,
        keep_tokens: bool = False,
    ) -> Encoded:
        """Encode texts, or pairs as [CLS] text [SEP] pair [SEP], padded to ``max_length`` (None: the least).

        With ``keep_tokens`` the result has `Encoded.tokens`.
        """
        if text_pairs is not None and len(text_pairs) != len(texts):
            raise UserError(f"{len(texts)} texts and {len(text_pairs)} pairs: pass one pair for each text")
        if not len(texts):
            raise UserError("no text, and at least one was expected: pass --text")
        texts = [self._clean(text) for text in texts]
        pairs = None if text_pairs is None else [self._clean(text) for text in text_pairs]
        inputs: list[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
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
            if self._types:
                types[row, : len(encoding.ids)] = encoding.type_ids
            mask[row, : len(encoding.ids)] = 1
        tokens = tuple(_tokens(*each) for each in zip(encodings, inputs, strict=True)) if keep_tokens else ()
        return Encoded(ids, types, mask, tokens)

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

    def _clean(self, text: str) -> str:
        """Refuse an empty text; a lone surrogate, which no encoding has, becomes U+FFFD."""
        if not text.strip():
            raise UserError("empty text, and at least one word was expected: pass some text")
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text.lower() if self._lower else text


def _tokens(encoding: tokenizers.Encoding, given: str | tuple[str, ...]) -> tuple[Token, ...]:
    texts = (given,) if isinstance(given, str) else given

    def token(name: str, text: int | None, span: tuple[int, int], word: int | None) -> Token:
        start, end = span
        # Byte-level tokenizers count a word's leading space to the word.
        while text is not None and start < end and texts[text][start].isspace():
            start += 1
        return Token(name, text, start, end, word)

    parts = encoding.tokens, encoding.sequence_ids, encoding.offsets, encoding.word_ids
    return tuple(token(*each) for each in zip(*parts, strict=True))


WORD_PIECE_FAMILIES = ("bert", "distilbert", "electra")
"""Whose vocab.txt is BERT's: others' may be too, with other special tokens."""


def _load(directory: Path, model_type: str) -> tokenizers.Tokenizer | BertWordPieceTokenizer:
    if (directory / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    options = _json(directory / "tokenizer_config.json")
    plain = str(options.get("tokenizer_class", "Bert")).startswith(("Bert", "DistilBert", "Electra"))
    plain = plain and "Japanese" not in str(options.get("tokenizer_class"))
    if not (directory / "vocab.txt").is_file() or model_type not in WORD_PIECE_FAMILIES or not plain:
        return _from_older_files(directory)
    return BertWordPieceTokenizer(
        WordPiece.read_file(str(directory / "vocab.txt")),
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )


OLDER_FILES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model")


def _from_older_files(directory: Path) -> tokenizers.Tokenizer:
    """Through transformers, which knows how each family's older files make a tokenizer."""
    if not any((directory / name).is_file() for name in OLDER_FILES):
        raise UserError(f"no tokenizer in {directory}: tokenizer.json or vocab.txt was expected beside config.json")
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise UserError(
            f"{directory} has no tokenizer.json, and to read its older files transformers is needed: pip install "
            "transformers, or save the tokenizer as tokenizer.json with it"
        ) from None

    found = AutoTokenizer.from_pretrained(directory, use_fast=True, trust_remote_code=False)
    if not found.is_fast:
        raise UserError(f"the tokenizer in {directory} has no fast form: save it as tokenizer.json with transformers")
    return found.backend_tokenizer


def _lowers(directory: Path) -> bool:
    """Whether sentence-transformers puts texts into lower case before the tokenizer sees them."""
    return _json(directory / "sentence_bert_config.json").get("do_lower_case") is True


def _json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
