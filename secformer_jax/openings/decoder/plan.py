"""From a decoder's measured ranges to the public constants of its opened form."""

from __future__ import annotations

import functools
import math

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.fitting import fit_exponential, fit_reciprocal, fit_rsqrt, widest_gelu_tail
from secformer_jax.functions.presets import SERIES_MARGIN
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.mpc.runtime.shares import RING_BITS
from secformer_jax.openings.decoder import scales
from secformer_jax.openings.decoder.constants import AttentionPlan, FeedForwardPlan, NormPlan, Plan, SoftmaxPlan
from secformer_jax.openings.plan import LARGEST_EXPONENT, MOST_SQUARINGS, NORMALISED
from secformer_jax.openings.rings import reach, ring, within

NORM_BITS = 14
"""Bits of the smallest root of a mean square that a norm keeps."""

NORM_TOLERANCE = 2.0**-15
"""A relative error of an inverse root that is wanted: all that a layer adds has it."""

GREATEST_ERROR = 0.01
"""A relative error of an inverse root or of the last division from which on answers are not worth having."""

MOST_KEYS = 1 << scales.SHARE
"""Of more, some would have no part in the mean that scores are centred by."""

LEAST_MEAN, MOST_MEAN = 0.52, 0.68
"""What the mean of squares may be that were normalised to `NORMALISED`, for the inverse is rough."""

LEAST_ROOT, LEAST_RECIPROCAL = 10, 14
"""Fraction bits below which what is squared, and the inverse mean numerator, are not worth having."""

RECIPROCAL = 13
"""Bits of the smallest inverse mean numerator."""

# A decoder has no other preset. A prefix takes the first positions, whose values are the largest.
_ADVICE = "take another model, or a longer prefix"
_ring = functools.partial(ring, advice=_ADVICE)
_within = functools.partial(within, advice=_ADVICE)


def make_plan(config: DecoderArchitecture, ranges: Calibration, keys: int) -> Plan:
    """Constants for a decoder with these ranges.

    Args:
        config: the model.
        ranges: measured after the prefix.
        keys: the most that a token looks at, the prefix's with them.

    Raises:
        UserError: a place without a measured range, or with one that is too wide.
    """
    layers, norms = range(config.num_hidden_layers), ["norm"]
    norms += [f"layer.{i}.{name}" for i in layers for name in ("attention_norm", "feed_forward_norm")]
    largest = max(reach(ranges, place, "value") for place in norms)
    stream_width = _ring("the residual stream", scales.STREAM, largest)
    plans = tuple(
        (_attention(config, ranges, i, keys, stream_width), _feed_forward(config, ranges, i, stream_width))
        for i in layers
    )
    width = logits_width(ranges)
    return Plan(
        table_width(config, ranges),
        stream_width,
        plans,
        _norm(config, ranges, "norm", None, width + scales.NORMED - scales.CONTEXT),
        width,
    )


def table_width(config: DecoderArchitecture, ranges: Calibration) -> int:
    """Bits of the ring that embeddings are in before they are lifted, and so a client's one-hot rows."""
    return _ring("embeddings", scales.TABLE, reach(ranges, "layer.0.attention_norm", "value"))


def logits_width(ranges: Calibration) -> int:
    """Bits of the ring of the logits."""
    return _ring("head", scales.STREAM, reach(ranges, "head"))


def _norm(config: DecoderArchitecture, ranges: Calibration, place: str, output: float | None, result: int) -> NormPlan:
    """Of what reads the norm: `output` is its greatest, and None where x itself is divided."""
    count_bits = config.hidden_size.bit_length() - 1
    ratio = config.hidden_size / 2**count_bits
    squares = ranges.range(place, "mean_square").widened(SERIES_MARGIN)
    read = squares.scaled(ratio)
    series = ranges.fits(fit_rsqrt, read.low, read.high, NORM_TOLERANCE, epsilon=ratio * config.norm_eps)
    series = series.scaled(math.sqrt(ratio))
    if series.error > GREATEST_ERROR:
        raise UserError(
            f"{place}: the mean square ranges over a factor of {read.high / read.low:,.0f}, too wide for a series (its "
            f"error is {series.error:.1%}): {_ADVICE}"
        )
    smallest, greatest = (math.sqrt(square + config.norm_eps) for square in (squares.low, squares.high))
    # The sum of squares has twice the bits, and its ring those of the period.
    most = (RING_BITS - count_bits - round(math.log2(series.period))) // 2
    bits = min(scales.STREAM, most, math.ceil(NORM_BITS - math.log2(smallest)))
    raw = reach(ranges, place, "value") if output is None else output * greatest
    # An error of the product weighs most where the root is small, one of its inverse where the root is large.
    raw_bits = round((scales.NORMED - math.log2(smallest * raw)) / 2)
    if output is None:
        raw_bits, width = min(raw_bits, bits), _ring(place, bits, raw)
    else:
        width = _ring(place, bits + scales.READ, raw)
    return NormPlan(
        series,
        bits,
        width,
        raw_bits,
        _ring(place, raw_bits, raw),
        scales.NORMED - raw_bits,
        _within(f"{place}: its values", result),
    )


def _attention(
    config: DecoderArchitecture, ranges: Calibration, layer: int, keys: int, stream_width: int
) -> AttentionPlan:
    place = f"layer.{layer}."
    query, key, value = (reach(ranges, place + name) for name in ("query", "key", "value"))
    turned = max(
        _ring(place, bits, largest)
        for bits, largest in ((scales.QUERY, query), (scales.KEY, key), (scales.VALUE, value))
    )
    angle = 0 if config.rotary is None else scales.ANGLE
    dropped = scales.NORMED - min(scales.QUERY - angle, scales.KEY - angle, scales.VALUE)
    # The values that the numerators weigh are read in units of the mean numerator.
    bits = scales.NUMERATOR + scales.VALUE + scales.INVERSE_COUNT
    sums_width = _ring(place, bits, MOST_MEAN**2 * keys * value)
    softmax = _softmax(ranges, f"{place}softmax", keys, stream_width, sums_width)
    period = round(math.log2(softmax.exponential.period))
    score_width = scales.QUERY + scales.KEY + scales.SHARE + period
    return AttentionPlan(
        # A pair of numbers is turned: neither is beyond the root of both squares.
        _norm(config, ranges, f"{place}attention_norm", math.sqrt(2) * max(query, key, value), dropped + turned),
        turned,
        _within(f"{place}: its values", score_width),
        sums_width,
        softmax,
    )


def _softmax(ranges: Calibration, place: str, keys: int, stream_width: int, sums_width: int) -> SoftmaxPlan:
    scores = ranges.range(place, "centred_score").scaled(SERIES_MARGIN)
    low, high = min(scores.low, -1.0), max(scores.high, 1.0)
    squarings = max(2, math.ceil(math.log2(max(high, LARGEST_EXPONENT) / LARGEST_EXPONENT)))
    if squarings > MOST_SQUARINGS:
        raise UserError(f"{place}: scores up to {high:,.0f} over their mean are too far apart: use another model")
    parts, most = 2**squarings, 4 / 3
    # Each squaring doubles a relative error.
    exponential = ranges.fits(fit_exponential, low / parts, high / parts, tolerance=1e-4 / parts).stretched(parts)
    # The mean square is at least the square of the mean, and at most n times it, where one key has all weight.
    later = LEAST_MEAN**2, MOST_MEAN**2 * keys
    first = 1 / most, math.exp(2 * high / parts) * most
    reciprocal = ranges.fits(fit_reciprocal, *later, tolerance=2.0**-13)
    if keys > MOST_KEYS:
        raise UserError(f"{keys:,} keys, and {MOST_KEYS:,} are the most: ask for fewer tokens")
    if reciprocal.error > GREATEST_ERROR:
        raise UserError(f"{keys:,} keys: the last division's error is {reciprocal.error:.1%}: ask for fewer tokens")
    count_bits = math.ceil(math.log2(keys))
    reciprocal_bits = RECIPROCAL + max(0, math.ceil(math.log2(later[1])))
    context_width = stream_width + scales.SUMS + reciprocal_bits - scales.CONTEXT
    if context_width > RING_BITS:
        reciprocal_bits, context_width = reciprocal_bits - (context_width - RING_BITS), RING_BITS
    means = (
        ranges.fits(fit_reciprocal, *first, tolerance=0.03).scaled(NORMALISED),
        ranges.fits(fit_reciprocal, *later, tolerance=0.05).scaled(NORMALISED),
    )
    periods = [round(math.log2(series.period)) for series in (*means, reciprocal)]
    # A ring of 64 bits has the last squares, from which the numerators are rounded.
    root_bits = min(scales.MOST_ROOT, (RING_BITS - sums_width + scales.NUMERATOR) // 2)
    if root_bits < LEAST_ROOT or reciprocal_bits < LEAST_RECIPROCAL:
        raise UserError(f"{place}: values behind {keys:,} keys do not fit a ring of {RING_BITS} bits: ask for fewer")
    mean_bits = 2 * root_bits + scales.INVERSE_COUNT
    return SoftmaxPlan(
        squarings,
        exponential,
        _ring(place, 2 * scales.EXPONENTIAL + 6, math.exp(max(high, 1.0) / parts) * 2),
        *means,
        root_bits,
        max(2 * root_bits + scales.ROUGH + count_bits + 2, *(mean_bits + bits for bits in periods[:2])),
        reciprocal,
        reciprocal_bits,
        _within(f"{place}: its values", max(sums_width + 2 * root_bits - scales.NUMERATOR, mean_bits + periods[2])),
        context_width,
    )


def _feed_forward(config: DecoderArchitecture, ranges: Calibration, layer: int, stream_width: int) -> FeedForwardPlan:
    place = f"layer.{layer}."
    gate = reach(ranges, f"{place}activation", "output")
    # Its period is a power of two; SiLU reaches half of it but for the corner.
    tail = ranges.fits(widest_gelu_tail, gate, 1e-4, config.hidden_act)
    largest = max(gate, reach(ranges, f"{place}up")) if config.gated else gate
    gate_width = _ring(place, scales.GATE, largest)
    # Half of the gate has one fraction bit more.
    result = scales.NORMED + 1 + max(round(math.log2(tail.period)), gate_width - scales.GATE)
    return FeedForwardPlan(
        _norm(config, ranges, f"{place}feed_forward_norm", largest, result),
        tail,
        gate_width,
        stream_width + (2 * scales.GATE if config.gated else scales.GATE) - scales.CONTEXT,
    )
