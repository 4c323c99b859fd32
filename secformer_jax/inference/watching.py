"""What goes into every series and every truncation of an opened model, under emulation, where it shows in full.

Fixed point never raises: a series beyond its domain is bounded and wrong, and so is a truncation in too small a ring.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax

from secformer_jax.mpc.primitives.fixed import Fixed, Masked, TruncationPair
from secformer_jax.mpc.primitives.series import OpenedSeries

Seen = dict[str, Fixed]
"""By path in the material: what a node was asked to mask."""


@dataclass(frozen=True)
class Violation:
    """A series or a truncation that met real tokens' values outside its domain.

    Attributes:
        place, quantity: as in `Calibration`; the softmax's "square_mean_0", ..., and "row_mean", its last divisor; and
            for truncations what is truncated there.
        low, high: the domain.
        seen_low, seen_high: the extremes that went in.
    """

    place: str
    quantity: str
    low: float
    high: float
    seen_low: float
    seen_high: float

    def __str__(self) -> str:
        seen = [x for x in (self.seen_low, self.seen_high) if not self.low <= x <= self.high]
        values = " and ".join(f"{x:.4g}" for x in seen)
        return f"{self.place} {self.quantity} {values} left [{self.low:.4g}, {self.high:.4g}]"

    def union(self, other: Violation) -> Violation:
        """The same place over two batches."""
        low, high = min(self.seen_low, other.seen_low), max(self.seen_high, other.seen_high)
        return Violation(self.place, self.quantity, self.low, self.high, low, high)


class WatchedSeries(OpenedSeries):
    """A series that notes what it is asked to mask."""

    path: str = flax.struct.field(pytree_node=False)
    seen: Seen = flax.struct.field(pytree_node=False)

    def masked(self, x: Fixed) -> Masked:
        """See OpenedSeries."""
        self.seen[self.path] = x
        return super().masked(x)


class WatchedPair(TruncationPair):
    """A truncation that notes what it is asked to mask."""

    path: str = flax.struct.field(pytree_node=False)
    seen: Seen = flax.struct.field(pytree_node=False)

    def masked(self, x: Fixed) -> Masked:
        """See TruncationPair."""
        self.seen[self.path] = x
        return super().masked(x)


def is_watched(node: Any) -> bool:
    """Whether a node of the material is a series or a truncation."""
    return isinstance(node, OpenedSeries | TruncationPair)


def watched(material: Any, seen: Seen, leave: Callable[[str], bool]) -> Any:
    """The same material, which notes what it is asked to mask; but for the nodes at paths that are left."""

    def node_at(path: tuple, node: Any) -> Any:
        name = name_of(path)
        if not is_watched(node) or leave(name):
            return node
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        kind = WatchedSeries if isinstance(node, OpenedSeries) else WatchedPair
        return kind(**fields, path=name, seen=seen)

    return jax.tree_util.tree_map_with_path(node_at, material, is_leaf=is_watched)


def name_of(path: tuple) -> str:
    """A path of JAX's as one text."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def domain_of(node: OpenedSeries | TruncationPair, bits: int) -> tuple[float, float]:
    """What may go into a node, where numbers have this many fraction bits."""
    if not isinstance(node, TruncationPair):
        return node.series.low, node.series.high
    reach = 2.0 ** (node.width - 2 - bits)
    return (-reach, reach) if node.signed else (0.0, 2 * reach)
