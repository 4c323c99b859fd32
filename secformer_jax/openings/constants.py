"""What is public about an opened model besides its shape: series, scales and rings, place by place."""

from __future__ import annotations

from dataclasses import dataclass

from secformer_jax.functions.series import Series

HEAD_WIDTH = 46
"""Ring of what the last LayerNorm's gamma and beta make, of which no range is known."""


@dataclass(frozen=True)
class ExactPlan:
    """Constants of the exact softmax.

    Attributes:
        squarings: exp(z) comes from exp(z / 2^squarings).
        offset: taken off all scores: the middle of a bias's means, so that z stays small; it cancels.
        exponential: exp(z / 2^squarings) of centred scores.
        first_mean, later_mean: a factor below 1 over x, for the means of its squares.
        exponential_width: ring of the exponential before its truncation.
        root_bits: fraction bits of what is squared.
        square_width: ring of normalised squares.
    """

    squarings: int
    offset: float
    exponential: Series
    first_mean: Series
    later_mean: Series
    exponential_width: int
    root_bits: int
    square_width: int


@dataclass(frozen=True)
class NormPlan:
    """Constants of one LayerNorm.

    Attributes:
        series: the inverse deviation, see `LayerNorm`.
        centred: fraction bits of what is normalised.
        inverse: fraction bits of the inverse deviation.
    """

    series: Series
    centred: int
    inverse: int


@dataclass(frozen=True)
class SoftmaxPlan:
    """Constants of softmax up to its division, and the rings of its values.

    Attributes:
        reciprocal: 1/x for x the row sum divided by 2^sum_bits.
        sum_bits: so that this is at most 1.
        reciprocal_bits: fraction bits of the result.
        numerator_bits: fraction bits of the numerators where values are weighed with them.
        sums_bits: fraction bits of the sums of values that the numerators weigh, before the division.
        score_width: ring of queries, keys and scores, before these are truncated or go into the exponential.
        sums_width: ring of these sums.
        exact: what the exact softmax has besides; None for 2Quad.
    """

    reciprocal: Series
    sum_bits: int
    reciprocal_bits: int
    numerator_bits: int
    sums_bits: int
    score_width: int
    sums_width: int
    exact: ExactPlan | None = None


@dataclass(frozen=True)
class LayerPlan:
    """Public constants of one layer.

    Attributes:
        width: ring of the attention's products with weights.
        balance: what keys are multiplied with, and queries divided by; their weights have it.
        softmax: see SoftmaxPlan.
        attention_norm, output_norm: see NormPlan.
        gelu: gelu(x) - x/2 of x times gelu_stretch, so that its period is a power of two and no longer than needed.
        gelu_stretch: at least 1; the weights of the feed-forward block have it.
        feed_width: ring of the feed-forward block's products with weights.
    """

    width: int
    balance: float
    softmax: SoftmaxPlan
    attention_norm: NormPlan
    gelu: Series
    gelu_stretch: float
    feed_width: int
    output_norm: NormPlan


@dataclass(frozen=True)
class Plan:
    """Public constants of a model at one padded length; they reveal the calibrated ranges.

    Attributes:
        table_bits: fraction bits of the embeddings: as many as their ring holds.
        table_width: that ring.
        embeddings_norm: see NormPlan.
        layers: from the first.
        pooler: tanh, or gelu(x) - x/2; None where the pooler's activation needs no series.
    """

    table_bits: int
    table_width: int
    embeddings_norm: NormPlan
    layers: tuple[LayerPlan, ...]
    pooler: Series | None
