"""A checkpoint with a choice of nonlinear functions, without MPC: the reference, and the pass that measures ranges.

Nothing here needs spu.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions import calibration as calibrate
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded, Tokenizer
from secformer_jax.models.transformer import Architecture

Progress = Callable[[int, int], None]
"""Called with (done, total) as the work goes on."""


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
        return np.asarray(self._apply(self._model.params, _arrays(encoded), keep=False))

    def intermediates(self, encoded: Encoded) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits, and the model's named intermediates."""
        logits, kept = self._apply(self._model.params, _arrays(encoded), keep=True)
        return np.asarray(logits), kept


def _arrays(encoded: Encoded) -> tuple[np.ndarray, ...]:
    return encoded.input_ids, encoded.token_type_ids, encoded.attention_mask


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
) -> Encoded:
    """One request as the model's head takes it: a sentence encoder reads a pair as two rows, others as one.

    Raises:
        UserError: an empty or overlong text, or one text alone for a model without a classification head.
    """
    if request_head(model) == "similarity":
        if text_pair is None:
            raise UserError("this model has no classification head: give two texts (--text-pair) to compare them")
        return encode(model, tokenizer, [text, text_pair], None, max_length, truncate)
    return encode(model, tokenizer, [text], None if text_pair is None else [text_pair], max_length, truncate)


def encode(
    model: Checkpoint,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int | None,
    truncate: bool,
) -> Encoded:
    """Encode a batch; without a padded length given, the least that fits, within the positions of the model."""
    positions = model.config.positions
    if max_length is None:
        encoded = tokenizer.encode(texts, pairs, None, truncate)
        if encoded.input_ids.shape[1] <= positions:
            return encoded
        longest = int(encoded.attention_mask.sum(axis=1).max())
        if longest > positions and not truncate:
            raise UserError(f"sequence of {longest} tokens, and the model has {positions} positions: pass --truncate")
        max_length = positions
    return tokenizer.encode(texts, pairs, max_length, truncate)


def load_calibration(
    model: Checkpoint, approximations: presets.Approximations, path: str | Path | None = None
) -> Calibration | None:
    """The model's ranges for these functions, or None where they need none; from its own folder by default."""
    if not presets.needs_calibration(approximations):
        return None
    family = presets.family(approximations)
    return calibrate.load(path or model.path / calibrate.FILE_NAME, fingerprint=model.fingerprint, family=family)


def calibration_sentences() -> list[str]:
    """The sentences that come with the package to measure ranges on."""
    lines = (resources.files("secformer_jax") / "data" / "calibration_sentences.txt").read_text(encoding="utf-8")
    return [line for line in lines.split("\n") if line.strip()]


def calibrate_model(
    model: Checkpoint,
    encoded: Encoded,
    families: Iterable[str] | None = None,
    *,
    batch_size: int = 8,
    progress: Progress = lambda done, total: None,
) -> list[Calibration]:
    """Measure a model's ranges on a batch of sentences, once for each family of functions (None: for every family).

    Pad the sentences to the greatest length that is to be served: padded positions are measured too, and a position's
    values don't depend on how many follow it.
    """
    chosen = presets.families() if families is None else {name: presets.families()[name] for name in families}
    starts = range(0, len(encoded.input_ids), batch_size)
    measured: list[Calibration] = []
    for name, approximations in chosen.items():
        run, ranges = Plaintext(model, approximations, head="embedding"), None
        for start in starts:
            # The last batch is filled up with sentences of the one before: one shape, compiled once.
            rows = slice(max(0, min(start, len(encoded.input_ids) - batch_size)), start + batch_size)
            batch = Encoded(*(array[rows] for array in _arrays(encoded)))
            _, kept = run.intermediates(batch)
            ranges = calibrate.update(ranges, kept, batch.attention_mask, fingerprint=model.fingerprint, family=name)
            progress(len(measured) * len(starts) + start // batch_size + 1, len(chosen) * len(starts))
        if ranges is None:
            raise UserError("no sentence to calibrate on: give at least one")
        measured.append(dataclasses.replace(ranges, sentences=len(encoded.input_ids)))
    return measured
