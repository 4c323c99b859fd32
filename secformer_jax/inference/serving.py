"""How a checkpoint becomes what the engine takes: weights to publish, inputs to share, a module to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.inputs import EMBEDDINGS, Inputs, inputs_for
from secformer_jax.inference.opened import OpenedServing
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import functions_for
from secformer_jax.models.request import request_head
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives.masked import MaskedSeries


class Serving(Protocol):
    """What `PrivateModel` needs of a way to compute a model."""

    def weights(self, dealer: Dealer) -> dict[str, Any]:
        """Flax collections to publish, as numpy arrays."""

    def unmasked_weights(self) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """What a model owner who never learns the dealer's masks shares, one array at a time, by its path.

        Where `weights` has a masked value, the weight itself: the servers take its mask off.
        """

    def is_public(self, path: str) -> bool:
        """Whether a published leaf is given in clear: weights minus uniform masks."""

    @property
    def inputs(self) -> Inputs:
        """What the client shares for one request, in the order of the module's arguments."""

    def model(self, length: int) -> nn.Module:
        """The module for a padded length."""

    def states(self, model: nn.Module, variables: Any, *inputs: Any) -> list[Any]:
        """Run the module for what `read_states` reads: one array for the embeddings and one for each layer."""

    def read_states(self, revealed: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Hidden states (batch, length, hidden) from what `states` gave, revealed."""


class StandardServing:
    """`bert.ModelWithHead` on SPU's own arithmetic, any functions."""

    def __init__(
        self,
        model: Checkpoint,
        approximations: presets.Approximations,
        calibration: Calibration | None,
        fraction_bits: int,
        embedding: str,
        head: str | None = None,
    ) -> None:
        self._model, self._head, self._embedding = model, head or request_head(model), embedding
        self._functions = partial(
            functions_for,
            model.config,
            approximations,
            calibration=calibration,
            masking=partial(MaskedSeries, fraction_bits=fraction_bits),
        )

    def weights(self, dealer: Dealer) -> dict[str, Any]:
        """The parameters that the head reads."""
        return {"params": bert.select_params(self._model.params, self._model.config, self._head)}

    def unmasked_weights(self) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """The parameters that the head reads; no part of them is masked."""
        params = bert.select_params(self._model.params, self._model.config, self._head)
        yield from flatten_dict({"params": params}).items()

    def is_public(self, path: str) -> bool:
        """All weights are shared."""
        return False

    @property
    def inputs(self) -> Inputs:
        """In SPU's own ring."""
        return inputs_for(self._model.config, self._embedding, None)

    def model(self, length: int) -> nn.Module:
        """The model with its functions for this length."""
        lookup = bert.one_hot_inside if self._embedding == "inside" else bert.gather
        return bert.build_model(self._model.config, self._functions(length=length), self._head, lookup)

    def states(self, model: nn.Module, variables: Any, *inputs: Any) -> list[Any]:
        """The hidden states themselves."""
        _, kept = model.apply(variables, *inputs, output_intermediates=True)
        return [kept[f"hidden_states.{i}"] for i in range(self._model.config.num_hidden_layers + 1)]

    def read_states(self, revealed: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As they are."""
        return list(revealed)


def serving_for(
    model: Checkpoint,
    approximations: presets.Approximations,
    calibration: Calibration | None,
    fraction_bits: int,
    embedding: str,
    head: str | None = None,
) -> Serving:
    """The way to compute a checkpoint with these functions and this head; by default the one that answers requests.

    Raises:
        UserError: an embedding that there is not, or not with these functions.
    """
    if embedding not in EMBEDDINGS:
        raise UserError(f"unknown embedding {embedding!r}: choose one of {', '.join(EMBEDDINGS)}")
    if not approximations.openings:
        return StandardServing(model, approximations, calibration, fraction_bits, embedding, head)
    if embedding == "inside":
        raise UserError("this preset takes one-hot rows from the client: leave out --embedding inside")
    exact = approximations.softmax.family == "exact"
    return OpenedServing(model, calibration, fraction_bits, exact=exact, head=head)


def variables(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """The module's collections as shapes: its weights, and as "dealer" the material of one request."""
    with enable_x64():
        return jax.eval_shape(model.init, jax.random.key(0), *inputs)


def function(model: nn.Module) -> Callable[..., Any]:
    """What is compiled: (weights, material, *inputs) -> outputs."""

    def forward(weights: Any, material: Any, *inputs: Any) -> Any:
        return model.apply({**weights, "dealer": material}, *inputs)

    return forward
