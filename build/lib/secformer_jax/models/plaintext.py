"""A checkpoint with a choice of nonlinear functions, without MPC: the reference. Nothing here needs spu."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.ranges import load_calibration
from secformer_jax.models.request import request_head
from secformer_jax.models.text import Encoded
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
