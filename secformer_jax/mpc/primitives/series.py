"""A Fourier series of a secret by one masked opening: SecFormer's Pi_Sin for any function of one variable.

With t uniform in [0, P) and delta = x - t modulo P opened, the angle-sum identities make each harmonic of x a sum of
public factors, cos and sin of h w delta, times shared masks, cos and sin of h w t: no comparison, no secret product.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from secformer_jax.functions.series import Series
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Array, Leaf, Material, Randomness
from secformer_jax.mpc.primitives.fixed import Fixed, Masked
from secformer_jax.mpc.runtime.pieces import cut_pieces, joined
from secformer_jax.mpc.runtime.shares import RING_BITS, expand_packed, packed_bytes, pieces
from secformer_jax.mpc.runtime.waves import Waves, integers, rotated, waves

_DEALT_TOGETHER = 1 << 14
"""Values whose masks the dealer computes at a time: they fit a core's cache."""


class HarmonicMasks(flax.struct.PyTreeNode):
    """What multiplies the public cosine and sine of some harmonics of delta: (harmonics, *shape) each.

    Attributes:
        with_cos, with_sin: ring elements modulo 2^width.
        first: which of the series' harmonics is the first here.
        dropped: low bits that the public factors lack, and the ring of the masks with them.
        width: of that ring.
    """

    with_cos: Leaf
    with_sin: Leaf
    first: int = flax.struct.field(pytree_node=False)
    dropped: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)


class OpenedSeries(Material):
    """Masks for one evaluation: t, and those of the harmonics, in one ring or two.

    Coefficients fall with the square of the harmonic, or faster: so the factors of the higher ones may be coarser, and
    whole bytes of their masks are not needed.
    """

    tolerance: ClassVar[int] = 2

    t: Leaf
    parts: tuple[HarmonicMasks, ...]
    series: Series = flax.struct.field(pytree_node=False)
    bits: int = flax.struct.field(pytree_node=False)
    mask_bits: int = flax.struct.field(pytree_node=False)
    public_bits: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(
        cls,
        series: Series,
        shape: tuple[int, ...],
        *,
        bits: int,
        mask_bits: int,
        public_bits: int,
        width: int = RING_BITS,
        coarse: bool = False,
    ) -> OpenedSeries:
        """Shapes for secrets of this shape; the result has mask_bits + public_bits fraction bits.

        Args:
            series: what to evaluate.
            shape: of the secrets.
            bits: of their fraction bits, those that are opened; the secrets may have more.
            mask_bits: fraction bits of the masks.
            public_bits: those of the public factors.
            width: of the result's ring.
            coarse: coarser factors for harmonics h from which 1/h^2 is small enough to save a byte.
        """
        dropped = (width - 1) % 8 + 1
        ends = [sum(2 * math.log2(harmonic) < dropped for harmonic in series.harmonics) if coarse else None, None]
        parts, first = [], 0
        for end, fewer in zip(ends, (0, dropped), strict=True):
            count = len(series.harmonics[first:end])
            if count:
                zeros = jnp.zeros((count, *shape), jnp.int64)
                parts.append(HarmonicMasks(zeros, zeros, first, fewer, width - fewer))
            first += count
        return cls(jnp.zeros(shape, jnp.int64), tuple(parts), series, bits, mask_bits, public_bits, width)

    @property
    def modulus_bits(self) -> int:
        """Bits that are opened: the period, in units of the secrets' last opened bit."""
        period_bits = math.log2(self.series.period)
        if not period_bits.is_integer():
            raise ValueError(f"masked opening needs a period that is a power of two, got {self.series.period}")
        return self.bits + int(period_bits)

    def deal(self, randomness: Randomness, masks) -> OpenedSeries:
        """Fresh masks; see Material."""
        t = randomness.uniform(self.t.shape, self.modulus_bits)
        turns = (t.ring & ((1 << self.modulus_bits) - 1)) * 2.0**-self.modulus_bits
        return self.replace(t=t, parts=tuple(self._dealt(part, turns.reshape(-1), randomness) for part in self.parts))

    def _dealt(self, part: HarmonicMasks, turns: np.ndarray, randomness: Randomness) -> HarmonicMasks:
        """The masks for t, in periods; in blocks that fit a core's cache."""
        shape, width = part.with_cos.shape, part.width
        chosen = np.s_[part.first : part.first + shape[0]]
        harmonics = np.asarray(self.series.harmonics[chosen])
        factors = np.stack([self.series.cos[chosen], self.series.sin[chosen]], axis=-1) * 2.0**self.mask_bits
        steps, size = tuple(np.diff(harmonics, prepend=0).tolist()), shape[0] * turns.size

        def by_harmonic(packed: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(piece.reshape(shape[0], -1) for piece in pieces(packed, width))

        keys = [[randomness.key() for _ in range(randomness.parties - 1)] for _ in range(2)]
        drawn = [[by_harmonic(expand_packed(key, size, width)) for key in own] for own in keys]
        left = [np.empty(packed_bytes(size, width), np.uint8) for _ in range(2)]
        pieces_left = [by_harmonic(each) for each in left]
        with enable_x64():
            for start in range(0, turns.size, _DEALT_TOGETHER):
                block = np.s_[:, start : start + _DEALT_TOGETHER]
                taken = [[tuple(piece[block] for piece in own) for own in each] for each in drawn]
                found = _dealt_series(turns[block[1]], factors, taken, steps=steps, bits=width)
                for rest, values in zip(pieces_left, found, strict=True):
                    for piece, value in zip(rest, values, strict=True):
                        piece[block] = value
        with_cos, with_sin = (Array(shape, width, (*own, rest)) for own, rest in zip(keys, left, strict=True))
        return part.replace(with_cos=with_cos, with_sin=with_sin)

    def masked(self, x: Fixed) -> Masked:
        """What to open: x - t modulo the period, uniform whatever x is."""
        if x.width - x.bits < self.modulus_bits - self.bits:
            raise ValueError(f"a period of {self.series.period} doesn't fit a ring of {x.width - x.bits} integer bits")
        x = x.rounded(self.bits).at(self.bits)
        return Masked(x.ring - self.t, self.modulus_bits)

    def finish(self, opening: jax.Array) -> Fixed:
        """The series at x, from the opened value; no message, untruncated."""
        turn = opening.astype(jnp.float64) * 2.0 ** (1 - self.modulus_bits)
        found = waves(turn, self.series.harmonics)
        total = functools.reduce(jnp.add, [self._sum(part, *found) for part in self.parts])
        bits = self.mask_bits + self.public_bits
        return Fixed(total + round(self.series.constant * 2**bits), bits, self.width)

    def _sum(self, part: HarmonicMasks, cosines: Waves, sines: Waves) -> jax.Array:
        """The terms of some harmonics, from the cosines and sines of delta."""
        own = np.s_[part.first : part.first + part.with_cos.shape[0]]
        scale = 2.0 ** (self.public_bits - part.dropped)
        if isinstance(cosines, list):
            both = zip(cosines[own], sines[own], strict=True)
            factors = [(integers(cosine * scale), integers(sine * scale)) for cosine, sine in both]
            terms = [c * part.with_cos[k] + s * part.with_sin[k] for k, (c, s) in enumerate(factors)]
            total = functools.reduce(jnp.add, terms)
        else:
            assert not isinstance(sines, list)
            total = integers(cosines[own] * scale) * part.with_cos + integers(sines[own] * scale) * part.with_sin
            total = jnp.sum(total, axis=0)
        return total << part.dropped


@functools.partial(jax.jit, static_argnames=("steps", "bits"))
def _dealt_series(turns: jax.Array, factors: jax.Array, taken: list, *, steps: tuple[int, ...], bits: int) -> list:
    """a cos + b sin and b cos - a sin of each harmonic of t, the parts of (a - ib) e^(i h w t), less what was drawn.

    Harmonic by harmonic, each from the last one: float64 loses less than 2^-40 over hundreds of them.

    Args:
        turns: t in periods.
        factors: (harmonics, 2): a and b.
        taken: for each of the two, for each other party, pieces (harmonics, values) of what it draws.
        steps: from harmonic to harmonic.
        bits: of the ring of the result, which comes in pieces too.
    """
    kinds = sorted(set(steps))
    rotations = [(jnp.cos(2 * math.pi * step * turns), jnp.sin(2 * math.pi * step * turns)) for step in kinds]

    def following(wave: tuple[jax.Array, jax.Array], harmonic: tuple) -> tuple[tuple, list]:
        kind, (a, b), drawn = harmonic
        cosines, sines = zip(*rotations, strict=True)
        cosine, sine = wave = rotated(wave, (lax.select_n(kind, *cosines), lax.select_n(kind, *sines)))
        masks = integers(a * cosine + b * sine), integers(b * cosine - a * sine)
        rests = (functools.reduce(jnp.subtract, map(joined, own), mask) for mask, own in zip(masks, drawn, strict=True))
        return wave, [tuple(cut_pieces(rest, bits)) for rest in rests]

    start = jnp.ones_like(turns), jnp.zeros_like(turns)
    chosen = jnp.asarray([kinds.index(step) for step in steps], jnp.int32)
    return lax.scan(following, start, (chosen, (factors[:, 0], factors[:, 1]), taken))[1]
