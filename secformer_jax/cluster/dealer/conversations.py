"""The masks of conversations' caches: drawn when one begins, and forgotten when others have begun since."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from secformer_jax.mpc.material import MaterialReusedError, WeightMasks
from secformer_jax.mpc.runtime.shares import Share, deal, fresh_seeds

KEPT = 1024
"""Of one deployment: as many as may begin while one of the servers' is idle. They are keys, some kilobytes each."""


@dataclass
class CacheMasks:
    """One conversation's.

    Attributes:
        entered: whether its name is new, once it is in the ledger.
        seeds: by name a generator's key for each party.
        taken: the ranks that have theirs.
    """

    entered: asyncio.Future[bool]
    seeds: dict[str, list[bytes]]
    shapes: Mapping[str, tuple[int, ...]]
    taken: set[int] = field(default_factory=set)
    resident: list[WeightMasks] = field(default_factory=list)

    async def shares(self, rank: int, protocol: str) -> dict[str, Share]:
        """One party's, once; nothing of them is given out before the name is in the ledger.

        Raises:
            MaterialReusedError: it has them, or there has been such a name.
        """
        if not await self.entered:
            raise MaterialReusedError("a conversation of this name has been before: begin another")
        if rank in self.taken:
            raise MaterialReusedError("these masks of a conversation have been given out: begin another")
        self.taken.add(rank)
        return {name: deal(keys, "int64", self.shapes[name], protocol)[rank] for name, keys in self.seeds.items()}

    def beside(self, weights: WeightMasks) -> WeightMasks:
        """The masks themselves, and those of the weights."""
        if not self.resident:
            self.resident.append(WeightMasks(self.seeds, self.shapes, cut_once=False, others=weights))
        return self.resident[0]


class Conversations:
    """Those of one deployment, by the servers' names for them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, CacheMasks] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __getitem__(self, name: str) -> CacheMasks:
        self._kept.move_to_end(name)
        return self._kept[name]

    def begin(
        self, name: str, shapes: Mapping[str, tuple[int, ...]], parties: int, entered: asyncio.Future[bool]
    ) -> None:
        """Draw fresh masks."""
        self._kept[name] = CacheMasks(entered, {each: fresh_seeds(parties) for each in shapes}, shapes)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
