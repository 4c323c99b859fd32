"""Training in bfloat16: matrix products alone, everything that is delicate in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from secformer_jax.functions.presets import ModelFunctions


def cast(params: Any, dtype: str) -> Any:
    """A copy of the parameters in that type."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def in_float32(functions: ModelFunctions) -> ModelFunctions:
    """The same nonlinear functions, computed in float32, with results in the type of their first argument."""
    layers = tuple(
        dataclasses.replace(
            layer, **{field.name: _in_float32(getattr(layer, field.name)) for field in dataclasses.fields(layer)}
        )
        for layer in functions.layers
    )
    return ModelFunctions(_in_float32(functions.embeddings_layer_norm), layers)


def _in_float32(function: Callable) -> Callable:
    def wide(*args: jax.Array) -> jax.Array:
        return function(*(arg.astype(jnp.float32) for arg in args)).astype(args[0].dtype)

    return wide
