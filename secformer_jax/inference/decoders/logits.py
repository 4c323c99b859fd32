"""What a pass reveals to the client, as numbers. Needs nothing but numpy."""

from __future__ import annotations

import numpy as np

from secformer_jax.mpc.runtime.shares import RING_BITS
from secformer_jax.openings.decoder import scales


def read_logits(ring: np.ndarray, width: int) -> np.ndarray:
    """float64 (vocab_size,), from the sum of the parties' shares modulo 2^width."""
    unused = RING_BITS - width
    return ((np.asarray(ring) << unused) >> unused) * 2.0**-scales.STREAM
