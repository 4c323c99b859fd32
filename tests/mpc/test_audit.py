"""A dealer that deals wrongly is caught by who looks, and only then."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from opened_bert import TINY, calibrate, opened_checkpoint

from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.cluster.requirements import mask_shapes, requirements
from secformer_jax.functions import presets
from secformer_jax.inference.serving import serving_for
from secformer_jax.mpc.audit import OwnMasks, audit, commitment
from secformer_jax.mpc.material import Array, Randomness, WeightMasks, deal_nodes, material_nodes
from secformer_jax.mpc.runtime.shares import RING_BITS, Share, deal, pack

SEED = bytes(range(32))


class Piece:
    """What a dealer deals two parties for a tiny model, and their shares of its weights' masks."""

    def __init__(self, preset: str) -> None:
        model, functions = opened_checkpoint(TINY), presets.preset(preset)
        needed = requirements(
            serving_for(model, functions, calibrate(model, preset), 18, "client"), RequestShape(1, 16)
        )
        shapes = mask_shapes(needed.weights)
        self.nodes = material_nodes(needed.material)
        self.masks = WeightMasks.fresh(shapes, 2)
        generator = np.random.default_rng(0)
        top, whole = 1 << 62, {name: self.masks.array(name) for name in shapes}
        first = {name: generator.integers(-top, top, shape) for name, shape in shapes.items()}
        self.own = [OwnMasks(first), OwnMasks({name: mask - first[name] for name, mask in whole.items()})]

    def dealt(self, seed: bytes = SEED) -> list[Array]:
        return deal_nodes(self.nodes, Randomness(2, seed), self.masks)

    def found(self, arrays: list[Array], seed: bytes = SEED) -> bool:
        """What two parties say that have got these."""
        shares = [deal(x.components, "int64", x.shape, "SEMI2K", x.bits) for x in arrays]
        looked = [
            audit(self.nodes, seed, self.own[rank], rank, {i: own[rank] for i, own in enumerate(shares)})
            for rank in range(2)
        ]
        return all(good for good, _ in looked) and looked[0][1] == looked[1][1]


@pytest.fixture(scope="module", params=["fast", "drop-in"])
def piece(request) -> Piece:
    return Piece(request.param)


def test_a_piece_that_was_dealt_rightly_holds(piece):
    arrays = piece.dealt()
    assert piece.found(arrays)
    assert not piece.found(arrays, seed=bytes(32))
    assert piece.found(piece.dealt(bytes(32)), seed=bytes(32))


def changed(array: Array, change: Callable[[np.ndarray], None]) -> Array:
    """With another component for the second party."""
    ring = Share("int64", array.shape, array.components[1:], array.bits).rings()[0].copy()
    change(ring.reshape(-1))
    return dataclasses.replace(array, components=(array.components[0], pack(ring, array.bits)))


def test_every_array_that_is_wrong_is_seen(piece):
    """One element of each: of the keys, of what is derived from masks alone, and from those of weights."""
    arrays, kinds = piece.dealt(), set()
    for place, array in enumerate(arrays):
        if isinstance(array.components[1], bytes):
            wrong = dataclasses.replace(array, components=(array.components[0], bytes(32)))
        else:
            # More than what floating point may differ by.
            wrong = changed(array, lambda ring, bits=array.bits: np.add.at(ring, [-1], 1 << (bits - 1)))
        kinds.add(type(array.components[1]))
        assert not piece.found([*arrays[:place], wrong, *arrays[place + 1 :]]), place
    assert len(kinds) == 2


def of_weights(piece: Piece) -> list[bool]:
    """By place, whether an array is derived from the masks of weights."""
    nodes = [node for node in piece.nodes for _ in jax.tree.leaves(node)]
    derived = (not isinstance(array.components[1], bytes) for array in piece.dealt())
    return [node.of_weights and one for node, one in zip(nodes, derived, strict=True)]


def test_a_wrong_key_of_the_first_party_is_seen(piece):
    """Of what depends on the masks of weights, too, though it does not follow from the seed."""
    arrays = piece.dealt()
    for place in (of_weights(piece).index(True), of_weights(piece).index(False)):
        array = arrays[place]
        wrong = dataclasses.replace(array, components=(bytes(32), array.components[1]))
        assert not piece.found([*arrays[:place], wrong, *arrays[place + 1 :]])


def test_who_looks_learns_nothing_of_masks_that_stay(piece):
    """With the seed, one party's component and what the seed gives of the other's are not the array."""
    arrays, replayed = piece.dealt(), deal_nodes(piece.nodes, Randomness(2, SEED), piece.own[1])
    places = [place for place, one in enumerate(of_weights(piece)) if one]
    assert len(places) > 5
    for place in places:
        whole = Share("int64", arrays[place].shape, arrays[place].components, arrays[place].bits).rings()
        guess = Share("int64", arrays[place].shape, replayed[place].components[:1], arrays[place].bits).rings()[0]
        assert np.count_nonzero(low(guess - whole[0], arrays[place].bits)) > 0.9 * guess.size
    keys = [arrays[place].components[0] for place in places]
    again = piece.dealt()
    assert len({*keys, *(again[place].components[0] for place in places)}) == 2 * len(places)


def low(ring: np.ndarray, bits: int) -> np.ndarray:
    return ring << (RING_BITS - bits)


def test_masks_of_other_weights_are_seen(piece):
    other = Piece.__new__(Piece)
    other.__dict__ |= piece.__dict__
    other.masks = WeightMasks.fresh(piece.masks._shapes, 2)
    assert not piece.found(other.dealt())


def test_a_seed_is_what_was_committed_to():
    assert commitment(SEED) != commitment(bytes(32)) and commitment(SEED) == commitment(bytes(range(32)))
    assert len(commitment(SEED)) == 64


def test_what_depends_on_no_weight_follows_from_the_seed_and_every_key_is_its_own():
    def keys(arrays: list[Array]) -> list[bytes]:
        return [component for x in arrays for component in x.components if isinstance(component, bytes)]

    piece = Piece("fast")

    def seeded(seed: bytes = SEED) -> list[Array]:
        found = zip(piece.dealt(seed), of_weights(piece), strict=True)
        return [array for array, depends in found if not depends]

    once, again, other = keys(seeded()), keys(seeded()), keys(seeded(bytes(32)))
    assert once == again and len(set(once)) == len(once) > 30
    assert not set(once) & set(other)
    assert max(x.bits for x in piece.dealt()) <= RING_BITS
