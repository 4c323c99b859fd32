"""A private model: a checkpoint, a choice of nonlinear functions and a protocol, joined into something that answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.answers import decode
from secformer_jax.inference.serving import function, serving_for, variables
from secformer_jax.models import transformer as bert
from secformer_jax.models.calibrate import DEFAULT_LENGTH, ensure_calibration
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.request import encode_request, request_head
from secformer_jax.models.text import Encoded, Tokenizer, padded_length
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Engine, Result
from secformer_jax.mpc.runtime.program import Program

logger = logging.getLogger(__name__)

__all__ = ["Answer", "Plaintext", "PrivateModel"]


@dataclass(frozen=True)
class Answer:
    """What the client learns, and what it cost.

    Attributes:
        logits: what the head gives: (texts, labels), (texts, length, labels), (texts, length, 2), vectors (texts,
            width) or cosines (pairs,).
        result: costs of this request.
        compile_seconds: time to compile for this shape; 0 if it had been compiled before.
        seq_length: the public padded length.
        decoded: what the logits say, see `answers.decode`; for a text that `infer` was asked about.
    """

    logits: np.ndarray
    result: Result = field(repr=False)
    compile_seconds: float
    seq_length: int
    decoded: Mapping[str, Any] = field(default_factory=dict)


class PrivateModel:
    """Serves one checkpoint under MPC; compiled once for each padded length and batch size.

    Args:
        model: the checkpoint.
        approximations: the nonlinear functions, from `presets.preset`.
        config: a configuration, its name in spu_configs/, or a path.
        calibration: ranges of this model, for functions that need some; by default those kept beside it, measured
            first where there are none.
        embedding: "client": the client shares one-hot rows; "inside": it shares ids, and the protocol compares them.
        keep_weights: keep the openings of the weights between requests (SEMI2K).
        head: another of `heads.HEADS` than the one that answers requests by default: "embedding" for vectors.
    """

    def __init__(
        self,
        model: Checkpoint,
        approximations: presets.Approximations,
        config: mpc_config.MpcConfig | str | Path = "2pc_semi2k",
        *,
        calibration: Calibration | None = None,
        embedding: str = "client",
        keep_weights: bool = True,
        head: str | None = None,
    ) -> None:
        self.config = config if isinstance(config, mpc_config.MpcConfig) else mpc_config.load(config)
        self._model = model
        if calibration is None:
            length = min(DEFAULT_LENGTH, model.config.positions)
            calibration = ensure_calibration(model, approximations, length=length, say=logger.info)
        self._head = head or request_head(model)
        bits = self.config.fraction_bits
        self._serving = serving_for(model, approximations, calibration, bits, embedding, self._head)
        # What is missing for these functions should be said before anything is shared.
        self._serving.model(padded_length(1))
        self._programs: dict[tuple[int, ...], tuple[Program, Any]] = {}
        self._dealer = Dealer()
        self._engine = Engine(self.config, part_of=bert.part_of, keep_weights=keep_weights)
        self._engine.publish(self._serving.weights(self._dealer), public=self._serving.is_public)

    def __enter__(self) -> PrivateModel:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the computing parties."""
        self._engine.close()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return Tokenizer(self._model.tokenizer_dir, self._model.config)

    def infer(
        self, text: str, text_pair: str | None = None, *, max_length: int | None = None, truncate: bool = False
    ) -> Answer:
        """Answer one text, or one pair of texts.

        Raises:
            UserError: a text that the model doesn't take.
        """
        encoded = encode_request(self._model, self.tokenizer, text, text_pair, max_length, truncate, head=self._head)
        answer, texts = self(encoded), (text, text_pair)
        decoded = decode(self._model.config, self._head, answer.logits[0], encoded.tokens[0], texts)
        return replace(answer, decoded=decoded)

    def __call__(self, encoded: Encoded) -> Answer:
        """Answer one encoded batch; dealer material is made for it and used up."""
        inputs = self._serving.inputs.arrays(encoded)
        started = time.perf_counter()
        fresh = encoded.input_ids.shape not in self._programs
        program, material = self._program(encoded.input_ids.shape, inputs)
        compile_seconds = time.perf_counter() - started if fresh else 0.0
        specs = self._serving.inputs.specs(*encoded.input_ids.shape)
        result = self._engine.run(program, self._dealer.deal(material), *inputs, specs=specs)
        return Answer(result.value, result, compile_seconds, encoded.input_ids.shape[1])

    def _program(self, shape: tuple[int, ...], inputs: tuple[np.ndarray, ...]) -> tuple[Program, Any]:
        if shape not in self._programs:
            model = self._serving.model(shape[1])
            material = variables(model, inputs).get("dealer", {})
            self._programs[shape] = self._engine.compile(function(model), material, *inputs), material
        return self._programs[shape]
