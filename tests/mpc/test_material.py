"""The dealer: uniform masks in any ring, shared by keys and one array, that serve once."""

import jax
import numpy as np
import pytest
from programs import abstract
from rings import elements, signed, unsigned, whole
from scipy.stats import chi2_contingency, chisquare
from uniformity import OPENINGS, accepted, counts

from secformer_jax.mpc import material
from secformer_jax.mpc.material import Array, Dealer, Material, MaterialReusedError, Randomness, WeightMasks
from secformer_jax.mpc.ring import ring_matmul
from secformer_jax.mpc.runtime.shares import packed_bytes


class Doubled(Material):
    """A mask in a ring of 23 bits, and its double in one of 40."""

    mask: jax.Array
    double: jax.Array

    def deal(self, randomness, masks):
        mask = randomness.uniform(self.mask.shape, 23)
        return self.replace(mask=mask, double=randomness.derived(2 * unsigned(mask.ring, 23), 40))


def doubled(*shape: int) -> Doubled:
    return abstract(lambda: Doubled(np.zeros(shape, np.int64), np.zeros(shape, np.int64)))


@pytest.mark.parametrize("parties", [1, 2, 3])
@pytest.mark.parametrize("bits", [1, 7, 23, 40, 64])
def test_what_was_drawn_is_shared_by_keys_and_the_rest_by_one_array(parties, bits):
    randomness = Randomness(parties)
    drawn = randomness.uniform((4, 10), bits)
    derived = randomness.derived(3 * drawn.ring, bits)
    for array, ring in ((drawn, drawn.ring), (derived, 3 * drawn.ring)):
        assert isinstance(array, Array) and (array.shape, array.bits) == ((4, 10), bits)
        assert ring.dtype == np.int64
        np.testing.assert_array_equal(whole(array), unsigned(ring, bits))
    assert [type(component) for component in drawn.components] == [bytes] * parties
    *keys, rest = derived.components
    assert [type(component) for component in keys] == [bytes] * (parties - 1)
    assert rest.nbytes == packed_bytes(40, bits)
    assert len({*drawn.components, *keys}) == 2 * parties - 1


def test_a_request_is_taken_whole_and_once():
    dealt = Dealer().deal({"a": doubled(4), "b": [doubled(2, 3), doubled(1)]})
    arrays = dealt.take(2)
    assert [array.shape for array in arrays] == [(4,), (4,), (2, 3), (2, 3), (1,), (1,)]
    assert [array.bits for array in arrays] == [23, 40] * 3
    for mask, double in zip(arrays[::2], arrays[1::2], strict=True):
        np.testing.assert_array_equal(whole(double), 2 * whole(mask))
    keys = [component for array in arrays for component in array.components if isinstance(component, bytes)]
    assert len(set(keys)) == len(keys) == 9
    for parties in (2, 3):
        with pytest.raises(MaterialReusedError, match="one request only"):
            dealt.take(parties)


def test_material_is_made_in_the_order_of_its_use_and_not_all_at_once(monkeypatch):
    """Leaf 5 is used first, so the last node is made first; what nobody asked for comes last."""
    monkeypatch.setattr(material, "ELEMENTS_AT_ONCE", 8)
    spec = {"a": doubled(4), "b": [doubled(3), doubled(1), doubled(2)]}
    batches = [
        {place: array.shape for place, array in batch.items()} for batch in Dealer().deal(spec).batches(2, [5, 2])
    ]
    assert batches == [
        {4: (1,), 5: (1,), 2: (3,), 3: (3,)},
        {0: (4,), 1: (4,)},
        {6: (2,), 7: (2,)},
    ]


def test_two_deals_differ():
    spec, dealer = doubled(100), Dealer()
    first, second, other = (each.deal(spec).take(2) for each in (dealer, dealer, Dealer()))
    for one, two in ((first, second), (first, other), (second, other)):
        for left, right in zip(one, two, strict=True):
            assert not np.intersect1d(whole(left), whole(right)).size > 2
            assert not {c for c in left.components if isinstance(c, bytes)} & {
                c for c in right.components if isinstance(c, bytes)
            }


@pytest.mark.parametrize("bits", [1, 6, 23, 64])
def test_randomness_is_uniform(bits):
    width = min(bits, 6)

    def p_values() -> list[float]:
        drawn = Randomness(2).uniform((2, OPENINGS // 2), bits).ring
        assert drawn.dtype == np.int64 and drawn.shape == (2, OPENINGS // 2)
        shifted = [(drawn.ravel() >> shift) & (2**width - 1) for shift in (0, bits - width)]
        return [chisquare(np.bincount(values, minlength=2**width)).pvalue for values in shifted]

    assert accepted(p_values)


def test_each_component_is_uniform():
    """Whatever is shared: a constant, in a ring of 23 bits."""
    zeros = np.zeros(OPENINGS, np.int64)

    def p_values() -> list[float]:
        components = Randomness(2).derived(zeros, 23).components
        rings = [whole(Array((OPENINGS,), 23, (component,))) for component in components]
        return [chisquare(counts(ring, shift)).pvalue for ring in rings for shift in (17, 9, 0)]

    assert accepted(p_values)


def test_chi_square_would_notice():
    """A mask that misses one value in fifty, and one that is used again."""
    masks = unsigned(Randomness().uniform((OPENINGS,), 23).ring, 23)
    assert not accepted(lambda: [chisquare(counts(masks[masks < 0.98 * 2**23], 17)).pvalue])
    once = unsigned(Randomness().uniform((1,), 23).ring, 23)
    repeated = np.stack([counts(np.repeat(once + shift, 1000), 17) for shift in (0, 2**22)])
    assert not accepted(lambda: [chi2_contingency(repeated[:, repeated.any(0)]).pvalue])


def test_randomness_differs_between_instances_and_calls():
    one, two = Randomness(), Randomness()
    draws = [source.uniform((100,)).ring for source in (one, one, two)]
    assert not any(np.intersect1d(draws[i], draws[j]).size for i, j in ((0, 1), (0, 2), (1, 2)))


SHAPES = {"kernel": (5, 4), "scale": (5,)}


def test_each_weight_has_a_mask_of_its_own():
    masks = WeightMasks.fresh({"a": (500,), "b": (500,)}, 2)
    assert np.intersect1d(masks.array("a"), masks.array("b")).size == 0


def test_weight_masks_are_remembered():
    dealer = Dealer()
    masks = dealer.mask_weights(SHAPES)
    for name, shape in SHAPES.items():
        found = masks.array(name)
        assert (found.shape, found.dtype) == (shape, np.int64)
        np.testing.assert_array_equal(found, masks.array(name))
    assert not np.array_equal(masks.array("scale"), dealer.mask_weights(SHAPES).array("scale"))


@pytest.mark.parametrize("parties", [1, 2, 3])
@pytest.mark.parametrize("bits", [24, 40, 64])
def test_the_digits_of_a_mask_are_the_mask(parties, bits):
    masks, x = WeightMasks.fresh(SHAPES, parties), elements(3, 5)
    digits = masks.factor("kernel", bits)
    assert masks.factor("kernel", bits) is digits  # cut once
    found = ring_matmul(x, digits, bits)
    np.testing.assert_array_equal(signed(found, bits), signed(x @ masks.array("kernel"), bits))


def test_material_says_that_it_has_to_be_dealt():
    with pytest.raises(NotImplementedError):
        Material().deal(Randomness(), WeightMasks.fresh({}))
