"""Small functions of secrets and dealer material, run on an engine."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.runtime.engine import Engine, Result


def abstract(make: Callable[[], Any]) -> Any:
    """Material as shapes alone."""
    with enable_x64():
        return jax.eval_shape(make)


def run(engine: Engine, function: Callable, material: Any, *inputs: np.ndarray) -> Result:
    """function(material, *inputs) with fresh material; int64 inputs and results are ring elements."""
    program = engine.compile(lambda weights, material, *inputs: function(material, *inputs), material, *inputs)
    return engine.run(program, Dealer().deal(material), *inputs)
