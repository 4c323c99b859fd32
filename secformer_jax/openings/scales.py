"""Fraction bits of every value in the opened model, chosen so that truncations are few and nothing reaches 2^62.

SPU truncates by 18 bits for 4 bytes a value (SEMI2K); by any other number it takes a dealer's pair and 8 bytes. So
scales of weights, which are free to choose, are such that sums arrive where a truncation by 18 is the right one.
"""

TRUNCATION = 18
"""Bits that SPU's own truncation drops."""

HIDDEN = 12
"""Hidden states after LayerNorm, before gamma and beta."""

CENTRED = 15
"""What goes into a LayerNorm, its mean already taken off."""

SUM = CENTRED + TRUNCATION
"""The sum of a block's output and the residual, before its truncation."""

GAMMA = SUM - HIDDEN
"""gamma, so that the residual arrives at the scale of the sum."""

QUERY = 14
"""Queries after their truncation; scores come from them times keys."""

KEY = 13
"""Keys after their truncation."""

VALUE = 12
"""Values after their truncation: the product with 2Quad's numerators takes the most bits of all."""

SCORE = QUERY + KEY - TRUNCATION
"""Attention scores after their truncation; their squares need none."""

CONTEXT = 13
"""The normalised context; the output weights bring it to SUM."""

FEED_IN = 28
"""The feed-forward values before GeLU, never truncated: they are opened modulo the period at this scale."""

GELU = 36
"""GeLU's result: the bits of its series' public factors and of its masks together."""

GELU_PUBLIC = 20
"""The public factors of GeLU's series."""

FEED_OUT = 49
"""The feed-forward output."""

ROW_PUBLIC = 26
"""Public factors of series with one value a row, where there are few and precision is free."""

ROW_TRUNCATION = 36
"""Bits that such a series' result loses to a dealer's pair."""

RSQRT = 15
"""The inverse standard deviation."""

RECIPROCAL = 12
"""The inverse row sum of 2Quad, in units of the largest; fewer where the sum needs the room (see plan)."""

LARGEST = 58
"""Bits that a product may have below its integer part of a few bits: the ring has 64."""

MEAN = 14
"""The weights 1/keys of the mean that scores are centred by."""

EXPONENTIAL = 20
"""exp(z/8) and its normalised squares: squares of up to 512 keys, summed, stay below 2^61."""

ROUGH = 12
"""The inverse means of those squares, which need not be accurate."""
