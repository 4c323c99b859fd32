"""How wide a ring has to be for calibrated values, and who is told that none is wide enough."""

from __future__ import annotations

import math

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import MARGIN, Calibration
from secformer_jax.mpc.runtime.shares import RING_BITS

USE_ANOTHER = "use the preset puma"
"""What an encoder's owner can do where a range is too wide."""


def reach(calibration: Calibration, place: str, quantity: str = "output") -> float:
    """The greatest absolute value that is reckoned with at a place: what was seen, with a margin.

    Raises:
        UserError: a place without a measured range.
    """
    found = calibration.range(place, quantity)
    return max(-found.low, found.high) * MARGIN


def ring(place: str, fraction_bits: int, greatest: float, *, later: int = 0, advice: str = USE_ANOTHER) -> int:
    """Bits of a ring for values up to `greatest` that are truncated by a dealer's pair.

    Args:
        place: where, for messages.
        fraction_bits: of the values.
        greatest: of them, calibrated.
        later: bits more that a ring has that leads to this one.
        advice: what to do where no ring holds them.

    Raises:
        UserError: no ring of 64 bits holds them.
    """
    bits = fraction_bits + max(0, math.ceil(math.log2(greatest))) + 2
    within(f"{place}: values up to {greatest:,.0f}", bits + later, advice=advice)
    return bits


def within(what: str, bits: int, *, advice: str = USE_ANOTHER) -> int:
    """Bits of a ring, if there is one.

    Raises:
        UserError: they are more than 64.
    """
    if bits > RING_BITS:
        raise UserError(f"{what} take a ring of {bits} bits, and {RING_BITS} is the most: {advice}")
    return bits
