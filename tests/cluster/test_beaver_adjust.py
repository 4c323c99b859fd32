"""The dealer's arithmetic against integers of Python: streams, every operation, whole and in pieces."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secformer_jax.cluster.dealer.beaver import adjust, prg
from secformer_jax.cluster.dealer.beaver.request import Array, Permutation, Request

RING = 1 << 64
SEEDS = (bytes(range(16)), os.urandom(16))
U8 = np.dtype("<u8")


def blocks_of(seed, counter, count):
    cipher = Cipher(algorithms.AES128(seed), modes.ECB()).encryptor()
    return b"".join(cipher.update(i.to_bytes(16, "little")) for i in range(counter, counter + count))


def ints(array, size=8):
    return [int.from_bytes(bytes(array)[i : i + size], "little") for i in range(0, len(bytes(array)), size)]


def request(count, arrays, itemsize=8, **options):
    """Arrays one after the other, and what the parties' parts are as lists of integers."""
    counter, found, parts = 5, [], []
    for size in [count * itemsize] * arrays if isinstance(arrays, int) else arrays:
        found.append(Array(SEEDS, counter, size))
        parts.append([ints(stream, itemsize) for stream in prg.ring_bytes(SEEDS, counter, size)])
        counter += prg.blocks(size)
    dtype = np.dtype({1: np.uint8, 4: "<u4", 8: "<u8"}[itemsize])
    return Request(tuple(found), dtype, **options), parts


def total(parts, how=lambda x, y: (x + y) % RING):
    return [how(x, y) for x, y in zip(*parts, strict=True)]


def answers(name, asked, older=(), kept=None):
    return adjust.answers(adjust.OPERATIONS[name], asked, older, kept or adjust.Kept(0))


def test_streams():
    for size in (1, 16, 17, 1000):
        expected = blocks_of(SEEDS[0], 7, prg.blocks(size))[:size]
        assert prg.ring_bytes(SEEDS[:1], 7, size)[0].tobytes() == expected
    # The high half of a counter stays zero in SPU, whose counters are of 64 bits.
    assert prg.ring_bytes(SEEDS[:1], 2**64 - 3, 32)[0].tobytes() == blocks_of(SEEDS[0], 2**64 - 3, 2)


@pytest.mark.parametrize("count", [1, 3, adjust.PIECE // 8 + 3])
def test_products_are_modulo_the_ring(count):
    asked, (a, b, c) = request(count, 3)
    (answer,) = answers("AdjustMul", asked)
    assert ints(answer) == [(x * y - z) % RING for x, y, z in zip(total(a), total(b), total(c), strict=True)]
    asked, (a, b) = request(count, 2)
    (answer,) = answers("AdjustSquare", asked)
    assert ints(answer) == [(x * x - z) % RING for x, z in zip(total(a), total(b), strict=True)]


@pytest.mark.parametrize("itemsize", [4, 8])
def test_private_products(itemsize):
    ring = 1 << 8 * itemsize
    asked, (a, c) = request(9, 2, itemsize)
    (answer,) = answers("AdjustMulPriv", asked)
    expected = [(x * y - (z0 + z1)) % ring for x, y, z0, z1 in zip(*a, *c, strict=True)]
    assert ints(answer, itemsize) == expected


def test_bits():
    size = adjust.PIECE + 5
    asked = Request(tuple(Array(SEEDS, 20_000 * i, size) for i in range(3)), np.dtype(np.uint8))
    (answer,) = answers("AdjustAnd", asked)
    drawn = [prg.ring_bytes(SEEDS, array.counter, size) for array in asked.arrays]
    a, b, c = (first ^ second for first, second in drawn)
    np.testing.assert_array_equal(answer, (a & b) ^ c)
    asked, (a, b) = request(40, 2)
    (answer,) = answers("AdjustEqz", asked)
    assert ints(answer) == [x ^ y for x, y in zip(total(a), total(b, lambda x, y: x ^ y), strict=True)]


@pytest.mark.parametrize("bits", [0, 1, 18, 62])
def test_truncations(bits):
    asked, (r, low) = request(70, 2, bits=bits)
    (answer,) = answers("AdjustTrunc", asked)
    signed = [x - RING if x >= RING // 2 else x for x in total(r)]
    assert ints(answer) == [((x >> bits) - y) % RING for x, y in zip(signed, total(low), strict=True)]
    asked, (r, low, top) = request(70, 3, bits=bits)
    first, second = answers("AdjustTruncPr", asked)
    middle = [((x << 1) % RING) >> (bits + 1) for x in total(r)]
    assert ints(first) == [(x - y) % RING for x, y in zip(middle, total(low), strict=True)]
    assert ints(second) == [((x >> 63) - y) % RING for x, y in zip(total(r), total(top), strict=True)]


def test_random_bits_are_bits_and_fresh():
    asked, (a,) = request(20_000, 1)
    drawn = []
    for _ in range(2):
        (answer,) = answers("AdjustRandBit", asked)
        drawn.append([(x + y) % RING for x, y in zip(ints(answer), total(a), strict=True)])
        assert set(drawn[-1]) == {0, 1} and abs(sum(drawn[-1]) - 10_000) < 700
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("transpose", [(False, False), (True, False), (False, True), (True, True)])
def test_products_of_matrices(transpose, itemsize):
    m, n, k = 3, 5, 4
    ring = 1 << 8 * itemsize
    sizes = [itemsize * size for size in (m * k, k * n, m * n)]
    asked, parts = request(0, sizes, itemsize, dimensions=(m, n, k), transpose=transpose)
    a, b, c = (np.array(total(part, lambda x, y: (x + y) % ring), object) for part in parts)
    a = a.reshape(k, m).T if transpose[0] else a.reshape(m, k)
    b = b.reshape(n, k).T if transpose[1] else b.reshape(k, n)
    (answer,) = answers("AdjustDot", asked)
    assert ints(answer, itemsize) == list((a @ b - c.reshape(m, n)).reshape(-1) % ring)


def test_kept_factors():
    """A weight's mask is drawn once while it is used; what is kept is bounded."""
    sizes = [8 * size for size in (12, 20, 15)]
    kept, first = adjust.Kept(8 * 45), request(0, sizes, dimensions=(3, 5, 4))[0]
    expected = answers("AdjustDot", first)[0].tobytes()
    for _ in range(2):
        assert answers("AdjustDot", first, [1], kept)[0].tobytes() == expected
    drawn = []
    for counter in (1, 2, 1, 3, 1, 2):
        array = Array(SEEDS, counter, 160)
        kept.get(array, lambda: drawn.append(counter) or np.zeros(20, np.int64))  # noqa: B023
    assert drawn == [1, 2, 3, 2]


def test_permutations():
    size = 1000
    order = prg.permutation(SEEDS[1], 3, size)
    assert sorted(order) == list(range(size)) and list(order) != list(range(size))
    asked, (a, b) = request(size, 2, permutation=Permutation(SEEDS[1], 3))
    moved = [0] * size
    for i, x in zip(order, total(a), strict=True):
        moved[i] = x
    (answer,) = answers("AdjustPerm", asked)
    assert ints(answer) == [(x - y) % RING for x, y in zip(moved, total(b), strict=True)]
    assert list(prg.permutation(SEEDS[1], 3, 1)) == [0]
