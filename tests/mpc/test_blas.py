"""Products by SciPy's BLAS: of every layout that is read, and of no other."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from secformer_jax.mpc.blas import matmul

RNG = np.random.default_rng(7)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((1, 1), (1, 1)),
        ((3, 5), (5, 7)),
        ((1, 9), (9, 4)),
        ((2, 3, 4, 5), (2, 3, 5, 6)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
)
def test_equals_numpy(x, y):
    x, y = RNG.standard_normal(x), RNG.standard_normal(y)
    out = np.full((*x.shape[:-1], y.shape[-1]), np.nan)
    matmul(x, y, out)
    np.testing.assert_allclose(out, x @ y, atol=1e-12)


def test_parts_of_larger_arrays():
    """Rows, columns and results with others between them, which stay as they are."""
    x, y, out = RNG.standard_normal((2, 9, 12)), RNG.standard_normal((2, 20, 11)), np.zeros((2, 9, 8))
    matmul(x[:, 1:7, 5:], y[:, 3:10, 2:6], out[:, :6, 1:5])
    np.testing.assert_allclose(out[:, :6, 1:5], x[:, 1:7, 5:] @ y[:, 3:10, 2:6], atol=1e-12)
    out[:, :6, 1:5] = 0
    assert not out.any()


@pytest.mark.parametrize(
    ("x", "y", "out", "message"),
    [
        (np.zeros((2, 3)), np.zeros((4, 2)), np.zeros((2, 2)), "no product"),
        (np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3)), "no product"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 2)), np.zeros((2, 2)), "float64"),
        (np.zeros((3, 2)).T, np.zeros((3, 2)), np.zeros((2, 2)), "contiguous"),
    ],
)
def test_what_blas_would_read_wrongly_is_refused(x, y, out, message):
    with pytest.raises(ValueError, match=message):
        matmul(x, y, out)


def test_its_library_is_one_whose_threads_are_limited():
    """A party has its part of the cores: threadpoolctl has to know SciPy's library."""
    assert any("scipy" in library["filepath"] for library in threadpool_info())
