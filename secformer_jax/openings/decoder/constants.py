"""What is public about an opened decoder besides its shape: series, scales and rings, place by place."""

from __future__ import annotations

from dataclasses import dataclass

from secformer_jax.functions.series import Series


@dataclass(frozen=True)
class NormPlan:
    """Constants of one norm and of the kernel that reads it.

    Attributes:
        series: the inverse root of the mean square.
        bits: fraction bits of what is squared and multiplied by the kernel.
        width: ring of that product.
        raw_bits, raw_width: fraction bits and ring of the product before the root divides it.
        inverse_bits: fraction bits of the inverse root.
        result: ring of the quotient.
    """

    series: Series
    bits: int
    width: int
    raw_bits: int
    raw_width: int
    inverse_bits: int
    result: int


@dataclass(frozen=True)
class SoftmaxPlan:
    """Constants of the softmax by repeated squaring: see `softmax_exact`.

    Attributes:
        squarings: exp(z) comes from exp(z / 2^squarings).
        exponential: exp(z / 2^squarings) of centred scores.
        exponential_width: its ring before its truncation.
        first_mean, later_mean: a factor below 1 over x, for the means of squares.
        root_bits: fraction bits of what is squared.
        square_width: ring of normalised squares.
        reciprocal: 1/x for x the mean numerator, which nothing normalised.
        reciprocal_bits: fraction bits of the result.
        numerator_width: ring of the numerators before they are rounded.
        context_width: ring of the context before it is rounded.
    """

    squarings: int
    exponential: Series
    exponential_width: int
    first_mean: Series
    later_mean: Series
    root_bits: int
    square_width: int
    reciprocal: Series
    reciprocal_bits: int
    numerator_width: int
    context_width: int


@dataclass(frozen=True)
class AttentionPlan:
    """Constants of one layer's attention.

    Attributes:
        norm: of what it reads.
        turned_width: ring of queries, keys and values before they are lifted.
        score_width: ring of queries and keys where they are multiplied.
        sums_width: ring of numerators and values where they are multiplied.
        softmax: see SoftmaxPlan.
    """

    norm: NormPlan
    turned_width: int
    score_width: int
    sums_width: int
    softmax: SoftmaxPlan


@dataclass(frozen=True)
class FeedForwardPlan:
    """Constants of one layer's feed-forward part.

    Attributes:
        norm: of what it reads.
        tail: activation(x) - x/2.
        gate_width: ring of the activation, and of what it gates, before they are lifted.
        product_width: ring of their product before it is rounded.
    """

    norm: NormPlan
    tail: Series
    gate_width: int
    product_width: int


@dataclass(frozen=True)
class Plan:
    """Public constants of a decoder for one number of keys; they reveal the calibrated ranges.

    Attributes:
        table_width: ring of the embeddings before they are lifted.
        stream_width: ring of the residual stream.
        layers: from the first.
        norm: the last one.
        logits_width: ring of the logits, with STREAM fraction bits.
    """

    table_width: int
    stream_width: int
    layers: tuple[tuple[AttentionPlan, FeedForwardPlan], ...]
    norm: NormPlan
    logits_width: int
