"""Fraction bits of every value in the opened model; the rings that they are in are the plan's (`plan.ring`).

Products are truncated by a dealer's pair, which takes any number of bits, or rounded where the next one is in a
narrower ring. So the scales are those that the values need.
"""

HIDDEN = 12
"""Hidden states after LayerNorm, before gamma and beta."""

SUM = 28
"""What goes into a truncation after a product with weights: the sum of a block's output and the residual, too."""

QUERY = 14
"""Queries after their truncation; scores come from them times keys."""

KEY = 13
"""Keys after their truncation."""

VALUE = 12
"""Values after their truncation."""

SCORE = 9
"""Attention scores after their truncation."""

NUMERATOR = 8
"""2Quad's numerators, the squares of scores, rounded: their sums are large."""

EXACT_NUMERATOR = 12
"""The exact softmax's, whose sums are near the number of keys."""

CONTEXT = 12
"""The normalised context."""

FEED = 12
"""GeLU's tail where it meets the output weights."""

TABLE = 17
"""Embeddings, at the least."""

GELU_PUBLIC = 14
"""The public factors of GeLU's series."""

GELU_MASK = 12
"""Its masks."""

GELU_OPENED = 24
"""Bits that GeLU's opening sends: the period and as many fraction bits as there is room for."""

RECIPROCAL = 12
"""The inverse row sum, in units of the largest."""

HEAD = 15
"""Series of the head, whose numbers are the runtime's own."""

MEAN = 11
"""The weights 1/keys of the mean that scores are centred by; it cancels, so it may be rough."""

EXPONENT_OPENED = 24
"""Bits that the exponential's opening sends, of which those after the period are fraction bits."""

EXPONENTIAL = 16
"""The exponential's series before its truncation."""

LEAST_ROOT = 12
"""What is squared, at the least."""

ROUGH = 12
"""The inverse means of the squares, which need not be accurate."""

SQUARES = 48
"""Bits of the squares' ring, which six bytes hold: what is squared has as many fraction bits as there is room for."""
