"""Products of matrices by float64 digits are exact modulo 2^bits, whatever the values and the shapes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rings import elements, exactly, signed

from secformer_jax.mpc.ring import Digits, cut, layout, ring_matmul

WIDTHS = [1, 8, 24, 25, 40, 44, 45, 63, 64]


def same(found: np.ndarray, expected: np.ndarray, bits: int) -> None:
    assert found.dtype == np.int64
    np.testing.assert_array_equal(signed(found, bits), expected)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((1, 1), (1, 1)),
        ((3, 5), (5, 2)),
        ((2, 2049), (2049, 3)),
        ((3, 5000), (5000, 2)),
        ((2, 3, 4, 50), (2, 3, 50, 6)),
        ((2, 3, 7), (7, 4)),
        ((2, 2, 3, 7), (7, 1)),
        ((2, 5, 7), (7, 3)),
        ((5, 2049), (2049, 3)),
        ((2, 5, 7), (2, 7, 3)),
        ((5, 3), (3, 2050)),
        ((1, 3), (3, 2050)),
        ((2, 2, 3), (2, 3, 1030)),
    ],
)
def test_ring_matmul(x, y, bits):
    """Sums longer than a block, stacks, one matrix for a whole stack, and more columns than a panel has."""
    left, right = elements(*x), elements(*y)
    same(ring_matmul(left, right, bits), exactly(left, right, bits), bits)


@pytest.mark.parametrize("bits", [24, 40, 44, 64])
def test_ring_matmul_of_extremes(bits):
    """The largest digits at once, of one sign and of both: sums reach 2^53."""
    width, count, terms = layout(bits)
    half = 1 << (width - 1)
    lowest, highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    digits = [sum(digit << (width * place) for place in range(count)) for digit in (-half, half - 1, half)]
    values = [lowest, highest, -1, 1, half, -half, half - 1, *(d for d in digits if lowest <= d <= highest)]
    for inner in (1, terms - 1, terms, terms + 1, 3 * terms):
        for value in values:
            for other in values:
                x, y = np.full((2, inner), value), np.full((inner, 2), other)
                total = (value * other * inner - lowest) % (1 << bits) + lowest
                same(ring_matmul(x, y, bits), np.full((2, 2), total), bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_digits_are_balanced_and_add_up(bits):
    x = np.concatenate([elements(40_000), [2**63 - 1, -(2**63), 0, -1]]).reshape(4, -1)
    digits, (width, count, _) = cut(x, bits), layout(bits)
    assert (digits.width, len(digits.parts)) == (width, count)
    total = np.zeros_like(x)
    for place, part in enumerate(digits.parts):
        assert part.dtype == np.float32 and part.shape == x.shape
        assert part.min() >= -(2 ** (width - 1)) and part.max() < 2 ** (width - 1)
        total += part.astype(np.int64) << (width * place)
    np.testing.assert_array_equal(signed(total, bits), signed(x, bits))


@pytest.mark.parametrize("bits", [24, 40, 44, 64])
def test_digits_in_place_of_a_matrix(bits):
    x, y = elements(2, 3, 1500), elements(1500, 4)
    expected = exactly(x, y, bits)
    for left in (x, cut(x, bits)):
        for right in (y, cut(y, bits)):
            same(ring_matmul(left, right, bits), expected, bits)
    # More digits than needed, of the same width.
    if bits in (40, 44):
        same(ring_matmul(cut(x, 64), cut(y, 64), bits), expected, bits)


@pytest.mark.parametrize(("cut_for", "bits"), [(24, 40), (64, 24), (44, 64), (40, 45)])
def test_digits_of_another_ring_are_refused(cut_for, bits):
    digits = cut(elements(2, 2), cut_for)
    assert isinstance(digits, Digits)
    for x, y in ((digits, elements(2, 2)), (elements(2, 2), digits)):
        with pytest.raises(ValueError, match=f"not enough for {bits} bits"):
            ring_matmul(x, y, bits)


def test_results_stay_when_the_next_is_computed():
    """A thread's scratch arrays serve again; what is returned is none of them, nor is what was given."""
    x, y, other = elements(6, 70), elements(70, 5), elements(3, 70)
    before, found = (x.copy(), y.copy()), ring_matmul(x, y)
    ring_matmul(other, y)
    np.testing.assert_array_equal(found, exactly(x, y))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_threads_do_not_meet():
    pairs = [(elements(20, 200 + i), elements(200 + i, 30)) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: ring_matmul(*pair), pairs * 5))
    for (x, y), product in zip(pairs * 5, found, strict=True):
        np.testing.assert_array_equal(product, x @ y)  # NumPy's int64 product wraps, and is slow
