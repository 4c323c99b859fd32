"""Where a decoder's values leave the domains of their series or the rings that they are truncated in, emulated."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.decoders.simulated import SimulatedDecoder
from secformer_jax.inference.watching import Seen, Violation, domain_of, is_watched, name_of, watched
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.mpc.material import NoMasks
from secformer_jax.mpc.runtime.config import EMULATION, load
from secformer_jax.mpc.runtime.shares import RING_BITS

_OF_KEYS = re.compile(r"attention/(exponential|square_\d+/square/pair|last_square/pair)$")
"""Whose last two axes are the new tokens and the keys."""


class DecoderRangeCheck(SimulatedDecoder):
    """A decoder that one party computes with masks of zero; notes what goes into every series and truncation.

    Its passes have no padding, and begin a text: keys that no token looks at count for nothing. A value is read modulo
    its ring, in which twice its domain has room: one that leaves it by more may come back into it.

    Args:
        model: the checkpoint.
        calibration: the ranges that are checked, with the margin of their series.
        prefix: ids of the tokens that come before every text.
        length: tokens of each text.
    """

    def __init__(self, model: DecoderCheckpoint, calibration: Calibration, prefix: Sequence[int], length: int) -> None:
        super().__init__(model, calibration, prefix, length, load(EMULATION), every=True, randomness=NoMasks)
        self._watches: list[tuple[str, tuple[float, float], int, int]] = []
        self._seen: dict[str, Violation] = {}

    def function(self) -> Callable[..., Any]:
        """See `SimulatedDecoder`; with what went into the nodes."""

        def run(weights: Any, material: Any, one_hot: jax.Array, known: Any, cache: Any) -> tuple[Any, Any]:
            seen: Seen = {}
            nodes = watched(material, seen, lambda path: False)
            logits, cache = self.serving.function()(weights, nodes, one_hot, known, cache)
            leaves = jax.tree_util.tree_leaves_with_path(nodes, is_leaf=is_watched)
            by_name = {name_of(path): node for path, node in leaves}
            self._watches = [(name, domain_of(by_name[name], x.bits), x.bits, x.width) for name, x in seen.items()]
            return (logits, [x.ring for x in seen.values()]), cache

        return run

    def read(self, value: Any) -> np.ndarray:
        """See `SimulatedDecoder`; notes what went into the nodes."""
        logits, rings = value
        new, keys = self.serving.capacity, self.serving.prefix + self.serving.capacity
        visible = np.tri(new, keys, self.serving.prefix, dtype=bool)
        for (name, domain, bits, width), ring in zip(self._watches, rings, strict=True):
            middle = round(sum(domain) / 2 * 2.0**bits)
            values = _around(np.asarray(ring), width, middle) * 2.0**-bits
            if _OF_KEYS.search(name):
                values = values[np.broadcast_to(visible, values.shape)]
            found = Violation(name, "x", *domain, float(values.min()), float(values.max()))
            self._seen[name] = found.union(self._seen.get(name, found))
        return super().read(logits)

    @property
    def violations(self) -> list[Violation]:
        """Places where a value left its domain, in the model's order: what follows one may be its effect."""
        return [seen for seen in self._seen.values() if seen.seen_low < seen.low or seen.seen_high > seen.high]


def _around(ring: np.ndarray, width: int, middle: int) -> np.ndarray:
    """Numbers modulo 2^width, those next to the middle of their domain."""
    if width >= RING_BITS:
        return ring
    start = middle - (1 << (width - 1))
    return ((ring - start) & ((1 << width) - 1)) + start
