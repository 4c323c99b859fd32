"""From a published description to what is compiled: the function, and the shapes of all that goes into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from secformer_jax.cluster.deployment import Deployment, RequestShape
from secformer_jax.inference.serving import Serving, function, serving_for, variables
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.transformer import part_of as part_of
from secformer_jax.mpc.runtime.shares import InputSpec

WEIGHTS, OPENED, DEALER = "weights", "opened", "dealer"
"""Collections of the opened model: its weights, the weights less their masks, and the material of one request."""

MASKS = "masks"
"""Where the dealer's masks of the weights are on the wire."""


def serving(deployment: Deployment, fraction_bits: int, model: Checkpoint | None = None) -> Serving:
    """How the model is computed; without its checkpoint there are no weights in it."""
    functions, ranges = deployment.approximations(), deployment.calibration
    model = model or without_weights(deployment)
    return serving_for(model, functions, ranges, fraction_bits, deployment.embedding, deployment.head)


def without_weights(deployment: Deployment) -> Checkpoint:
    """What is known of the checkpoint to everybody."""
    head = "embedding" if deployment.head == "similarity" else deployment.head
    return Checkpoint(deployment.config, {}, head, tokenizer_dir=Path(), path=Path())


@dataclass(frozen=True)
class Requirements:
    """What is needed to compile for one shape of request, and to know what goes into it.

    Attributes:
        compute: (weights, material, *inputs) -> logits.
        weights: the collections that stay, as shapes.
        material: abstract dealer material.
        inputs: what the client shares.
    """

    compute: Any
    weights: dict[str, Any]
    material: Any
    inputs: tuple[InputSpec, ...]

    def arguments(self) -> tuple[Any, ...]:
        """What `compute` takes, as shapes."""
        return self.weights, self.material, *(abstract(spec) for spec in self.inputs)


def abstract(spec: InputSpec) -> jax.ShapeDtypeStruct:
    """An input as JAX traces it."""
    return jax.ShapeDtypeStruct(spec.shape, spec.dtype)


def requirements(serving: Serving, shape: RequestShape) -> Requirements:
    """Everything but the weights for a shape of request."""
    inputs = serving.input_specs(shape.rows, shape.length)
    module = serving.model(shape.length)
    weights = variables(module, tuple(abstract(spec) for spec in inputs))
    material = weights.pop(DEALER, {})
    return Requirements(function(module), weights, material, inputs)


def mask_shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The weights' masks by the dealer's names."""
    return {name: leaf.shape for name, leaf in flatten_dict(dict(weights.get(WEIGHTS, {})), sep="/").items()}
