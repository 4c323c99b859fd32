"""A smaller model out of a larger one: fewer layers, a smaller vocabulary, fewer positions."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.implementations import BertWordPieceTokenizer

from secformer_jax.errors import UserError
from secformer_jax.models.checkpoint import Checkpoint

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTINUED = "##"
_LAST_CHARACTER = 0x24F
"""Pieces of one character are kept up to here (Latin), so that any English word can be split into what there is."""
_OPTIONS = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}


def uniform_layers(kept: int, of: int) -> tuple[int, ...]:
    """Which layers of a deeper model a shallower one follows: the last of each of `kept` equal groups."""
    if not 1 <= kept <= of:
        raise UserError(f"{kept} layers of a model that has {of}: pass 1 to {of}")
    return tuple(round((i + 1) * of / kept) - 1 for i in range(kept))


def keep_layers(model: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """The model with these of its layers alone, in this order.

    Raises:
        UserError: a layer that it has not, or not in rising order.
    """
    depth = model.config.num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise UserError(f"layers {', '.join(map(str, layers))}: some of 0 to {depth - 1} in rising order were expected")
    stack = model.params["bert"]["encoder"]["layer"]
    kept = {str(i): stack[str(layer)] for i, layer in enumerate(layers)}
    config = dataclasses.replace(model.config, num_hidden_layers=len(layers))
    return dataclasses.replace(model, config=config, params=_with(model, encoder={"layer": kept}))


def keep_positions(model: Checkpoint, positions: int) -> Checkpoint:
    """The model for texts of at most that many tokens."""
    if not 3 <= positions <= model.config.positions:
        raise UserError(f"{positions} positions, and the model has {model.config.positions}")
    rows = positions + model.config.position_offset
    config = dataclasses.replace(model.config, max_position_embeddings=rows)
    tables = _with_table(model, "position_embeddings", np.arange(rows))
    return dataclasses.replace(model, config=config, params=_with(model, embeddings=tables))


def keep_vocabulary(model: Checkpoint, texts: Iterable[str], size: int, folder: Path) -> Checkpoint:
    """The model with the `size` word pieces that these texts use most, and with single characters.

    Its tokenizer (lower case, as the model's own) is written to `folder`: vocab.txt and tokenizer_config.json.
    """
    known = _vocabulary(model.tokenizer_dir)
    kept = choose_pieces(known, texts, size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in kept), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_OPTIONS, indent=1) + "\n", encoding="utf-8")
    tables = _with_table(model, "word_embeddings", np.array([known[piece] for piece in kept]))
    config = dataclasses.replace(model.config, vocab_size=len(kept), pad_token_id=kept.index(SPECIAL[0]))
    return dataclasses.replace(
        model, config=config, params=_with(model, embeddings=tables), tokenizer_dir=folder, path=folder
    )


def choose_pieces(known: dict[str, int], texts: Iterable[str], size: int) -> list[str]:
    """Special pieces, single Latin characters alone and continued, then the most used, in the order of their ids."""
    kept = {piece for piece in known if piece in SPECIAL or _is_character(piece)}
    if len(kept) > size:
        raise UserError(f"a vocabulary of {size} pieces: {len(kept)} single characters alone are more, ask for more")
    splitter = BertWordPieceTokenizer(known, lowercase=True)
    used: collections.Counter[str] = collections.Counter()
    for encoding in splitter.encode_batch(list(texts), add_special_tokens=False):
        used.update(encoding.tokens)
    # Ties go to the lower id, so that the choice follows from the texts alone.
    ranked = sorted(used, key=lambda piece: (-used[piece], known[piece]))
    kept |= set([piece for piece in ranked if piece not in kept][: size - len(kept)])
    return sorted(kept, key=lambda piece: known[piece])


def _is_character(piece: str) -> bool:
    character = piece.removeprefix(_CONTINUED) or piece
    return len(character) == 1 and ord(character) <= _LAST_CHARACTER


def _vocabulary(folder: Path) -> dict[str, int]:
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return {piece: i for i, piece in enumerate(lines) if piece}
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()


def _with(model: Checkpoint, **parts: Any) -> dict[str, Any]:
    return {**model.params, "bert": {**model.params["bert"], **parts}}


def _with_table(model: Checkpoint, name: str, rows: np.ndarray) -> dict[str, Any]:
    tables = model.params["bert"]["embeddings"]
    return {**tables, name: {"embedding": np.asarray(tables[name]["embedding"])[rows]}}
