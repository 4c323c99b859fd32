"""Decoders: causal language models, with one file for each family; see `model.Decoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.decoders import gpt2, llama
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.family import DecoderFamily

FAMILIES: Mapping[str, DecoderFamily] = {each.model_type: each for each in (llama.FAMILY, gpt2.FAMILY)}
"""By Hugging Face's model_type."""


def decoder_family(model_type: Any) -> DecoderFamily:
    """The family of a model_type.

    Raises:
        UserError: a kind of model that is not supported.
    """
    if model_type not in FAMILIES:
        raise UserError(
            f"model_type is {model_type!r}, and only {', '.join(sorted(FAMILIES))} generate text: use such a model "
            "(secformer infer takes encoders)"
        )
    return FAMILIES[model_type]


def generates(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model that generates text."""
    return values.get("model_type") in FAMILIES


def read_config(values: Mapping[str, Any]) -> DecoderArchitecture:
    """Hugging Face's config.json; see `DecoderFamily.read`."""
    return decoder_family(values.get("model_type")).read(values)
