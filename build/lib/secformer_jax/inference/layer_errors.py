"""Where errors come in: hidden states after each layer, emulated in fixed point, against floating point.

Two errors stand apart. That of the approximations: the same checkpoint in floating point with the preset's functions,
against the functions that they stand for (its family's). That of fixed point: the preset emulated on SPU's plain ring
(one party), against the preset's functions in floating point.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.serving import serving_for, variables
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Engine


def errors_by_layer(
    model: Checkpoint, approximations: presets.Approximations, calibration: Calibration | None, encoded: Encoded
) -> list[dict[str, Any]]:
    """A row for the embeddings and for each layer: root mean square of the states, and root mean square and greatest
    of both errors, over the real tokens."""
    stood_for = presets.families()[presets.family(approximations)]
    real = encoded.attention_mask > 0

    def plain(functions: presets.Approximations) -> list[np.ndarray]:
        _, kept = Plaintext(model, functions, calibration=calibration).intermediates(encoded)
        return [np.asarray(kept[f"hidden_states.{i}"])[real] for i in range(model.config.num_hidden_layers + 1)]

    emulated = [each[real] for each in emulated_states(model, approximations, calibration, encoded)]
    rows = []
    for i, (exact, same, fixed) in enumerate(zip(plain(stood_for), plain(approximations), emulated, strict=True)):
        row: dict[str, Any] = {"place": f"layer {i - 1}" if i else "embeddings", "rms": _rms(exact)}
        for name, error in (("approximation", same - exact), ("fixed_point", fixed - same)):
            row |= {f"{name}_rms_error": _rms(error), f"{name}_max_error": float(np.abs(error).max())}
        rows.append(row)
    return rows


def emulated_states(
    model: Checkpoint, approximations: presets.Approximations, calibration: Calibration | None, encoded: Encoded
) -> list[np.ndarray]:
    """Hidden states (batch, length, hidden) of the embeddings and of each layer, on SPU's plain ring."""
    config = mpc_config.load(mpc_config.EMULATION)
    serving = serving_for(model, approximations, calibration, config.fraction_bits, "client")
    module, inputs, dealer = serving.model(encoded.input_ids.shape[1]), serving.inputs.arrays(encoded), Dealer()
    with Engine(config) as engine:
        engine.publish(serving.weights(dealer), public=serving.is_public)
        material = variables(module, inputs).get("dealer", {})

        def forward(weights: Any, material: Any, *inputs: Any) -> list[Any]:
            return serving.states(module, {**weights, "dealer": material}, *inputs)

        program = engine.compile(forward, material, *inputs)
        return serving.read_states(engine.run(program, dealer.deal(material), *inputs).value)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
