"""Shares of zero: they sum to nothing, and each by itself is uniform and new."""

import numpy as np
import pytest

pytest.importorskip("spu")

from memory_link import at_every_end
from uniformity import accepted, uniform

from secformer_jax.cluster.party.computing import revealed
from secformer_jax.mpc.runtime.zero_sharing import ZeroSharing


def sharings(parties: int) -> list[ZeroSharing]:
    return at_every_end(parties, ZeroSharing)


@pytest.mark.parametrize("parties", [1, 2, 3])
def test_shares_of_zero_sum_to_zero(parties):
    made = sharings(parties)
    for shape in ((3, 4), (), (3, 4)):
        np.testing.assert_array_equal(sum(each.next(shape) for each in made), np.zeros(shape, np.int64))


@pytest.mark.parametrize("parties", [2, 3])
def test_each_share_is_uniform_and_new(parties):
    for rank in range(parties):
        assert accepted(lambda rank=rank: uniform(sharings(parties)[rank].next((20_000,)), 64))
    made = sharings(parties)
    first, second = ([each.next((1000,)) for each in made] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.intersect1d(one, other).size == 0


def test_what_a_client_gets_of_a_party_says_nothing_of_its_component():
    """The same result from the same components gives other shares each time, and the same sum."""
    made, components = sharings(2), [np.arange(1000), -np.arange(1000) + 7]
    runs = [
        [revealed("float32", ring, zeros).rings()[0] for ring, zeros in zip(components, made, strict=True)]
        for _ in range(2)
    ]
    for run in runs:
        np.testing.assert_array_equal(sum(run), np.full(1000, 7))
        assert all(np.count_nonzero(own == ring) < 3 for own, ring in zip(run, components, strict=True))
    assert np.count_nonzero(runs[0][0] == runs[1][0]) < 3


def test_what_stands_above_a_results_bits_stays():
    """It depends on masks and weights, and says nothing of the result."""
    made, components = sharings(2), [np.arange(1000) + (5 << 40), 3 - np.arange(1000)]
    shares = [revealed("int64", ring, zeros, 40) for ring, zeros in zip(components, made, strict=True)]
    assert all(share.bits == 40 and share.components[0].size == 5 * 1000 for share in shares)
    np.testing.assert_array_equal(sum(share.rings()[0] for share in shares) % (1 << 40), np.full(1000, 3))
