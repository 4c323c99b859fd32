"""From a published description to what is compiled: the function, and the shapes of all that goes into it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from secformer_jax.cluster.decoder_deployment import DecoderDeployment
from secformer_jax.cluster.deployment import Deployment
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.fits import Fits, OwnFits, PublishedFits
from secformer_jax.functions.presets import Approximations
from secformer_jax.functions.series import Series
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.inference.decoders.weights import prepared
from secformer_jax.inference.opened import FRACTION_BITS, word_bits
from secformer_jax.inference.reveal import EVERYTHING, Reveal
from secformer_jax.inference.serving import Serving, function, serving_for, variables
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.decoders import decoder_family
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.plaintext import checked_room
from secformer_jax.models.decoders.tokens import ChatTokens
from secformer_jax.models.families import family_of
from secformer_jax.models.request import request_head
from secformer_jax.models.transformer import part_of as part_of
from secformer_jax.mpc.runtime.shares import InputSpec
from secformer_jax.openings.decoder.plan import logits_width, table_width

MOST_LAYERS = 512
"""More would cost too much to look at."""

P = TypeVar("P", bound=Published)
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
    return fitted(
        Deployment(model.config, head, names, openings, ranges, {}, embedding, bits, keep_weights, reveal, nonce)
    )


def checked(deployment: P) -> P:
    """A description that somebody else sends, whose model can be computed as it says.

    Raises:
        UserError: it can't.
    """
    _check(deployment)
    try:
        _plans(deployment, _published_fits(deployment))
    except UserError:
        raise
    except (ArithmeticError, ValueError) as error:
        raise UserError(f"a description whose ranges and series make no program ({error!r})") from None
    return deployment


def _check(deployment: Published) -> None:
    if deployment.config.num_hidden_layers > MOST_LAYERS:
        raise UserError(f"{deployment.config.num_hidden_layers} layers, and {MOST_LAYERS} are the most that is served")
    if isinstance(deployment, DecoderDeployment):
        decoder_family(deployment.config.model_type)
        found = deployment.input_bits, deployment.logits_bits
        if found != rings_of(deployment.config, deployment.calibration):
            raise UserError(f"a description with rings of {found} bits, which its ranges don't give")
        return
    family_of(deployment.config.model_type)
    functions, ranges = approximations(deployment), deployment.calibration
    if ranges is not None:
        ranges.check(presets.family(functions), 0)
    if deployment.openings and deployment.input_bits != word_bits(deployment.config, ranges):
        raise UserError(f"a description with input_bits {deployment.input_bits}, which its ranges don't give")


def fitted(deployment: P) -> P:
    """With the series that its programs have, as they are fitted here.

    Raises:
        UserError: ranges that are too wide.
    """
    fits = OwnFits()
    _plans(deployment, fits)
    made = {name: series.to_json() for name, series in fits.made.items()}
    return checked(dataclasses.replace(deployment, series=made))


def _published_fits(deployment: Published) -> PublishedFits:
    """What its owner fitted.

    Raises:
        UserError: no series.
    """
    try:
        return PublishedFits({name: Series.from_json(values) for name, values in deployment.series.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a description with a series that is none ({error!r})") from None


def _plans(deployment: Published, fits: Fits) -> None:
    """Choose all constants of its programs."""
    served = _serving(deployment, FRACTION_BITS, fits)
    if isinstance(served, DecoderServing):
        return  # It has chosen them.
    for length in deployment.lengths():
        try:
            served.model(length)
        except UserError as error:
            raise UserError(f"texts padded to {length} tokens: {error}") from None


def rings_of(config: DecoderArchitecture, ranges: Calibration) -> tuple[int, int]:
    """Bits of the rings of what a decoder's client shares, and of what it gets."""
    return table_width(config, ranges), logits_width(ranges)


def describe_decoder(
    model: DecoderCheckpoint, calibration: Calibration, tokens: ChatTokens, capacity: int
) -> DecoderDeployment:
    """What is to be known about a decoder that is served behind its prefix, with room for so many tokens.

    Raises:
        UserError: more than the model has positions for.
    """
    checked_room(model.config, len(tokens.prefix) + capacity)
    ranges = calibration.published()
    rings, nonce = rings_of(model.config, ranges), secrets.token_hex(16)
    return fitted(DecoderDeployment(model.config, ranges, {}, tokens.format, tokens.prefix, capacity, *rings, nonce))


def approximations(deployment: Deployment) -> Approximations:
    """Its functions."""
    return presets.from_names(deployment.functions, deployment.openings)


def serving(deployment: Published, fraction_bits: int) -> Serving | DecoderServing:
    """How the model is computed, with its owner's series; there are no weights in it."""
    return _serving(deployment, fraction_bits, _published_fits(deployment))


def _serving(deployment: Published, fraction_bits: int, fits: Fits) -> Serving | DecoderServing:
    if isinstance(deployment, DecoderDeployment):
        ranges = dataclasses.replace(deployment.calibration, fits=fits)
        return DecoderServing(deployment.config, ranges, len(deployment.prefix), deployment.capacity)
    return _encoder(deployment, fraction_bits, _without_weights(deployment), fits)


def unmasked_weights(
    deployment: Published, fraction_bits: int, model: Checkpoint | DecoderCheckpoint
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """What an owner who never learns the dealer's masks shares, one array at a time, by its path."""
    if isinstance(deployment, DecoderDeployment):
        assert isinstance(model, DecoderCheckpoint)
        return (((OPENED, *name.split("/")), weight) for name, weight in prepared(model, deployment.prefix))
    assert isinstance(model, Checkpoint)
    return _encoder(deployment, fraction_bits, model, _published_fits(deployment)).unmasked_weights()


def _encoder(deployment: Deployment, fraction_bits: int, model: Checkpoint, fits: Fits) -> Serving:
    ranges, embedding = deployment.calibration, deployment.embedding
    if ranges is not None:
        ranges = dataclasses.replace(ranges, fits=fits)
    return serving_for(model, approximations(deployment), ranges, fraction_bits, embedding, deployment.head)


def _without_weights(deployment: Deployment) -> Checkpoint:
    """What is known of the checkpoint to everybody."""
    head = "embedding" if deployment.head == "similarity" else deployment.head
    return Checkpoint(deployment.config, {}, head, tokenizer_dir=Path(), path=Path())


@dataclass(frozen=True)
class Requirements:
    """What is needed to compile for one shape of request, and to know what goes into it.

    Attributes:
        compute: (weights, material, *inputs) -> logits; with a state: (.., known, state) -> (logits, state).
        weights: the collections that stay, as shapes.
        material: abstract dealer material.
        inputs: what the client shares.
        known: what every party knows of a conversation's pass.
        state: what the passes of a conversation leave to each other, as shapes.
    """

    compute: Any
    weights: dict[str, Any]
    material: Any
    inputs: tuple[InputSpec, ...]
    known: Any = ()
    state: Any = ()

    @property
    def stateful(self) -> bool:
        """Whether there is a state."""
        return bool(jax.tree.leaves(self.state))

    def shared(self) -> tuple[Any, ...]:
        """What the client shares, as shapes."""
        return tuple(abstract(spec) for spec in self.inputs)

    def arguments(self) -> tuple[Any, ...]:
        """What `compute` takes, as shapes."""
        return self.weights, self.material, *self.shared(), *((self.known, self.state) if self.stateful else ())


def abstract(spec: InputSpec) -> jax.ShapeDtypeStruct:
    """An input as JAX traces it."""
    return jax.ShapeDtypeStruct(spec.shape, spec.dtype)


def requirements(serving: Serving | DecoderServing, shape: RequestShape) -> Requirements:
    """Everything but the weights for a shape of request."""
    if isinstance(serving, DecoderServing):
        return _of_pass(serving, shape.length)
    inputs = serving.inputs.specs(shape.rows, shape.length)
    module = serving.model(shape.length)
    weights = variables(module, tuple(abstract(spec) for spec in inputs))
    material = weights.pop(DEALER, {})
    return Requirements(function(module), weights, material, inputs)


def _of_pass(serving: DecoderServing, new: int) -> Requirements:
    weights = serving.variables(new)
    material = weights.pop(DEALER)
    known = serving.known(np.zeros(serving.capacity, bool), new, start=0, real=new)
    return Requirements(serving.function(), weights, material, serving.inputs.specs(1, new), known, serving.cache())


def needs_dealer(deployment: Published, fraction_bits: int) -> bool:
    """Whether the weights or a request take masks of the dealer's."""
    if deployment.masked:
        return True
    return bool(jax.tree.leaves(requirements(serving(deployment, fraction_bits), deployment.least).material))


def mask_shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The weights' masks by the dealer's names."""
    return {name: leaf.shape for name, leaf in flatten_dict(dict(weights.get(WEIGHTS, {})), sep="/").items()}
