"""Packed ring elements at every width: whole bytes, no bit above the ring's, and components that add up."""

import numpy as np
import pytest
from rings import elements, signed, unsigned, width_bytes
from scipy.stats import chisquare

from secformer_jax.mpc.runtime import shares

WIDTHS = range(1, 65)
SEED = bytes(range(32))
COUNT = 2 * (1 << 14) + 5  # beyond two of the blocks that are packed at a time
EXTREMES = [0, 1, -1, 2**63 - 1, -(2**63), 0x0102030405060708]


def with_extremes(count: int) -> np.ndarray:
    return np.concatenate([elements(count), EXTREMES])


@pytest.mark.parametrize("bits", WIDTHS)
def test_pack_and_unpack(bits):
    x = with_extremes(COUNT)
    packed = shares.pack(x, bits)
    assert packed.dtype == np.uint8 and packed.size == x.size * width_bytes(bits) == shares.packed_bytes(x.size, bits)
    # What comes back has no bit above the width: none was packed.
    for data in (packed, packed.tobytes(), memoryview(packed.tobytes())):
        np.testing.assert_array_equal(shares.unpack(data, x.shape, bits), unsigned(x, bits))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)])
@pytest.mark.parametrize("bits", [1, 23, 24, 40, 57, 64])
def test_shapes(shape, bits):
    x = elements(*shape)
    np.testing.assert_array_equal(shares.unpack(shares.pack(x, bits), shape, bits), unsigned(x, bits))
    assert shares.expand(SEED, shape, bits).shape == shape
    turned = elements(5, 4, 3).transpose(2, 0, 1)  # not in the order of memory
    np.testing.assert_array_equal(shares.unpack(shares.pack(turned, bits), turned.shape, bits), unsigned(turned, bits))


def test_layout():
    """First the lowest bytes of all elements, 4, 2 or 1 together, then the next."""
    one, two = 0x07060504030201, 0x17161514131211
    packed = shares.pack(np.array([one, two]), 56)
    assert packed.tobytes().hex() == "01020304" + "11121314" + "0506" + "1516" + "07" + "17"
    assert [piece.tolist() for piece in shares.pieces(packed, 56)] == [
        [0x04030201, 0x14131211],
        [0x0605, 0x1615],
        [0x07, 0x17],
    ]


@pytest.mark.parametrize("bits", WIDTHS)
def test_expansion_is_uniform_and_its_own(bits):
    x = shares.expand(SEED, (COUNT,), bits)
    np.testing.assert_array_equal(x, shares.expand(SEED, (COUNT,), bits))
    packed = shares.expand_packed(SEED, COUNT, bits)
    assert packed.size == shares.packed_bytes(COUNT, bits)
    np.testing.assert_array_equal(shares.unpack(packed, (COUNT,), bits), x)
    width = min(bits, 6)
    for shift in {0, (bits - width) // 2, bits - width}:
        seen = np.bincount(((x >> shift) & ((1 << width) - 1)).astype(np.int64), minlength=1 << width)
        assert chisquare(seen).pvalue > 1e-4
    # The bytes that stand apart are drawn apart: as if from one generator, they would repeat.
    drawn = [piece.view(np.uint8)[:COUNT] for piece in shares.pieces(packed, bits)]
    for index, one in enumerate(drawn):
        assert all(np.mean(one == other) < 0.01 for other in drawn[:index])
    other = shares.expand(bytes(32), (COUNT,), bits)
    assert np.mean(unsigned(x, bits) == unsigned(other, bits)) < 0.52


@pytest.mark.parametrize("parties", [1, 2, 3])
@pytest.mark.parametrize("bits", WIDTHS)
def test_split_adds_up(bits, parties):
    x = with_extremes(COUNT if bits % 16 == 7 else 50)
    *keys, rest = shares.split(x, shares.fresh_seeds(parties - 1), bits)
    assert len(keys) == parties - 1 == len(set(keys)) and {len(key) for key in keys} <= {shares.SEED_BYTES}
    assert rest.dtype == np.uint8 and rest.size == shares.packed_bytes(x.size, bits)
    last = shares.unpack(rest, x.shape, bits)
    np.testing.assert_array_equal(last, unsigned(last, bits))
    total = shares.join([shares.expand(key, x.shape, bits) for key in keys] + [last])
    np.testing.assert_array_equal(unsigned(total, bits), unsigned(x, bits))
    if parties > 1:
        *others, _ = shares.split(x, shares.fresh_seeds(parties - 1), bits)
        assert not {*keys} & {*others}


@pytest.mark.parametrize("bits", WIDTHS)
def test_sum_packed(bits):
    """Of one's own components, one or two, and of what others sent."""
    for terms, others in ((1, 0), (1, 1), (2, 1), (1, 2)):
        own, received = elements(terms, 3, COUNT // 3), elements(others, 3, COUNT // 3)
        found = shares.sum_packed(own, [shares.pack(each, bits) for each in received], bits)
        np.testing.assert_array_equal(found, signed(own.sum(axis=0) + received.sum(axis=0), bits))
        assert found.min() >= -(2 ** (bits - 1)) and found.max() < 2 ** (bits - 1)


def test_sum_packed_leaves_what_it_reads():
    own, other = elements(1, 100), shares.pack(elements(100), 40)
    before = own.copy(), other.copy()
    shares.sum_packed(own, [other], 40)
    np.testing.assert_array_equal(own, before[0])
    np.testing.assert_array_equal(other, before[1])


PARTIES = {"SEMI2K": 2, "CHEETAH": 2, "ABY3": 3, "REF2K": 1}


@pytest.mark.parametrize("bits", [7, 40, 64])
@pytest.mark.parametrize("protocol", PARTIES)
def test_what_a_party_holds(protocol, bits):
    x, parties = elements(3, 5), PARTIES[protocol]
    found = shares.share(x, "int64", protocol, parties, bits)
    rings = [share.rings() for share in found]
    np.testing.assert_array_equal(unsigned(shares.join([own[0] for own in rings]), bits), unsigned(x, bits))
    if protocol == "ABY3":  # a party's second component is the first of the next
        for rank in range(3):
            np.testing.assert_array_equal(rings[rank][1], rings[(rank + 1) % 3][0])
    for share, own in zip(found, rings, strict=True):
        assert (share.dtype, share.shape, share.bits) == ("int64", x.shape, bits)
        np.testing.assert_array_equal(share.stacked(), np.stack(own))
        expanded = share.expanded()
        assert {(c.dtype.name, c.size) for c in expanded.components} == {("uint8", shares.packed_bytes(x.size, bits))}
        np.testing.assert_array_equal(unsigned(expanded.stacked(), bits), unsigned(np.stack(own), bits))
        assert shares.sent_bytes(share) == sum(c.nbytes if isinstance(c, np.ndarray) else 32 for c in share.components)
    # All components but the last are keys: that one has the packed elements.
    sent = {"ABY3": [64, 32 + 15 * width_bytes(bits), 15 * width_bytes(bits) + 32], "REF2K": [15 * width_bytes(bits)]}
    assert [shares.sent_bytes(share) for share in found] == sent.get(protocol, [32, 15 * width_bytes(bits)])


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**44, -(2.0**44)])
def test_what_the_ring_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"finite and below 2\^44"):
        shares.encode(np.array([1.0, value]), 18)


def test_encode_and_decode():
    x = np.array([0.5, -3.25, 2.0**43])
    np.testing.assert_array_equal(shares.decode(shares.encode(x, 18), "float64", 18), x)
    n = np.array([-(2**31), 2**31 - 1, 7], np.int32)
    ring = shares.encode(n, 18)
    assert ring.dtype == np.int64
    np.testing.assert_array_equal(shares.decode(ring, "int32", 18), n)
