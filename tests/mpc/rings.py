"""Ring elements for tests: uniform ones, and what they are as numbers modulo 2^bits."""

import numpy as np

from secformer_jax.mpc.material import Array
from secformer_jax.mpc.runtime.shares import expand, join, unpack

RNG = np.random.default_rng(0)


def elements(*shape: int) -> np.ndarray:
    """Uniform in the whole ring: every product of two wraps."""
    return RNG.integers(-(2**63), 2**63 - 1, shape, endpoint=True)


def signed(x: np.ndarray, bits: int) -> np.ndarray:
    """The numbers in [-2^(bits-1), 2^(bits-1)) that are x modulo 2^bits."""
    return (x << (64 - bits)) >> (64 - bits)


def unsigned(x: np.ndarray, bits: int) -> np.ndarray:
    """The bits of x below `bits`, and no other."""
    return x if bits == 64 else x & ((1 << bits) - 1)


def exactly(x: np.ndarray, y: np.ndarray, bits: int = 64) -> np.ndarray:
    """A matrix product by Python's integers, as numbers modulo 2^bits."""
    half = 1 << (bits - 1)
    return np.vectorize(lambda v: (v + half) % (2 * half) - half, otypes=[np.int64])(
        x.astype(object) @ y.astype(object)
    )


def sizes(bits: int, count: int = 16) -> np.ndarray:
    """Numbers of both signs, `count` of each size below 2^bits, and the extremes."""
    powers = 2 ** np.repeat(np.arange(bits), count)
    values = RNG.integers(powers, 2 * powers) * RNG.choice([-1, 1], powers.shape)
    return np.concatenate([values, [0, 1, -1, 2**bits - 1, 1 - 2**bits]])


def whole(array: Array) -> np.ndarray:
    """What the components of an array add up to, modulo its ring."""
    rings = [
        expand(each, array.shape, array.bits)
        if isinstance(each, bytes)
        else each.reshape(array.shape)
        if each.dtype == np.int64
        else unpack(each, array.shape, array.bits)
        for each in array.components
    ]
    return unsigned(join(rings), array.bits)


def width_bytes(bits: int) -> int:
    """Bytes of an opened element."""
    return -(-bits // 8)
