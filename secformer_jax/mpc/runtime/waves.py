"""Cosines and sines of what is public, the same at every server: one that differs is garbage, and nobody notices.

So they are made of sums and products, which processors round alike, and not by libraries' functions, whose last bits
differ between processors. Where a compiler fuses sums and products in another way, servers see it by `last_bits`.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.runtime.local import LocalFunction

Wave = tuple[jax.Array, jax.Array]
"""Cosine and sine."""
Waves = list[jax.Array] | jax.Array
"""Of every harmonic: a list, or one array with the harmonics first."""

_UNROLLED = 32
"""So many harmonics are computed one from the other; of more, each on its own."""

_ROUND = 1.5 * 2.0**52
"""Added to a number below 2^51 it leaves the nearest integer in the low bits."""

_SAMPLES, _SAMPLED_BITS = 256, 48


def waves(turn: jax.Array, harmonics: Sequence[int]) -> tuple[Waves, Waves]:
    """Cosines and sines of the harmonics of an angle.

    Args:
        turn: float64 in [-1, 1], in half turns, with so few bits that its product with a harmonic is exact.
        harmonics: ascending.
    """
    return (_one_from_the_other if len(harmonics) <= _UNROLLED else _each_on_its_own)(turn, harmonics)


def rotated(x: Wave, y: Wave) -> Wave:
    """The product of two complex numbers."""
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def integers(x: jax.Array) -> jax.Array:
    """The nearest integers to numbers below 2^51: one addition, where a conversion is many operations."""
    return lax.bitcast_convert_type(x + _ROUND, jnp.int64) - int(np.float64(_ROUND).view(np.int64))


@functools.cache
def last_bits() -> str:
    """SHA-256 of some waves as this machine computes them, by NumPy and by XLA, in 48 of a float64's 53 bits."""
    sha = hashlib.sha256()
    turns = np.random.default_rng(0).integers(-(2**21), 2**21, _SAMPLES)
    for count in (_UNROLLED, _UNROLLED + 1):

        def sampled(turns: jax.Array, count: int = count) -> list[jax.Array]:
            found = waves(turns.astype(jnp.float64) * 2.0**-21, range(1, count + 1))
            arrays = (jnp.stack(part) if isinstance(part, list) else part for part in found)
            return [integers(array * 2.0**_SAMPLED_BITS) for array in arrays]

        with enable_x64():
            function = LocalFunction(jax.make_jaxpr(sampled)(turns), (False,))
        for run in (function, function.by_xla):
            for wave in run(np.ones(1, np.int64), [turns]):
                sha.update(np.asarray(wave).tobytes())
    return sha.hexdigest()


def _each_on_its_own(turn: jax.Array, harmonics: Sequence[int]) -> tuple[Waves, Waves]:
    angle = jnp.asarray(harmonics, jnp.float64).reshape(-1, *[1] * turn.ndim) * turn
    return _wave(angle - 2 * lax.round(angle * 0.5, lax.RoundingMethod.TO_NEAREST_EVEN))


def _one_from_the_other(turn: jax.Array, harmonics: Sequence[int]) -> tuple[Waves, Waves]:
    """By e^(i (h + step) angle) = e^(i h angle) e^(i step angle)."""
    first = _wave(turn)
    powers, last = {1: first}, 0
    found: list[Wave] = []
    for harmonic in harmonics:
        step = harmonic - last
        for n in range(2, step + 1):
            powers.setdefault(n, rotated(powers[n - 1], first))
        found.append(rotated(found[-1], powers[step]) if found else powers[step])
        last = harmonic
    return [cosine for cosine, _ in found], [sine for _, sine in found]


def _wave(turn: jax.Array) -> Wave:
    square = turn * turn
    return _polynomial(square, _taylor(0)), turn * _polynomial(square, _taylor(1))


def _polynomial(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


@functools.cache
def _taylor(first: int) -> tuple[float, ...]:
    """Of cos(pi z) for 0, and of sin(pi z)/z for 1, in z^2; for z up to 1 the rest is below 2^-51."""
    pi, powers = Fraction(math.pi), range(first, first + 28, 2)
    return tuple(float((-1) ** (n // 2) * pi**n / math.factorial(n)) for n in powers)
