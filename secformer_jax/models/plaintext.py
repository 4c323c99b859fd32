"""A checkpoint with a choice of nonlinear functions, without MPC: the reference. Nothing here needs spu."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.ranges import load_calibration
from secformer_jax.models.text import Encoded, Tokenizer
from secformer_jax.models.transformer import Architecture


class Plaintext:
    """The same model and functions without MPC: the reference, for any batch.

    Args:
        model: the checkpoint.
        approximations: the nonlinear functions.
        calibration: ranges of this model, for functions that need some; by default those kept beside it.
        head: one of `bert.HEADS`; the one that answers requests by default.
    """

    def __init__(
        self,
        model: Checkpoint,
        approximations: presets.Approximations,
        *,
        calibration: Calibration | None = None,
        head: str | None = None,
    ) -> None:
        self._model, self._head = model, head or request_head(model)
        calibration = calibration or load_calibration(model, approximations)
        self._functions = partial(functions_for, model.config, approximations, calibration=calibration)
        self._apply = jax.jit(self._run, static_argnames="keep")

    def _run(self, params: Any, encoded: tuple[jax.Array, ...], keep: bool) -> Any:
        model = bert.build_model(self._model.config, self._functions(length=encoded[0].shape[1]), self._head)
        return model.apply({"params": params}, *encoded, output_intermediates=keep)

    def __call__(self, encoded: Encoded) -> np.ndarray:
        """Logits (texts, labels), or cosines (pairs,) for a sentence encoder whose batch holds pairs of rows."""
        return np.asarray(self._apply(self._model.params, encoded.arrays(), keep=False))

    def intermediates(self, encoded: Encoded) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits, and the model's named intermediates."""
        logits, kept = self._apply(self._model.params, encoded.arrays(), keep=True)
        return np.asarray(logits), kept


def request_head(model: Checkpoint) -> str:
    """The head that answers requests: the model's own, or the cosine of pairs for a sentence encoder."""
    return "similarity" if model.head == "embedding" else model.head


def functions_for(
    config: Architecture,
    approximations: presets.Approximations,
    *,
    length: int,
    calibration: Calibration | None = None,
    masking: presets.Masking = presets.unmasked,
) -> presets.ModelFunctions:
    """The functions of a model of this shape at this padded length."""
    return presets.build(
        approximations,
        num_layers=config.num_hidden_layers,
        epsilon=config.layer_norm_eps,
        length=length,
        activation=config.hidden_act,
        calibration=calibration,
        masking=masking,
    )


def encode_request(
    model: Checkpoint,
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
    model: Checkpoint,
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
