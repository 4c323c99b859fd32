"""What it takes to serve a checkpoint with the opened model: its weights under masks, its inputs, its function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.inputs import Inputs, inputs_for
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.request import request_head
from secformer_jax.models.transformer import HEADS, select_params
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.runtime.shares import RING_BITS
from secformer_jax.openings import scales
from secformer_jax.openings.attention import two_quad
from secformer_jax.openings.constants import Plan
from secformer_jax.openings.fold import prepare
from secformer_jax.openings.model import LayerNorm, OpenedModel
from secformer_jax.openings.plan import balance, gelu_tail, make_plan, table
from secformer_jax.openings.softmax_exact import exact_softmax

FRACTION_BITS = 18
"""Of the runtime's numbers, which the head is computed with."""

STATE_BITS = 24
"""Bits of a hidden state that are looked at."""


class OpenedServing:
    """`OpenedModel` for a checkpoint; see `serving.Serving`."""

    def __init__(
        self,
        model: Checkpoint,
        calibration: Calibration | None,
        fraction_bits: int,
        *,
        exact: bool,
        head: str | None = None,
    ) -> None:
        self._calibration = _needed(calibration)
        if fraction_bits != FRACTION_BITS:
            raise UserError(
                f"the configuration has {fraction_bits} fraction bits, and the presets fast and drop-in are laid out "
                f"for {FRACTION_BITS}: set fxp_fraction_bits to {FRACTION_BITS}, or use another preset"
            )
        self._config, self._params, self._head = model.config, model.params, head or request_head(model)
        self._fraction_bits, self._exact = fraction_bits, exact

    def weights(self, dealer: Dealer) -> dict[str, Any]:
        """What is published: the weights as shares, in clear what is left of them under masks, the head as shares."""
        weights = dict(self._prepared())
        masks = dealer.mask_weights({name: weight.shape for name, weight in weights.items()})
        opened = {name: weight - masks.array(name) for name, weight in weights.items()}
        return {
            "weights": unflatten_dict(weights, sep="/"),
            "opened": unflatten_dict(opened, sep="/"),
            "params": _head(select_params(self._params, self._config, self._head)),
        }

    def unmasked_weights(self) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """The weights themselves where their masked values go, one by one, and the head."""
        for name, weight in self._prepared():
            yield ("opened", *name.split("/")), weight
        head = _head(select_params(self._params, self._config, self._head))
        yield from flatten_dict({"params": head}).items()

    def _prepared(self) -> Iterator[tuple[str, np.ndarray]]:
        layers = range(self._config.num_hidden_layers)
        stretches = [gelu_tail(self._config, self._calibration, i)[1] for i in layers]
        balances, (bits, _) = [balance(self._calibration, i) for i in layers], table(self._config, self._calibration)
        return prepare(self._params, self._config, bits, stretches, balances)

    def is_public(self, path: str) -> bool:
        """Whether a published leaf is given in clear: weights minus uniform masks."""
        return path.startswith("['opened']")

    @property
    def inputs(self) -> Inputs:
        """See `OpenedModel`."""
        return inputs_for(self._config, "client", word_bits(self._config, self._calibration))

    def _plan(self, length: int) -> Plan:
        return make_plan(self._config, self._calibration, length, exact=self._exact)

    def model(self, length: int) -> OpenedModel:
        """The Flax module for a padded length.

        Raises:
            UserError: ranges of another family of functions, or of shorter texts.
        """
        self._calibration.check(presets.family(presets.PRESETS["drop-in" if self._exact else "fast"]), length)
        plan = self._plan(length)
        softmax = exact_softmax if self._exact else two_quad
        return OpenedModel(self._config, plan, HEADS[self._head], softmax, self._fraction_bits)

    def states(self, model: nn.Module, variables: Any, *inputs: Any) -> list[Any]:
        """Ring elements of what LayerNorm gives before gamma and beta, which are part of the next weights here."""
        _, kept = model.apply(variables, *inputs, capture_intermediates=_is_layer_norm, mutable=["intermediates"])
        layers = range(self._config.num_hidden_layers)
        names = ["embeddings_norm", *(f"layer_{i}_output_norm" for i in layers)]
        values = [kept["intermediates"][name]["__call__"][0] for name in names]
        # Their rings differ, and all hold the lowest bits: enough for what LayerNorm gives.
        return [value.ring << (RING_BITS - STATE_BITS) for value in values]

    def read_states(self, revealed: Sequence[np.ndarray]) -> list[np.ndarray]:
        """With gamma and beta."""
        bert = self._params["bert"]
        layers = bert["encoder"]["layer"]
        norms = [bert["embeddings"]["LayerNorm"]]
        norms += [layers[str(i)]["output"]["LayerNorm"] for i in range(self._config.num_hidden_layers)]
        states = [
            ring * 2.0 ** (STATE_BITS - RING_BITS - scales.HIDDEN) * np.asarray(norm["scale"])
            + np.asarray(norm["bias"])
            for ring, norm in zip(revealed, norms, strict=True)
        ]
        if self._config.embedding_size:
            project = bert["embeddings_project"]
            states[0] = states[0] @ np.asarray(project["kernel"]) + np.asarray(project["bias"])
        return states


def word_bits(config: Architecture, calibration: Calibration | None) -> int:
    """Bits of the ring that a client's words are shared in.

    Raises:
        UserError: no ranges.
    """
    return table(config, _needed(calibration))[1]


def _needed(calibration: Calibration | None) -> Calibration:
    if calibration is None:
        raise UserError("this preset needs this model's ranges: run `secformer calibrate --model DIR`")
    return calibration


def _is_layer_norm(module: nn.Module, method: str) -> bool:
    return isinstance(module, LayerNorm) and method == "__call__"


def _head(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that stay ordinary numbers: pooler and classifier."""
    head = {name: params[name] for name in params if name != "bert"}
    if "pooler" in params["bert"]:
        head["pooler"] = params["bert"]["pooler"]
    return head
