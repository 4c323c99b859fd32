"""Private inference of text encoders: Flax models whose nonlinear functions compile to MPC programs on SecretFlow-SPU.

from secformer_jax import PrivateModel, load, preset
with PrivateModel(load("minilm"), preset("drop-in")) as private:
    print(private.infer("A cat sleeps on the sofa.", "A kitten naps on the couch.").decoded)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secformer_jax.errors import UserError
    from secformer_jax.functions.presets import preset
    from secformer_jax.inference.private import Answer, PrivateModel
    from secformer_jax.models.checkpoint import Checkpoint, load
    from secformer_jax.models.plaintext import Plaintext
    from secformer_jax.pipelines.pipeline import AsyncPipeline, Pipeline, async_pipeline, pipeline

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AsyncPipeline",
    "Checkpoint",
    "Pipeline",
    "Plaintext",
    "PrivateModel",
    "UserError",
    "async_pipeline",
    "load",
    "pipeline",
    "preset",
]

_HOMES = {
    "Answer": "inference.private",
    "AsyncPipeline": "pipelines.pipeline",
    "Checkpoint": "models.checkpoint",
    "Pipeline": "pipelines.pipeline",
    "Plaintext": "models.plaintext",
    "PrivateModel": "inference.private",
    "UserError": "errors",
    "async_pipeline": "pipelines.pipeline",
    "load": "models.checkpoint",
    "pipeline": "pipelines.pipeline",
    "preset": "functions.presets",
}


def __getattr__(name: str) -> Any:
    """Import a name where it is used first: spu is not needed by what trains and answers in plaintext."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
