"""Fraction bits of the values of an opened decoder; their rings are the plan's (`plan.ring`).

Nothing of the residual stream is ever truncated: what is added to it has the bits of two factors.
"""

READ = 20
"""Kernels that read the residual stream, in which a norm's scale is, often far below 1."""

WEIGHT = 17
"""Kernels that write to it, and the head's."""

CONTEXT = 15
"""The normalised context, and what the feed-forward part multiplies with its last kernel."""

STREAM = CONTEXT + WEIGHT
"""The residual stream."""

TABLE = 18
"""Embeddings, before they are lifted into the ring of the stream."""

NORMED = 36
"""What a norm's readers give: a product with their kernel times the inverse root."""

TURNED = 24
"""Queries and keys, before they are turned by their rotary positions."""

ANGLE = 14
"""Cosines and sines of rotary positions."""

QUERY, KEY, VALUE = 17, 14, 13
"""What attention multiplies."""

SHARE = 10
"""The keys' public weights in the mean that scores are centred by: whole numbers whose sum is 2^SHARE."""

INVERSE_COUNT = 12
"""The public number 1/keys, by which sums over the keys become means; it may be rough, for it cancels."""

EXPONENT_OPENED = 24
"""Bits that the exponential's opening sends, of which those after the period are fraction bits."""

EXPONENTIAL = 16
"""Of the exponential's masks and public factors, before its truncation."""

MOST_ROOT = 13
"""What is squared, where there is room."""

ROUGH = 12
"""The inverse means of the squares, which need not be accurate."""

NUMERATOR = 12
"""The last squares, where they weigh values."""

SUMS = 17
"""Values that are weighed, in units of the mean numerator."""

GATE_OPENED = 24
"""Bits that the activation's opening sends."""

GATE_MASK, GATE_PUBLIC = 14, 18
"""The activation's masks and public factors."""

GATE = CONTEXT
"""The activation, which is multiplied as it is, and what it gates, before their product."""
