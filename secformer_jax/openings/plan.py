"""From calibration to the public constants of the opened model: a series for each place, and the scales of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.presets import GELU_MARGIN, SERIES_MARGIN
from secformer_jax.functions.series import Series, fit_exponential, fit_gelu_tail, fit_reciprocal, fit_rsqrt
from secformer_jax.models.transformer import Architecture
from secformer_jax.openings import scales

LARGEST_EXPONENT = 3.1
"""What centred scores are divided down to before the exponential: its squares and their means then fit the ring."""


GREATEST_ERROR = 0.05
"""A relative error of a row's reciprocal or inverse deviation from which on answers are not worth having."""


USE_ANOTHER = "use the preset puma"


@dataclass(frozen=True)
class ExactPlan:
    """Constants of the exact softmax.

    Attributes:
        squarings: exp(z) comes from exp(z / 2^squarings).
        offset: taken off all scores: the middle of a bias's means, so that z stays small; it cancels.
        exponential: exp(z / 2^squarings) of centred scores.
        first_mean, later_mean: 1/x for the means of its squares.
    """

    squarings: int
    offset: float
    exponential: Series
    first_mean: Series
    later_mean: Series


@dataclass(frozen=True)
class LayerPlan:
    """Public constants of one layer.

    Attributes:
        reciprocal: 1/x for x the row sum of 2Quad divided by 2^sum_bits.
        sum_bits: so that this is at most 1.
        reciprocal_bits: fraction bits of the result.
        attention_norm, output_norm: the inverse deviation, see `LayerNorm`.
        gelu: gelu(x) - x/2.
        exact: what the exact softmax has besides; None for 2Quad.
    """

    reciprocal: Series
    sum_bits: int
    reciprocal_bits: int
    attention_norm: Series
    gelu: Series
    output_norm: Series
    exact: ExactPlan | None = None


@dataclass(frozen=True)
class Plan:
    """Public constants of a model at one padded length; they reveal the calibrated ranges."""

    embeddings_norm: Series
    layers: tuple[LayerPlan, ...]


def variance_ratio(width: int) -> float:
    """LayerNorm sums squares and reads the sum as this multiple of the variance: a change of scale."""
    return width / 2 ** (width.bit_length() - 1)


def make_plan(config: Architecture, calibration: Calibration, length: int, *, exact: bool = False) -> Plan:
    """Constants for a model with these ranges, at this padded length.

    Args:
        config: the model's shape.
        calibration: its ranges.
        length: the padded length.
        exact: for the exact softmax, not 2Quad.

    Raises:
        UserError: a place without a measured range, or with one that is too wide for a series.
    """

    def inverse_deviation(place: str, width: int = config.hidden_size) -> Series:
        ratio = variance_ratio(width)
        variance = calibration.range(place, "variance").widened(SERIES_MARGIN).scaled(ratio)
        series = fit_rsqrt(variance.low, variance.high, epsilon=ratio * config.layer_norm_eps)
        return _good(series, place, "variance").scaled(math.sqrt(ratio))

    layers = []
    for i in range(config.num_hidden_layers):
        inputs = calibration.range(f"layer.{i}.gelu", "input")
        softmax = _exact_softmax if exact else _two_quad
        layers.append(
            LayerPlan(
                attention_norm=inverse_deviation(f"layer.{i}.attention.layer_norm"),
                gelu=fit_gelu_tail(max(-inputs.low, inputs.high) * GELU_MARGIN, activation=config.hidden_act),
                output_norm=inverse_deviation(f"layer.{i}.output.layer_norm"),
                **softmax(calibration, f"layer.{i}.softmax", length),
            )
        )
    return Plan(inverse_deviation("embeddings.layer_norm", config.embedding_width), tuple(layers))


def _two_quad(calibration: Calibration, place: str, length: int) -> dict[str, Any]:
    means = calibration.range(place, "two_quad_mean").widened(SERIES_MARGIN)
    found = _reciprocal(means.low, means.high, length, 2 * scales.SCORE)
    _good(found["reciprocal"], place, "two_quad_mean", f"distil the model for 2Quad, or {USE_ANOTHER}")
    return found


def _good(series: Series, place: str, quantity: str, advice: str = USE_ANOTHER) -> Series:
    if series.error > GREATEST_ERROR:
        raise UserError(
            f"{place}: {quantity} ranges over a factor of {series.high / series.low:,.0f}, too wide for a series (its "
            f"error is {series.error:.0%}): {advice}"
        )
    return series


def _exact_softmax(calibration: Calibration, place: str, length: int) -> dict[str, Any]:
    scores, biases = calibration.range(place, "centred_score"), calibration.places[place].get("bias_mean")
    offset = 0.0 if biases is None else round((biases.low + biases.high) / 2, 1)
    low, high = (scores.low - offset) * SERIES_MARGIN, (scores.high - offset) * SERIES_MARGIN
    squarings = max(2, math.ceil(math.log2(max(high, LARGEST_EXPONENT) / LARGEST_EXPONENT)))
    parts = 2**squarings
    # By Jensen a row's mean is at least that of its z: 0 but for a bias.
    least = 0.0 if biases is None else min(0.0, biases.low - offset) * SERIES_MARGIN
    squares = math.exp(2 * least / parts), math.exp(2 * max(high, 0.0) / parts)
    exact = ExactPlan(
        squarings,
        offset,
        # Each squaring doubles a relative error.
        fit_exponential(low / parts, high / parts, tolerance=4e-4 / parts).stretched(parts),
        _good(_inverse_mean(*_with_weights(*squares), length, 0.03), place, "the squares' first mean"),
        _inverse_mean(0.8, length * 1.2, length, 0.05),
    )
    return {
        "exact": exact,
        # The last square comes normalised but for the rough reciprocal's error.
        **_reciprocal(0.8, 1.2, length, scales.EXPONENTIAL, weighted=False),
    }


def _inverse_mean(low: float, high: float, length: int, tolerance: float) -> Series:
    """1/mean for means in this range, read from a sum divided by the power of two at or below the length."""
    ratio = length / 2 ** int(math.log2(length))
    return fit_reciprocal(low * ratio, high * ratio, tolerance=tolerance).scaled(ratio)


def _with_weights(low: float, high: float) -> tuple[float, float]:
    """The range of a mean whose weights are round(length / keys) and not length / keys: within a third."""
    return low * 2 / 3, high * 4 / 3


def _reciprocal(low: float, high: float, length: int, bits: int, weighted: bool = True) -> dict[str, Any]:
    """The reciprocal of `length` times a mean in this range, as LayerPlan has it; bits: of the numerators."""
    low, high = (length * x for x in (_with_weights(low, high) if weighted else (low, high)))
    sum_bits = math.ceil(math.log2(high))
    room = scales.LARGEST - bits - scales.VALUE - sum_bits
    return {
        "reciprocal": fit_reciprocal(low / 2**sum_bits, high / 2**sum_bits),
        "sum_bits": sum_bits,
        "reciprocal_bits": min(scales.RECIPROCAL, room),
    }
