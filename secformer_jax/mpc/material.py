"""The dealer (SecFormer's assistant server): correlated randomness that is used once and sees no data.

Material is a pytree node that knows how to fill itself. A model declares what it needs as a Flax variable collection of
such nodes, abstract at first (shapes only); the dealer turns each into ring elements shortly before they are used.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import flax.struct
import jax
import numpy as np
from threadpoolctl import threadpool_limits

from secformer_jax.mpc.ring import Digits, cut, layout
from secformer_jax.mpc.runtime.shares import RING_BITS, SEED_BYTES, Component, expand, fresh_seeds, join, split


class MaterialReusedError(RuntimeError):
    """Masks were about to serve a second time, which would reveal the difference of two secrets."""


Leaf = Any
"""Of a node: abstract, what a party holds of it (jax.Array), or what the dealer made (`Array`)."""


class Material(flax.struct.PyTreeNode):
    """Correlated randomness for one evaluation at one place of the model.

    A subclass has int64 leaves (ring elements, shared additively) and static fields that say what they hold.

    Attributes:
        of_weights: whether what is derived here is linear in the masks of weights. Else it depends on none.
        tolerance: by how many units floating-point arithmetic of different machines may differ.
    """

    of_weights: ClassVar[bool] = False
    tolerance: ClassVar[int] = 0

    def deal(self, randomness: Randomness, masks: WeightMasks) -> Any:
        """A copy of this node whose leaves are fresh `Array`s; the shapes are this node's own.

        Args:
            randomness: the dealer's generator.
            masks: those of the weights, for products of a fresh mask with one of them.
        """
        raise NotImplementedError


_NOT_KEPT = np.empty(0, np.int64)


@dataclass(frozen=True)
class Array:
    """Ring elements that the dealer made.

    Attributes:
        shape: of the array.
        bits: of the ring that they are shared in.
        components: one for each party, which add up to the array.
        ring: the elements themselves while more is computed from them, int64; of no meaning above `bits`. Else empty.
    """

    shape: tuple[int, ...]
    bits: int
    components: tuple[Component, ...]
    ring: np.ndarray = field(default_factory=lambda: _NOT_KEPT)


class Randomness:
    """Uniform ring elements from AES-256 in counter mode, under keys that one secret seed gives, by BLAKE2b.

    Whoever has the seed makes all of it again but what depends on the masks of weights, see `audit`.

    Args:
        parties: how many share what is made.
        seed: by default one of the operating system's generator.
    """

    def __init__(self, parties: int = 1, seed: bytes | None = None) -> None:
        self.parties, self.seed = parties, seed or os.urandom(SEED_BYTES)
        self._given = Counter[str]()

    def key(self) -> bytes:
        """Another generator's key."""
        return self._next("key")

    def child(self) -> Randomness:
        """Another source of its own."""
        return type(self)(self.parties, self._next("child"))

    def uniform(self, shape: tuple[int, ...], bits: int = RING_BITS) -> Array:
        """Uniform modulo 2^bits: a sum of one generator's output for each party.

        The generators' keys are its components: whoever holds them needs no byte of the array itself.
        """
        keys = tuple(self.key() for _ in range(self.parties))
        return Array(shape, bits, keys, join([expand(key, shape, bits) for key in keys]))

    def derived(self, ring: np.ndarray, bits: int) -> Array:
        """What was computed: fresh keys for all parties but the last, which gets what is left."""
        keys = [self.key() for _ in range(self.parties - 1)]
        return Array(ring.shape, bits, tuple(split(ring, keys, bits)), ring)

    def derived_from_weights(self, ring: np.ndarray, bits: int) -> Array:
        """The same of what depends on masks that stay, under keys that the seed does not give.

        A party that is told the seed, to see how a piece was dealt, would take another's key off its own component:
        equations of the masks, and with enough of them the weights.
        """
        return Array(ring.shape, bits, tuple(split(ring, fresh_seeds(self.parties - 1), bits)), ring)

    def _next(self, what: str) -> bytes:
        self._given[what] += 1
        count = self._given[what].to_bytes(8, "little")
        return hashlib.blake2b(count, key=self.seed, digest_size=SEED_BYTES, person=what.encode()).digest()


class NoMasks(Randomness):
    """What emulation looks at values with: every mask is zero. One party holds everything there in any case."""

    def uniform(self, shape: tuple[int, ...], bits: int = RING_BITS) -> Array:
        """Zeros."""
        if self.parties > 1:
            raise ValueError("masks of zero hide nothing: they serve one party")
        zeros = np.zeros(shape, np.int64)
        return Array(shape, bits, (zeros,), zeros)


class WeightMasks:
    """The masks of weights that stay between requests, from their generators' keys.

    Args:
        keys: by name, one key for each party; a mask is the sum of their output, uniform in the ring of 64 bits.
        shapes: of the weights.
        cut_once: hold digits for products of many rows, 12 bytes an element; else elements, 8 bytes.
        others: masks that are here as well, under other names.
    """

    def __init__(
        self,
        keys: Mapping[str, Sequence[bytes]],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        cut_once: bool = True,
        others: WeightMasks | None = None,
    ) -> None:
        self._keys, self._shapes, self._cut_once, self._others = keys, shapes, cut_once, others
        self._factors: dict[tuple[str, int], Digits | np.ndarray] = {}

    @classmethod
    def fresh(
        cls,
        shapes: Mapping[str, tuple[int, ...]],
        parties: int = 1,
        *,
        cut_once: bool = True,
        others: WeightMasks | None = None,
    ) -> WeightMasks:
        """New masks for weights of these shapes."""
        keys = {name: [os.urandom(SEED_BYTES) for _ in range(parties)] for name in shapes}
        return cls(keys, shapes, cut_once=cut_once, others=others)

    def keys(self, name: str) -> Sequence[bytes]:
        """Of a mask's generators, one for each party."""
        return self._keys[name]

    def array(self, name: str) -> np.ndarray:
        """A mask, int64."""
        if name not in self._keys and self._others is not None:
            return self._others.array(name)
        return join([expand(key, self._shapes[name]) for key in self._keys[name]])

    def factor(self, name: str, bits: int) -> Digits | np.ndarray:
        """A mask for products modulo 2^bits, made once for as many digits."""
        if name not in self._keys and self._others is not None:
            return self._others.factor(name, bits)
        key = name, layout(bits)[1] if self._cut_once else 0
        if key not in self._factors:
            mask = self.array(name)
            self._factors[key] = cut(mask, bits) if self._cut_once else mask
        return self._factors[key]


class Dealer:
    """Deals material for one request at a time, and remembers the masks of the weights.

    Args:
        randomness: the generator.
        cut_once: see `WeightMasks`.
    """

    def __init__(self, randomness: Callable[[int], Randomness] = Randomness, *, cut_once: bool = True) -> None:
        self._randomness, self._cut_once, self._masks = randomness, cut_once, WeightMasks.fresh({})

    def mask_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> WeightMasks:
        """Uniform masks for weights that stay: made once, for the model owner, and remembered for their products."""
        self._masks = WeightMasks.fresh(shapes, cut_once=self._cut_once)
        return self._masks

    def mask_more(self, shapes: Mapping[str, tuple[int, ...]], parties: int) -> WeightMasks:
        """The same masks, and fresh ones for what one request's programs leave to each other."""
        return WeightMasks.fresh(shapes, parties, cut_once=False, others=self._masks)

    def deal(self, spec: Any, masks: WeightMasks | None = None) -> Dealt:
        """Material for one request, filled lazily.

        Args:
            spec: a pytree of abstract `Material` nodes, as `jax.eval_shape` of the model's init gives them.
            masks: with those of `mask_more`; by default the weights' alone.
        """
        return Dealt(spec, masks or self._masks, self._randomness)


ELEMENTS_AT_ONCE = 1 << 26
"""Ring elements after which the next ones are made later, when the ones before may be used up."""


class Dealt:
    """One request's material, made when it is taken, once."""

    def __init__(self, spec: Any, masks: WeightMasks, randomness: Callable[[int], Randomness] = Randomness) -> None:
        self._nodes, self._masks, self._randomness = material_nodes(spec), masks, randomness
        self._taken = False

    def take(self, parties: int) -> list[Array]:
        """All leaves, in the order of the flattened collection.

        Raises:
            MaterialReusedError: they have been taken before.
        """
        made = {place: array for batch in self.batches(parties) for place, array in batch.items()}
        return [made[place] for place in sorted(made)]

    def batches(self, parties: int, order: Sequence[int] = ()) -> Iterator[dict[int, Array]]:
        """All leaves by their places in the flattened collection, those of some nodes at a time.

        Args:
            parties: how many share them.
            order: places of leaves in the order of their use; the others come last.

        Raises:
            MaterialReusedError: they have been taken before.
        """
        if self._taken:
            raise MaterialReusedError("dealer material serves one request only: deal again for the next")
        self._taken = True
        ends = np.cumsum([len(jax.tree.leaves(node)) for node in self._nodes])
        nodes = dict.fromkeys([*np.searchsorted(ends, order, side="right").tolist(), *range(len(ends))])
        return self._made(self._randomness(parties), list(nodes), ends)

    def _made(self, randomness: Randomness, nodes: Sequence[int], ends: np.ndarray) -> Iterator[dict[int, Array]]:
        batch: list[int] = []
        places: list[int] = []
        elements = 0
        for node in nodes:
            leaves = jax.tree.leaves(self._nodes[node])
            batch.append(node)
            places += range(int(ends[node]) - len(leaves), int(ends[node]))
            elements += sum(leaf.size for leaf in leaves)
            if elements >= ELEMENTS_AT_ONCE or node == nodes[-1]:
                arrays = deal_nodes([self._nodes[each] for each in batch], randomness, self._masks)
                yield dict(zip(places, arrays, strict=True))
                batch, places, elements = [], [], 0


def material_nodes(spec: Any) -> list[Material]:
    """The nodes of a material collection, in the order of their leaves."""
    return jax.tree.leaves(spec, is_leaf=lambda node: isinstance(node, Material))


def deal_nodes(nodes: Sequence[Material], randomness: Randomness, masks: WeightMasks) -> list[Array]:
    """The leaves of nodes, filled; each core fills some."""

    def deal(node: Material, own: Randomness) -> list[Array]:
        return [replace(array, ring=_NOT_KEPT) for array in jax.tree.leaves(node.deal(own, masks))]

    cores, sources = len(os.sched_getaffinity(0)), [randomness.child() for _ in nodes]
    with threadpool_limits(limits=1), ThreadPoolExecutor(cores) as pool:
        return [array for arrays in pool.map(deal, nodes, sources) for array in arrays]
