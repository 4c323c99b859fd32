"""The presets as names of variants: `presets` has what they stand for. Needs no JAX."""

from collections.abc import Mapping
from typing import NamedTuple


class Names(NamedTuple):
    """A variant for each function, see `presets.GELU`, `SOFTMAX` and `LAYER_NORM`; and `Approximations.openings`."""

    gelu: str
    softmax: str
    layer_norm: str
    openings: bool = False


PRESETS: Mapping[str, Names] = {
    "exact": Names("exact", "exact", "exact"),
    # The same formulas: under MPC their erf, exp, reciprocal and rsqrt are SPU's own.
    "spu": Names("exact", "exact", "exact"),
    "puma": Names("puma", "puma", "exact"),
    "mpcformer": Names("quad", "two_quad", "exact"),
    "secformer": Names("fourier_segmented", "two_quad_goldschmidt", "goldschmidt"),
    # Under MPC these three are computed together, every reciprocal and root by masked opening: package `openings`.
    "fast": Names("fourier", "two_quad", "exact", openings=True),
    # The same with softmax itself, for checkpoints that were never distilled.
    "drop-in": Names("fourier", "exact", "exact", openings=True),
}
