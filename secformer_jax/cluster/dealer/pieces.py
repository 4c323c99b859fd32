"""What the dealer holds: deployments with the masks of their weights, and pieces of material on their way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from secformer_jax.cluster.dealer.conversations import Conversations
from secformer_jax.cluster.published import Published
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.mpc.material import WeightMasks
from secformer_jax.mpc.runtime.shares import Share


@dataclass
class Piece:
    """One request's material: the seed of all of it, and by rank the shares of every leaf."""

    seed: bytes
    shares: list[list[Share]]


@dataclass
class Delivered:
    """The seed of a piece that all parties have, and who wants to look at how it was dealt."""

    seed: bytes
    asked: set[str] = field(default_factory=set)
    by_all: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Masked:
    """A deployment, and the components of its weights' masks: one generator's key for each party.

    Attributes:
        served: how it is computed, see `requirements.serving`.
        conversations: masks of caches.
    """

    deployment: Published
    seeds: dict[str, list[bytes]]
    shapes: dict[str, tuple[int, ...]]
    served: Any
    conversations: Conversations = field(default_factory=Conversations)
    resident: list[WeightMasks] = field(default_factory=list)
    nodes: dict[RequestShape, list[Any]] = field(default_factory=dict)

    def masks(self) -> WeightMasks:
        """The masks themselves, for their products."""
        if not self.resident:
            self.resident.append(WeightMasks(self.seeds, self.shapes, cut_once=self.deployment.cut_once))
        return self.resident[0]
