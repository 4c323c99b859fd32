"""From calibration to the public constants of the opened model: a series for each place, and the scales of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..bert import BertConfig
from ..calibration import Calibration, Range
from ..nonlinear.series import Series, fit_gelu_tail, fit_reciprocal, fit_rsqrt
from ..presets import SERIES_MARGIN
from . import scales

SHIFT = 5.0
"""c of 2Quad."""


@dataclass(frozen=True)
class LayerPlan:
    """Public constants of one layer.

    Attributes:
        reciprocal: 1/x for x the row sum of 2Quad divided by 2^sum_bits.
        sum_bits: so that this is at most 1.
        reciprocal_bits: fraction bits of the result.
        attention_norm, output_norm: the inverse deviation, see `LayerNorm`.
        gelu: gelu(x) - x/2.
    """

    reciprocal: Series
    sum_bits: int
    reciprocal_bits: int
    attention_norm: Series
    gelu: Series
    output_norm: Series


@dataclass(frozen=True)
class Plan:
    """Public constants of a model at one padded length; they reveal the calibrated ranges."""

    embeddings_norm: Series
    layers: tuple[LayerPlan, ...]


def make_plan(config: BertConfig, calibration: Calibration, length: int) -> Plan:
    """Constants for a model with these ranges, at this padded length.

    Raises:
        UserError: a place without a measured range.
    """

    # LayerNorm sums squares and reads the sum as this multiple of the variance: a change of scale.
    ratio = config.hidden_size / 2 ** (config.hidden_size.bit_length() - 1)

    def inverse_deviation(place: str) -> Series:
        variance = calibration.range(place, "variance").widened(SERIES_MARGIN).scaled(ratio)
        return fit_rsqrt(variance.low, variance.high).scaled(math.sqrt(ratio))

    layers = []
    for i in range(config.num_hidden_layers):
        means = calibration.range(f"layer.{i}.softmax", "two_quad_mean").widened(SERIES_MARGIN)
        # The mask's integer round(length / keys) brings every row sum to length times the mean, within a third.
        sums = Range(means.low * length * 2 / 3, means.high * length * 4 / 3)
        sum_bits = math.ceil(math.log2(sums.high))
        inputs = calibration.range(f"layer.{i}.gelu", "input")
        room = scales.LARGEST - 2 * scales.SCORE - scales.VALUE - sum_bits
        layers.append(
            LayerPlan(
                reciprocal=fit_reciprocal(sums.low / 2**sum_bits, sums.high / 2**sum_bits),
                sum_bits=sum_bits,
                reciprocal_bits=min(scales.RECIPROCAL, room),
                attention_norm=inverse_deviation(f"layer.{i}.attention.layer_norm"),
                gelu=fit_gelu_tail(max(-inputs.low, inputs.high) * SERIES_MARGIN),
                output_norm=inverse_deviation(f"layer.{i}.output.layer_norm"),
            )
        )
    return Plan(inverse_deviation("embeddings.layer_norm"), tuple(layers))
