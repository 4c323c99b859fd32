"""Where a decoder's values leave the domains of their series or the rings that they are truncated in, emulated."""

from __future__ import annotations

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


class DecoderRangeCheck(SimulatedDecoder):
    """A decoder that is computed by one party with masks of zero, and keeps account of what goes into every node.

    Its passes have no padding, and begin a text: keys that no token looks at count for nothing.

    Args:
        model: the checkpoint.
        calibration: the ranges that are checked, with the margin of their series.
        prefix: ids of the tokens that come before every text.
        length: tokens of each text.
    """

    def __init__(self, model: DecoderCheckpoint, calibration: Calibration, prefix: Sequence[int], length: int) -> None:
        super().__init__(model, calibration, prefix, length, load(EMULATION), every=True, randomness=NoMasks)
        self._watches: list[tuple[str, tuple[float, float], float]] = []
        self._seen: dict[str, Violation] = {}

    def function(self, material: Any) -> Callable[..., Any]:
        """See `SimulatedDecoder`; with what went into the nodes."""

        def run(weights: Any, material: Any, one_hot: jax.Array, known: Any, cache: Any) -> tuple[Any, Any]:
            seen: Seen = {}
            nodes = watched(material, seen, lambda path: False)
            logits, cache = self.serving.function()(weights, nodes, one_hot, known, cache)
            leaves = jax.tree_util.tree_leaves_with_path(nodes, is_leaf=is_watched)
            by_name = {name_of(path): node for path, node in leaves}
            self._watches = [(name, domain_of(by_name[name], x.bits), 2.0**-x.bits) for name, x in seen.items()]
            return (logits, [x.ring for x in seen.values()]), cache

        return run

    def read(self, value: Any) -> np.ndarray:
        """See `SimulatedDecoder`; notes what went into the nodes."""
        logits, rings = value
        new, keys = self.serving.capacity, self.serving.prefix + self.serving.capacity
        visible = np.tri(new, keys, self.serving.prefix, dtype=bool)
        for (name, domain, unit), ring in zip(self._watches, rings, strict=True):
            values = np.asarray(ring) * unit
            if values.shape[-2:] == visible.shape:
                values = values[np.broadcast_to(visible, values.shape)]
            found = Violation(name, "x", *domain, float(values.min()), float(values.max()))
            self._seen[name] = found.union(self._seen.get(name, found))
        return super().read(logits)

    @property
    def violations(self) -> list[Violation]:
        """Places where a value left its domain, in the model's order: what follows one may be its effect."""
        return [seen for seen in self._seen.values() if seen.seen_low < seen.low or seen.seen_high > seen.high]
