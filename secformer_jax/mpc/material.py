"""The dealer (SecFormer's assistant server): correlated randomness that is used once and sees no data.

Material is a pytree node that knows how to fill itself. A model declares what it needs as a Flax variable collection of
such nodes, abstract at first (shapes only); the dealer turns each into ring elements shortly before they are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import numpy as np

from secformer_jax.mpc.runtime.shares import SEED_BYTES, Component, expand, join, split


class MaterialReusedError(RuntimeError):
    """Masks were about to serve a second time, which would reveal the difference of two secrets."""


class Material(flax.struct.PyTreeNode):
    """Correlated randomness for one evaluation at one place of the model.

    A subclass has int64 leaves (ring elements, shared additively) and static fields that say what they hold.
    """

    def deal(self, randomness: Randomness, resident: Mapping[str, np.ndarray]) -> Any:
        """A copy of this node whose leaves are fresh int64 numpy arrays; the shapes are this node's own.

        Args:
            randomness: the dealer's generator.
            resident: the masks of the weights, by name, for products of a fresh mask with one of those.
        """
        raise NotImplementedError


class Randomness:
    """Uniform ring elements from AES-256 in counter mode, keyed by the operating system's generator.

    An array over the whole ring is drawn as a sum of one generator's output for each party. The generators' keys are
    then its shares: whoever holds them needs no byte of the array itself.

    Args:
        parties: how many there are.
    """

    def __init__(self, parties: int = 1) -> None:
        self.parties = parties
        self._drawn: dict[int, tuple[np.ndarray, list[Component]]] = {}

    def bits(self, shape: tuple[int, ...], bits: int = 64) -> np.ndarray:
        """Uniform integers in [0, 2^bits) as int64 ring elements (for 64 bits: the whole ring)."""
        keys = [os.urandom(SEED_BYTES) for _ in range(self.parties if bits == 64 else 1)]
        drawn = join([expand(key, shape) for key in keys])
        if bits < 64:
            return (drawn.view(np.uint64) >> np.uint64(64 - bits)).view(np.int64)
        drawn.flags.writeable = False
        self._drawn[id(drawn)] = drawn, list(keys)
        return drawn

    def components(self, array: np.ndarray) -> list[Component]:
        """Components that add up to an array of the dealer's: keys where it was drawn, else keys and what is left.

        An array that was drawn is shared this way once; a second time it is split like any other.
        """
        drawn, keys = self._drawn.pop(id(array), (None, []))
        return keys if drawn is array and len(keys) == self.parties else split(array, self.parties)


class Dealer:
    """Deals material for one request at a time, and remembers the masks of the weights."""

    def __init__(self) -> None:
        self._resident: dict[str, np.ndarray] = {}

    def mask_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Uniform masks for weights that stay: made once, for the model owner, and remembered for their products."""
        randomness = Randomness()
        self._resident = {name: randomness.bits(shape) for name, shape in shapes.items()}
        return self._resident

    def deal(self, spec: Any) -> Dealt:
        """Material for one request, filled lazily.

        Args:
            spec: a pytree of abstract `Material` nodes, as `jax.eval_shape` of the model's init gives them.
        """
        return Dealt(spec, self._resident)


class Dealt:
    """One request's material: each leaf can be taken once, and its node is filled when the first is taken."""

    def __init__(self, spec: Any, resident: Mapping[str, np.ndarray]) -> None:
        self._randomness, self._resident = Randomness(), resident
        self._nodes = jax.tree.leaves(spec, is_leaf=_is_material)
        self._owner = [i for i, node in enumerate(self._nodes) for _ in jax.tree.leaves(node)]
        self._filled: dict[int, dict[int, np.ndarray]] = {}
        self._taken: set[int] = set()

    def __len__(self) -> int:
        return len(self._owner)

    def take(self, leaf: int) -> np.ndarray:
        """The int64 ring elements of one leaf, by its position in the flattened collection.

        Raises:
            MaterialReusedError: the leaf has been taken before.
        """
        if leaf in self._taken:
            raise MaterialReusedError("dealer material serves one request only: deal again for the next")
        self._taken.add(leaf)
        owner = self._owner[leaf]
        if owner not in self._filled:
            first = self._owner.index(owner)
            leaves = jax.tree.leaves(self._nodes[owner].deal(self._randomness, self._resident))
            self._filled[owner] = dict(enumerate(leaves, first))
        return self._filled[owner].pop(leaf)

    def components(self, leaf: int, parties: int) -> tuple[tuple[int, ...], list[Component]]:
        """The shape of one leaf and a component for each party; like `take`, once.

        Raises:
            MaterialReusedError: the leaf has been taken before.
        """
        self._randomness.parties = parties
        array = self.take(leaf)
        return array.shape, self._randomness.components(array)


def _is_material(node: Any) -> bool:
    return isinstance(node, Material)
