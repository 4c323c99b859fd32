"""Families of encoders, one file each: what its `FAMILY` says is all that the rest knows of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.families.family import Family


def _found() -> dict[str, Family]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    families = (module.FAMILY for module in modules if hasattr(module, "FAMILY"))
    return {model_type: family for family in families for model_type in family.classes}


FAMILIES: Mapping[str, Family] = _found()
"""By Hugging Face's model_type."""


def family_of(model_type: Any) -> Family:
    """The family of a model_type.

    Raises:
        UserError: a kind of model that is not supported.
    """
    if model_type not in FAMILIES:
        raise UserError(
            f"model_type is {model_type!r}, and only {', '.join(sorted(FAMILIES))} are supported: use such a model "
            "(secformer generate takes those that generate text)"
        )
    return FAMILIES[model_type]


def read_config(values: Mapping[str, Any]) -> Architecture:
    """Hugging Face's config.json; see `Family.read`."""
    return family_of(values.get("model_type")).read(values)


def write_config(config: Architecture) -> dict[str, Any]:
    """As config.json has it."""
    return family_of(config.model_type).write(config)
