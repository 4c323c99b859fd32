"""From calibration to the public constants of the opened model: a series for each place, and the scales of scores."""

from __future__ import annotations

import math
from dataclasses import replace

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.fits import Fits
from secformer_jax.functions.fitting import (
    TANH_REACH,
    fit_exponential,
    fit_gelu_tail,
    fit_reciprocal,
    fit_rsqrt,
    fit_tanh,
)
from secformer_jax.functions.presets import SERIES_MARGIN, calibrated_gelu_tail
from secformer_jax.functions.series import Series, power_of_two
from secformer_jax.models.transformer import Architecture
from secformer_jax.mpc.runtime.shares import RING_BITS
from secformer_jax.openings import scales
from secformer_jax.openings.constants import ExactPlan, LayerPlan, NormPlan, Plan, SoftmaxPlan
from secformer_jax.openings.rings import USE_ANOTHER, reach, ring, within

LARGEST_EXPONENT = 3.1
"""What centred scores are divided down to before the exponential: its squares and their means then fit the ring."""


GREATEST_ERROR = 0.05
"""A relative error of a row's reciprocal or inverse deviation from which on answers are not worth having."""


LONG = 128
"""Keys beyond which 2Quad's numerators have a fraction bit fewer for each doubling."""

LEAST_RECIPROCAL = 8
"""Fraction bits below which an inverse row sum is not worth having."""

TABLE_WIDTH, MOST_TABLE = 24, 22
"""Bits of the embeddings' ring, which one digit holds, and of its fraction bits the most."""

NORM_BITS = 29
"""Fraction bits of a LayerNorm's product of values and inverse deviation."""

MOST_SQUARINGS = 8
"""Each doubles the relative error of the exact softmax."""

NORMALISED, LEAST_MEAN, MOST_MEAN = 0.6, 0.45, 0.75
"""What squares are normalised to; and what their mean may be after it, for the inverse is rough."""


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

    def norm(place: str, width: int = config.hidden_size, most: int = scales.SUM) -> NormPlan:
        ratio = variance_ratio(width)
        measured = calibration.range(place, "variance")
        variance = measured.widened(SERIES_MARGIN).scaled(ratio)
        series = calibration.fits(fit_rsqrt, variance.low, variance.high, epsilon=ratio * config.layer_norm_eps)
        # A rounding error of the values weighs most where the deviation is small, one of its inverse where it is large.
        middle = math.log2(max(measured.low * measured.high, 1e-12)) / 4
        centred = min(most, round(NORM_BITS / 2 - middle))
        return NormPlan(_good(series, place, "variance").scaled(math.sqrt(ratio)), centred, max(8, NORM_BITS - centred))

    def largest(place: str, width: int = config.hidden_size) -> float:
        return _largest_input(calibration, place, width)

    layers = []
    for i in range(config.num_hidden_layers):
        place, softmax = f"layer.{i}.", _exact_softmax if exact else _two_quad
        gelu, stretch = gelu_tail(config, calibration, i)
        attention_norm, output_norm = (f"{place}{name}.layer_norm" for name in ("attention", "output"))
        balanced = {"query": 1 / balance(calibration, i), "key": balance(calibration, i), "value": 1.0}
        projected = max(reach(calibration, f"{place}{name}") * factor for name, factor in balanced.items())
        rounded = NORM_BITS - scales.HIDDEN
        width = ring(place, scales.SUM, max(projected, largest(attention_norm)), later=rounded)
        layers.append(
            LayerPlan(
                width,
                balanced["key"],
                softmax(calibration, place, length, width),
                norm(attention_norm),
                gelu,
                stretch,
                max(
                    ring(output_norm, scales.SUM, largest(output_norm), later=rounded),
                    within(f"{place}gelu: its inputs", scales.SUM + round(math.log2(gelu.period))),
                ),
                norm(output_norm),
            )
        )
    bits, width = table(config, calibration)
    embeddings_norm = norm("embeddings.layer_norm", config.embedding_width, bits)
    return Plan(bits, width, embeddings_norm, tuple(layers), _pooler(config, calibration.fits))


def table(config: Architecture, calibration: Calibration) -> tuple[int, int]:
    """Fraction bits of the embeddings, and the bits of their ring: 24 unless that leaves too few fraction bits."""
    place = "embeddings.layer_norm"
    largest = _largest_input(calibration, place, config.embedding_width)
    bits = max(scales.TABLE, min(MOST_TABLE, TABLE_WIDTH - ring(place, 0, largest)))
    return bits, max(TABLE_WIDTH, ring(place, bits, largest))


def _pooler(config: Architecture, fits: Fits) -> Series | None:
    """tanh, or gelu(x) - x/2 where tanh is good; None for an activation that no series computes."""
    if config.pooler_act == "tanh":
        return fits(fit_tanh)
    return fits(fit_gelu_tail, TANH_REACH) if config.pooler_act == "gelu" else None


def _largest_input(calibration: Calibration, place: str, width: int) -> float:
    """A bound of what goes into a LayerNorm: no value is beyond the root of the sum of all squares."""
    return math.sqrt(width * calibration.range(place, "variance").high * SERIES_MARGIN)


def gelu_tail(config: Architecture, calibration: Calibration, layer: int) -> tuple[Series, float]:
    """A layer's series for gelu(x) - x/2, and what its inputs have to be multiplied with: see LayerPlan."""
    inputs = calibration.range(f"layer.{layer}.gelu", "input")
    tail = calibrated_gelu_tail(inputs, config.hidden_act, calibration.fits, any_period=True)
    period = power_of_two(tail.period)
    stretch = period / tail.period
    return replace(tail.stretched(stretch), period=period), stretch


def balance(calibration: Calibration, layer: int) -> float:
    """What keys are multiplied with, and queries divided by, so that both are of one size: a power of two."""
    queries, keys = (reach(calibration, f"layer.{layer}.{name}") for name in ("query", "key"))
    return 2.0 ** round(math.log2(queries / keys) / 2) if queries and keys else 1.0


def _two_quad(calibration: Calibration, place: str, length: int, width: int) -> SoftmaxPlan:
    at = f"{place}softmax"
    means = calibration.range(at, "two_quad_mean").widened(SERIES_MARGIN)
    low, high = (length * x for x in _with_weights(means.low, means.high))
    # A row's sum grows with the keys, and a numerator's error in it does not.
    numerator_bits = scales.NUMERATOR - max(0, math.ceil(math.log2(length / LONG)))
    plan = _division(calibration, place, low, high, width, numerator_bits, 2 * scales.SCORE)
    _good(plan.reciprocal, at, "two_quad_mean", f"distil the model for 2Quad, or {USE_ANOTHER}")
    largest = reach(calibration, at, "score")
    return replace(plan, score_width=ring(at, scales.QUERY + scales.KEY, largest))


def _good(series: Series, place: str, quantity: str, advice: str = USE_ANOTHER) -> Series:
    if series.error > GREATEST_ERROR:
        raise UserError(
            f"{place}: {quantity} ranges over a factor of {series.high / series.low:,.0f}, too wide for a series (its "
            f"error is {series.error:.0%}): {advice}"
        )
    return series


def _exact_softmax(calibration: Calibration, place: str, length: int, width: int) -> SoftmaxPlan:
    at = f"{place}softmax"
    scores, biases = calibration.range(at, "centred_score"), calibration.places[at].get("bias_mean")
    offset = 0.0 if biases is None else round((biases.low + biases.high) / 2, 1)
    low, high = (scores.low - offset) * SERIES_MARGIN, (scores.high - offset) * SERIES_MARGIN
    squarings = max(2, math.ceil(math.log2(max(high, LARGEST_EXPONENT) / LARGEST_EXPONENT)))
    if squarings > MOST_SQUARINGS:
        raise UserError(f"{at}: scores up to {high:,.0f} over their mean are too far apart: {USE_ANOTHER}")
    parts = 2**squarings
    # By Jensen a row's mean is at least that of its z: 0 but for a bias.
    least = 0.0 if biases is None else min(0.0, biases.low - offset) * SERIES_MARGIN
    squares = math.exp(2 * least / parts), math.exp(2 * max(high, 0.0) / parts)
    # Each squaring doubles a relative error.
    exponential = calibration.fits(fit_exponential, low / parts, high / parts, tolerance=4e-4 / parts).stretched(parts)
    # No normalised square is negative, or beyond their sum, which is below n: such a ring has no bit of sign.
    count_bits = math.ceil(math.log2(length))
    root_bits = max(scales.LEAST_ROOT, (scales.SQUARES - scales.ROUGH - count_bits - 1) // 2)
    exact = ExactPlan(
        squarings,
        offset,
        exponential,
        _good(_inverse_mean(calibration.fits, *_with_weights(*squares), length, 0.03), at, "the squares' first mean"),
        # The mean square is at least the square of the mean, and at most n times it, where one key has all weight.
        _inverse_mean(calibration.fits, LEAST_MEAN**2, MOST_MEAN**2 * length, length, 0.05),
        ring(at, 2 * scales.EXPONENTIAL + 6, math.exp(max(high, 1.0) / parts) * 2),
        root_bits,
        2 * root_bits + scales.ROUGH + count_bits + 1,
    )
    # The last square comes normalised but for the rough inverse's error.
    bits = scales.EXACT_NUMERATOR
    division = _division(calibration, place, LEAST_MEAN * length, MOST_MEAN * length, width, bits, bits)
    period = round(math.log2(exponential.period))
    score_width = within(f"{at}: scores", scales.QUERY + scales.KEY + scales.MEAN + period)
    return replace(division, exact=exact, score_width=score_width)


def _division(
    calibration: Calibration, place: str, low: float, high: float, width: int, bits: int, given: int
) -> SoftmaxPlan:
    """For row sums in this range, and a context that products modulo 2^width read.

    Numerators come with `given` fraction bits, of which `bits` are kept.
    """
    sum_bits = math.ceil(math.log2(high))
    # Sums of values are as accurate, compared with the smallest row sum, as the context will be.
    sums_bits = max(2, scales.CONTEXT - math.floor(math.log2(low)))
    values = max(1.0, reach(calibration, f"{place}value"))
    sums = ring(f"{place}value", bits + scales.VALUE, high * values, later=given - bits)
    reciprocal_bits = min(scales.RECIPROCAL, RING_BITS + scales.CONTEXT - width - sum_bits - sums_bits)
    if reciprocal_bits < LEAST_RECIPROCAL:
        raise UserError(f"{place}softmax: row sums up to {high:,.0f} are too large for a ring: {USE_ANOTHER}")
    return SoftmaxPlan(
        reciprocal=calibration.fits(fit_reciprocal, low / 2**sum_bits, high / 2**sum_bits),
        sum_bits=sum_bits,
        reciprocal_bits=reciprocal_bits,
        numerator_bits=bits,
        sums_bits=sums_bits,
        score_width=RING_BITS,
        sums_width=sums,
    )


def _inverse_mean(fits: Fits, low: float, high: float, length: int, tolerance: float) -> Series:
    """NORMALISED / mean for means in this range, read from a sum divided by the power of two at or below the length."""
    ratio = length / 2 ** int(math.log2(length))
    return fits(fit_reciprocal, low * ratio, high * ratio, tolerance=tolerance).scaled(NORMALISED * ratio)


def _with_weights(low: float, high: float) -> tuple[float, float]:
    """The range of a mean whose weights are round(length / keys) and not length / keys: within a third."""
    return low * 2 / 3, high * 4 / 3
