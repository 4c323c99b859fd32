"""Proofs that what a client shares is one-hot: what it adds to its shares, and how the servers check it.

A vector x modulo 2^w is one-hot if and only if its elements sum to 1 and the sum over every subset of them is 0 or 1.
The servers take the sums z over `CHECKS` random subsets, drawn when the client's shares are there. With x the client
shares masks a and their squares c; with e = z - a open,

    d = z^2 - z = e^2 + 2 a e + c - z

is linear in shares, and is opened. An honest client's d is 0, and its e is uniform: they tell the servers nothing.

With r_i in {0, 1} for whether i is in the subset, and t = c - a^2 for what a client may have got wrong,

    d = sum_i x_i (x_i - 1) r_i + sum_(i<j) 2 x_i x_j r_i r_j + t.

If all coefficients of the r are 0, at most one x_i is 1 and the others are 0, and the sum says that one is. Else divide
by the highest power of 2 in all of these coefficients: modulo 2 that leaves a polynomial of degree at most 2 that is
not constant, and it vanishes for at most 3/4 of all r (Schwartz and Zippel's lemma over F_2). So a vector that is not
one-hot passes with probability (3/4)^64 = 1e-8 at most.

Source: sketches of one-hot vectors as in Boneh et al. (IEEE S&P 2021), section 4, over a ring and with bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from secformer_jax.mpc.runtime.shares import (
    RING_BITS,
    Component,
    InputSpec,
    Share,
    deal,
    encode,
    expand,
    fresh_seeds,
    join,
    share,
    split,
)

CHECKS = RING_BITS
"""Subsets for each vector: the bits of a ring element say which of them an index is in."""

_HALF = (1 << 32) - 1
"""Sums of up to 2^21 such numbers stay below 2^53."""

Open = Callable[[Sequence[np.ndarray], Sequence[int]], list[np.ndarray]]
"""(shares, their bits) -> public values, as `exchange.open_shares`."""


def names(index: int) -> tuple[str, str]:
    """Of the masks and of their squares for an input, as they travel."""
    return f"mask{index}", f"square{index}"


def sent(inputs: Sequence[InputSpec]) -> dict[str, InputSpec]:
    """All that a client shares, by its name: the inputs, and the proofs of those that are one-hot."""
    found = {f"input{index}": spec for index, spec in enumerate(inputs)}
    for index, spec in enumerate(inputs):
        if spec.one_hot:
            found |= dict.fromkeys(names(index), _proof(spec))
    return found


def shared(
    inputs: Sequence[InputSpec], arrays: Sequence[np.ndarray], protocol: str, parties: int, fraction_bits: int
) -> list[dict[str, Share]]:
    """Fresh shares of the inputs and of their proofs, by rank and name."""
    by_name = {
        f"input{index}": share(encode(np.asarray(array), fraction_bits), spec.dtype, protocol, parties, spec.bits)
        for index, (spec, array) in enumerate(zip(inputs, arrays, strict=True))
    }
    for index, spec in enumerate(inputs):
        if spec.one_hot:
            proof = _proof(spec)
            for name, components in zip(names(index), _prove(proof, parties), strict=True):
                by_name[name] = deal(components, proof.dtype, proof.shape, protocol, proof.bits)
    return [{name: shares[rank] for name, shares in by_name.items()} for rank in range(parties)]


def one_hot(
    inputs: Sequence[InputSpec], shares: Mapping[str, Share], seed: Callable[[], bytes], first: np.ndarray, opened: Open
) -> np.ndarray:
    """Whether all vectors of a text are one-hot: bool (texts,). Two messages for all inputs together.

    Args:
        inputs: what was shared.
        shares: this party's, by the names of `sent`.
        seed: gives the next seed that all parties draw together.
        first: int64 (components,), 1 for the component that takes what is public.
        opened: opens shares together with the other parties.
    """
    checked = [(index, spec) for index, spec in enumerate(inputs) if spec.one_hot]
    sums = [_sums(shares[f"input{index}"], spec, seed()) for index, spec in checked]
    proofs = [[shares[name].stacked() for name in names(index)] for index, _ in checked]
    bits = [spec.bits for _, spec in checked]
    openings = opened([z - a for (z, _), (a, _) in zip(sums, proofs, strict=True)], bits)
    differences = []
    for (z, whole), (a, square), e in zip(sums, proofs, openings, strict=True):
        one = first.reshape(-1, *[1] * e.ndim)
        differences += [one * (e * e) + 2 * a * e + square - z, whole - one[..., 0]]
    found = opened(differences, np.repeat(bits, 2).tolist())
    return np.logical_and.reduce([(d == 0).reshape(len(d), -1).all(axis=1) for d in found])


def _proof(spec: InputSpec) -> InputSpec:
    """Of an input's masks, and of their squares."""
    return InputSpec("int64", (*spec.shape[:-1], len(spec.one_hot), CHECKS), spec.bits)


def _prove(proof: InputSpec, parties: int) -> tuple[list[Component], list[Component]]:
    keys = fresh_seeds(parties)
    a = join([expand(key, proof.shape, proof.bits) for key in keys])
    return [*keys], split(a * a, fresh_seeds(parties - 1), proof.bits)


def _sums(given: Share, spec: InputSpec, seed: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Of each vector's elements in each subset (components, ..., vectors, CHECKS), and of all (.., vectors)."""
    drawn = expand(seed, (sum(spec.one_hot),)).view(np.uint8).reshape(-1, CHECKS // 8)
    # The last column is every element.
    subsets = np.concatenate([np.unpackbits(drawn, axis=1), np.ones((len(drawn), 1))], axis=1)
    start, sums, shape = 0, [], (*spec.shape[:-1], CHECKS + 1)
    for width in spec.one_hot:
        block = slice(start, start + width)
        # A text at a time: as floating-point numbers it takes as much again as its shares.
        texts = [
            _product(text.reshape(-1, spec.shape[-1])[:, block], subsets[block], spec.bits)
            for ring in given.rings()
            for text in ring
        ]
        sums.append(np.array(texts).reshape(-1, *shape))
        start += width
    found = np.stack(sums, axis=-2)
    return found[..., :-1], found[..., -1]


def _product(x: np.ndarray, subsets: np.ndarray, bits: int) -> np.ndarray:
    """x (n, d) modulo 2^bits times zeros and ones (d, k): halves of 32 bits, whose sums float64 holds exactly."""
    total = ((x & _HALF).astype(np.float64) @ subsets).astype(np.int64)
    if bits > 32:
        total += (((x >> 32) & _HALF).astype(np.float64) @ subsets).astype(np.int64) << 32
    return total
