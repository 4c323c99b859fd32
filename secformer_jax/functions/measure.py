"""Ranges from a plaintext pass over real sentences.

Padded keys don't count, but padded query rows and padded positions do: under MPC they are computed like the others,
and a value out of range there wraps just as well.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration, Range
from secformer_jax.functions.softmax import SHIFT


def update(
    calibration: Calibration | None,
    intermediates: Mapping[str, np.ndarray],
    mask: np.ndarray,
    *,
    fingerprint: str = "",
    family: str = "",
) -> Calibration:
    """The calibration with one more batch in it; None starts one for the model with this fingerprint.

    intermediates: what went into each place, by its name (other values that a model keeps are passed over), and
    "attention_bias" where there is one; mask (batch, length): 1 for real tokens.
    """
    old = calibration or Calibration(fingerprint, family)
    mask = np.asarray(mask) != 0
    if not mask.any(axis=1).all():
        raise ValueError("a sentence without a real token")
    places = {place: dict(ranges) for place, ranges in old.places.items()}
    bias = intermediates.get("attention_bias")
    for place, value in intermediates.items():
        measure = _MEASURES.get(place.rpartition(".")[2])
        if measure is None:
            continue
        ranges = places.setdefault(place, {})
        for quantity, new in measure(np.asarray(value, np.float64), mask, bias).items():
            ranges[quantity] = ranges[quantity].union(new) if quantity in ranges else new
    return Calibration(
        fingerprint=old.fingerprint,
        family=old.family,
        sentences=old.sentences + mask.shape[0],
        max_length=max(old.max_length, mask.shape[1]),
        places=places,
    )


def span(values: np.ndarray) -> Range:
    """From the least to the greatest.

    Raises:
        UserError: one is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("calibration met a value that is not a finite number: check the model's weights")
    return Range(low, high)


def _measure_scores(scores: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    keys = np.broadcast_to(mask[:, None, None, :], scores.shape)
    means = np.mean(np.square(scores + SHIFT), axis=-1, where=keys)
    found = {"score": span(scores[keys]), "two_quad_mean": span(means)}
    centre = np.mean(scores, axis=-1, where=keys, keepdims=True)
    if bias is not None:
        own = np.mean(np.broadcast_to(bias, scores.shape), axis=-1, where=keys, keepdims=True)
        found["bias_mean"], centre = span(own), centre - own
    return {**found, "centred_score": span((scores - centre)[keys])}


def _measure_input(values: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    return {"input": span(values)}


def _measure_variance(values: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    return {"variance": span(values.var(axis=-1))}


def _measure_output(values: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    return {"output": span(values)}


_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], dict[str, Range]]] = {
    "query": _measure_output,
    "key": _measure_output,
    "value": _measure_output,
    "softmax": _measure_scores,
    "gelu": _measure_input,
    "layer_norm": _measure_variance,
}
"""By the end of a place's name."""
