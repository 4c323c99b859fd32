"""From a published description to what is compiled: the function, and the shapes of all that goes into it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from secformer_jax.cluster.deployment import Deployment, RequestShape
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.presets import Approximations
from secformer_jax.inference.opened import word_bits
from secformer_jax.inference.reveal import EVERYTHING, Reveal
from secformer_jax.inference.serving import Serving, function, serving_for, variables
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.families import family_of
from secformer_jax.models.request import request_head
from secformer_jax.models.transformer import part_of as part_of
from secformer_jax.mpc.runtime.shares import InputSpec

WEIGHTS, OPENED, DEALER = "weights", "opened", "dealer"
"""Collections of the opened model: its weights, the weights less their masks, and the material of one request."""

MASKS = "masks"
"""Where the dealer's masks of the weights are on the wire."""


def describe(
    model: Checkpoint,
    approximations: Approximations,
    calibration: Calibration | None,
    *,
    embedding: str = "client",
    keep_weights: bool = True,
    head: str | None = None,
    reveal: Reveal = EVERYTHING,
) -> Deployment:
    """What is to be known about a checkpoint that is served with these functions and this head.

    Raises:
        UserError: the head does not answer so, or ranges are missing.
    """
    head = head or request_head(model)
    reveal.check(head)
    names, openings = approximations.names(), approximations.openings
    ranges = None if calibration is None else calibration.published()
    bits = word_bits(model.config, ranges) if openings else None
    nonce = secrets.token_hex(16)
    return Deployment(model.config, head, names, openings, ranges, embedding, bits, keep_weights, reveal, nonce)


def checked(deployment: Deployment) -> Deployment:
    """A description that somebody else sends, whose model can be computed as it says.

    Raises:
        UserError: it can't.
    """
    family_of(deployment.config.model_type)
    functions, ranges = approximations(deployment), deployment.calibration
    if ranges is not None:
        ranges.check(presets.family(functions), 0)
    if deployment.openings and deployment.input_bits != word_bits(deployment.config, ranges):
        raise UserError(f"a description with input_bits {deployment.input_bits}, which its ranges don't give")
    return deployment


def approximations(deployment: Deployment) -> Approximations:
    """Its functions."""
    return presets.from_names(deployment.functions, deployment.openings)


def serving(deployment: Deployment, fraction_bits: int, model: Checkpoint | None = None) -> Serving:
    """How the model is computed; without its checkpoint there are no weights in it."""
    model = model or _without_weights(deployment)
    ranges, embedding = deployment.calibration, deployment.embedding
    return serving_for(model, approximations(deployment), ranges, fraction_bits, embedding, deployment.head)


def _without_weights(deployment: Deployment) -> Checkpoint:
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
    inputs = serving.inputs.specs(shape.rows, shape.length)
    module = serving.model(shape.length)
    weights = variables(module, tuple(abstract(spec) for spec in inputs))
    material = weights.pop(DEALER, {})
    return Requirements(function(module), weights, material, inputs)


def mask_shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The weights' masks by the dealer's names."""
    return {name: leaf.shape for name, leaf in flatten_dict(dict(weights.get(WEIGHTS, {})), sep="/").items()}
