"""Fraction bits of the values of an opened decoder; their rings are the plan's (`plan.ring`).

Nothing of the residual stream is ever truncated: what is added to it has the bits of two factors.
"""

WEIGHT = 16
"""Weights, and so a row of the head's kernel."""

CONTEXT = 12
"""The normalised context, and what the feed-forward part multiplies with its last kernel."""

STREAM = CONTEXT + WEIGHT
"""The residual stream."""

TABLE = 18
"""Embeddings, before they are lifted into the ring of the stream."""

NORMED = 36
"""What a norm's readers give: a product with their kernel times the inverse root."""

TURNED = 24
"""Queries and keys, before they are turned by their rotary positions."""

ANGLE = 13
"""Cosines and sines of rotary positions."""

QUERY, KEY, VALUE = 14, 12, 12
"""What attention multiplies."""

SHARE = 10
"""The keys' public weights in the mean that scores are centred by: whole numbers whose sum is 2^SHARE."""

INVERSE_COUNT = 12
"""The public number 1/keys, by which sums over the keys become means; it may be rough, for it cancels."""

EXPONENT_OPENED = 24
"""Bits that the exponential's opening sends, of which those after the period are fraction bits."""

EXPONENTIAL = 16
"""Of the exponential's masks and public factors, before its truncation."""

ROOT = 11
"""What is squared."""

ROUGH = 12
"""The inverse means of the squares, which need not be accurate."""

NUMERATOR = 10
"""The last squares, where they weigh values."""

SUMS = 15
"""Values that are weighed, in units of the mean numerator."""

GATE_OPENED = 24
"""Bits that the activation's opening sends."""

GATE_MASK, GATE_PUBLIC = 12, 14
"""The activation's masks and public factors."""

GATE = 12
"""The activation and what it gates, before their product."""
