"""A look at what the dealer dealt: two parties make a piece of material again from its seed, and compare.

With the seed a party makes all keys, and all that depends on no weight. What is derived from the masks M of weights is
linear in M, say f(M), and a party knows its own share M_i alone. Of f(M) its component c_i is all that it has, for the
first one's key does not follow from the seed: both components together would be equations of M, which outlives the
piece. A party takes f(M_i) from c_i; what is left has to cancel out,

    (c_0 - f(M_0)) + (c_1 - f(M_1)) = f(M) - f(M) = 0,

so the first party hashes its rest and the second the negative of its own. A piece whose seed is known hides nothing any
more: it serves no request.

A dealer that deals n wrong pieces is found with probability 1 - (1 - p)^n, where a part p of all pieces is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from secformer_jax.mpc.material import Array, Material, Randomness, WeightMasks
from secformer_jax.mpc.runtime.shares import RING_BITS, SEED_BYTES, Share, pack

PARTIES = 2


def commitment(seed: bytes) -> str:
    """What the dealer says of a seed before it is asked for it."""
    return hashlib.blake2b(seed, digest_size=SEED_BYTES, person=b"commitment").hexdigest()


class OwnMasks(WeightMasks):
    """One party's shares of the weights' masks, in the place of the masks."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__({}, {})
        self._arrays = arrays

    def array(self, name: str) -> np.ndarray:
        """This party's share."""
        return self._arrays[name]

    def and_more(self, arrays: Mapping[str, np.ndarray]) -> OwnMasks:
        """With those of one conversation."""
        return OwnMasks({**self._arrays, **arrays})


def audit(
    nodes: Sequence[Material], seed: bytes, masks: WeightMasks, rank: int, held: Mapping[int, Share]
) -> tuple[bool, str]:
    """Make a piece again.

    Args:
        nodes: abstract, as they were dealt.
        seed: that the dealer says it dealt them from.
        masks: `OwnMasks`.
        rank: this party's, 0 or 1.
        held: what this party has of the leaves, by their places.

    Returns:
        Whether all that this party can see is as the seed has it; and a hash that has to equal the other party's.
    """
    randomness, place, good = Randomness(PARTIES, seed), 0, True
    rests = hashlib.blake2b(digest_size=SEED_BYTES)
    for node in nodes:
        for array in jax.tree.leaves(node.deal(randomness.child(), masks)):
            if place in held:
                good &= _is_dealt(array, node, rank, held[place])
            if node.of_weights and not _is_key(array.components[-1]):
                rests.update(pack(_rest(array, rank, held.get(place)), array.bits).data)
            place += 1
    return good, rests.hexdigest()


def _is_key(component) -> bool:
    return isinstance(component, bytes)


def _is_dealt(array: Array, node: Material, rank: int, held: Share) -> bool:
    """Whether a component is what the seed gives, as far as the weights' masks don't matter."""
    [component], expected = held.components, array.components[rank]
    if (held.shape, held.bits) != (array.shape, array.bits) or _is_key(component) != _is_key(expected):
        return False
    if node.of_weights and not _is_key(array.components[-1]):
        return True
    if _is_key(expected):
        return component == expected
    off = held.rings()[0] - Share("int64", array.shape, (expected,), array.bits).rings()[0]
    return bool((np.abs(_signed(off, array.bits)) <= node.tolerance).all())


def _rest(array: Array, rank: int, held: Share | None) -> np.ndarray:
    """Of a derived array: the component less f(M_i), or the negative of that."""
    if held is None:
        return np.zeros(array.shape, np.int64)
    rest = held.rings()[0] - array.ring
    return rest if rank == 0 else -rest


def _signed(ring: np.ndarray, bits: int) -> np.ndarray:
    return ring << (RING_BITS - bits) >> (RING_BITS - bits)
