"""Products of float64 matrices by SciPy's BLAS, whatever NumPy's is.

NumPy 1.26, which SPU needs, carries an OpenBLAS of 2023 that takes SSE3 code on CPUs that came after it. SciPy is bound
to no such version. Its `cython_blas` has dgemm as C declares it, with strides, and so without a copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from scipy.linalg import cython_blas


def _function(name: str) -> Callable[..., None]:
    capsule = cython_blas.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    pointer = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(pointer)


_dgemm = _function("dgemm")
_PLAIN, _ONE, _ZERO = ctypes.c_char(b"N"), ctypes.c_double(1.0), ctypes.c_double(0.0)


def matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """out = x y, for float64 matrices or equal stacks of them whose rows are contiguous.

    Args:
        x: (..., n, d).
        y: (..., d, k).
        out: (..., n, k), written.

    Raises:
        ValueError: other shapes, types or strides.
    """
    fitting = x.shape[-1] == y.shape[-2] and out.shape == (*x.shape[:-1], y.shape[-1]) and x.shape[:-2] == y.shape[:-2]
    if not fitting:
        raise ValueError(f"no product of matrices: {x.shape}, {y.shape} and {out.shape}")
    if any(each.dtype != np.float64 or (each.size and each.strides[-1] != each.itemsize) for each in (x, y, out)):
        raise ValueError("products are of float64 matrices whose rows are contiguous")
    if not out.size:
        return
    if not x.size:
        out[...] = 0.0
        return
    for index in np.ndindex(x.shape[:-2]):
        _multiply(x[index], y[index], out[index])


def _multiply(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """BLAS reads matrices by columns, so it is out^T = y^T x^T."""
    sizes = [ctypes.c_int(size) for size in (out.shape[1], out.shape[0], x.shape[1])]
    (a, lda), (b, ldb), (c, ldc) = ((each.ctypes.data, _row(each)) for each in (y, x, out))
    n, one, zero = ctypes.byref(_PLAIN), ctypes.byref(_ONE), ctypes.byref(_ZERO)
    _dgemm(n, n, *map(ctypes.byref, sizes), one, a, lda, b, ldb, zero, c, ldc)


def _row(matrix: np.ndarray) -> object:
    """The distance of two rows, in elements; of a single row none is read."""
    return ctypes.byref(ctypes.c_int(max(matrix.shape[1], matrix.strides[0] // matrix.itemsize)))
