"""What it takes to serve a checkpoint with the opened model: its weights under masks, its inputs, its function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from ..bert import BertConfig, select_params
from ..calibration import Calibration
from ..mpc.dealer import Dealer
from ..text import Encoded
from .model import OpenedBert
from .plan import make_plan
from .weights import prepare


@dataclass(frozen=True)
class OpenedServing:
    """A checkpoint's parameters as the opened model's."""

    config: BertConfig
    params: Mapping[str, Any]
    head: str
    calibration: Calibration
    fraction_bits: int

    def weights(self, dealer: Dealer) -> dict[str, Any]:
        """What is published: the dealer's masks as shares, the masked weights in clear, the head as shares."""
        weights = prepare(self.params, self.config)
        masks = dealer.mask_weights({name: weight.shape for name, weight in weights.items()})
        opened = {name: weight - masks[name] for name, weight in weights.items()}
        selected = select_params(self.params, self.config, self.head)
        return {
            "masks": unflatten_dict(masks, sep="/"),
            "opened": unflatten_dict(opened, sep="/"),
            "params": {name: tree for name, tree in _head(selected).items()},
        }

    @staticmethod
    def is_public(path: str) -> bool:
        """Whether a published leaf is given in clear: weights minus uniform masks."""
        return path.startswith("['opened']")

    def inputs(self, encoded: Encoded) -> tuple[np.ndarray, ...]:
        """What the client shares: one-hot rows, key weights and the mask; see `OpenedBert`."""
        rows = np.concatenate(
            [
                encoded.input_ids[..., None] == np.arange(self.config.vocab_size),
                encoded.token_type_ids[..., None] == np.arange(self.config.type_vocab_size),
            ],
            axis=-1,
        )
        mask = encoded.attention_mask
        weights = mask * np.rint(mask.shape[1] / mask.sum(axis=1, keepdims=True))
        return rows.astype(np.int64), weights.astype(np.int64), mask

    def model(self, length: int) -> OpenedBert:
        """The Flax module for a padded length."""
        return OpenedBert(self.config, make_plan(self.config, self.calibration, length), self.head, self.fraction_bits)

    def material(self, length: int, inputs: tuple[np.ndarray, ...]) -> Any:
        """Abstract dealer material for one request; call with jax_enable_x64 on."""
        return jax.eval_shape(self.model(length).init, jax.random.key(0), *inputs)["dealer"]


def _head(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that stay ordinary numbers: pooler and classifier."""
    head = {name: params[name] for name in params if name != "bert"}
    if "pooler" in params["bert"]:
        head["pooler"] = params["bert"]["pooler"]
    return head
