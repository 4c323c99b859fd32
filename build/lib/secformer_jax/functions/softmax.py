"""Softmax over the last axis with the padding mask inside: exact, and the variants of Puma, MPCFormer and SecFormer.

`mask` broadcasts against `scores`: 1 for a real key, 0 for padding; at least one key a row is real. It may be a secret.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from secformer_jax.functions import goldschmidt

MASK_OFFSET = 256.0
"""Taken from the scores of padded keys before the maximum.

A padded weight is below 1e-12 where scores differ by less than 228. A larger offset breaks under MPC: SPU's exp in its
default mode is (1 + x/256)^256, which is 0 down to about -480, passes 1 again at -512 and is 2.5 million at -600.
"""

_RELU_FLOOR = 0.01

SHIFT = 5.0
"""c of 2Quad: what is added to a score before its square (MPCFormer, section 4)."""


def softmax_exact(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax itself.

    Formula: exp(s_i - max s) / sum_j exp(s_j - max s) over real keys; padded keys first lose MASK_OFFSET.
    Source: BERT (Devlin et al., 2019). Domain: scores that differ by less than 228; padded weights below 1e-12.
    SPU's default exp leaves errors of 0.01 in the weights; fxp_exp_mode EXP_PADE stays under 2^-9.
    Cost for n keys, a row: n - 1 comparisons, n exponentials (SPU's own), one reciprocal, n multiplications.
    """
    exponentials = jnp.exp(_centred(scores, mask))
    return exponentials * (1.0 / jnp.sum(exponentials, axis=-1, keepdims=True))


def softmax_puma(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Puma's softmax: a power instead of the exponential.

    Formula: as exact, with exp(x) replaced by 0 (x < -14), (1 + x/32)^32 (x >= -14).
    Source: Puma (Dong et al., arXiv 2307.12533), secure softmax, t = 5.
    Domain: scores that differ by less than 242; max error 0.0086 on the exponential. What the tails lose goes to the
    large weights: up to 0.1 on one of 512 keys with normal scores of deviation 3.
    Padded keys have weight exactly 0.
    Cost for n keys, a row: 2 n - 1 comparisons, 6 n multiplications, n products with a bit, one reciprocal.

    The bit multiplies the base, not the power, so nothing overflows for the keys that it drops.
    """
    x = _centred(scores, mask)
    power = jnp.where(x >= -14.0, 1.0 + x * (1 / 32), 0.0)
    for _ in range(5):
        power = jnp.square(power)
    return power * (1.0 / jnp.sum(power, axis=-1, keepdims=True))


def softmax_two_relu(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """MPCFormer's 2ReLU, for models distilled with it.

    Formula: m (relu(s) + 0.01) / sum m (relu(s) + 0.01).
    Source: MPCFormer (Li et al., ICLR 2023), "2ReLU". The 0.01 keeps a row with no positive score a
    distribution.
    Domain: all scores, after distillation. Padded keys have weight exactly 0.
    Cost for n keys, a row: n comparisons, 2 n multiplications, n products with a bit, one reciprocal.
    """
    scale = scores.shape[-1] ** -0.25
    numerators = (jax.nn.relu(scores) + _RELU_FLOOR) * (mask.astype(scores.dtype) * scale)
    return numerators * (1.0 / jnp.sum(numerators, axis=-1, keepdims=True))


def softmax_two_quad(
    scores: jax.Array,
    mask: jax.Array,
    *,
    shift: float = SHIFT,
    deflation: float | None = None,
    reciprocal: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """MPCFormer's and SecFormer's 2Quad, for models distilled with it.

    Formula: m (s + c)^2 / sum m (s + c)^2, c = `shift`.
    Source: MPCFormer (Li et al., ICLR 2023), "2Quad"; SecFormer (Luo et al., Findings of ACL 2024), c = 5.
    Domain: all scores with s > -c where order matters, after distillation. Padded keys have weight exactly 0.
    Cost for n keys, a row: 3 n multiplications, no comparison, one reciprocal.

    Fixed point: a row sum is about 25 n, and its inverse would be a few units of 2^-18. So the numerators are scaled
    before the square to (s + c)^2 / (c^2 sqrt n): they and the inverse of their sum are then both near
    n^(-1/2). The factor rides on the mask and costs nothing; it cancels, so the result is the formula's.

    With `reciprocal` (a q -> 1/q good on a limited range) the sum is also brought to a range that doesn't depend on
    how many keys are real: it is called on y = g mean_j (s_j + c)^2 / deflation, where the mean is over real keys
    and g, in (0.63, 1], comes from a rough inverse of their number (`count_deflation`; it cancels as well).
    `deflation` defaults to shift^2.
    """
    keys = scores.shape[-1]
    mask = jnp.broadcast_to(mask, (*mask.shape[:-1], keys)).astype(scores.dtype)
    typical = shift**2
    scale = (typical * math.sqrt(keys)) ** -0.5
    numerators = jnp.square((scores + shift) * (mask * scale))
    total = jnp.sum(numerators, axis=-1, keepdims=True)
    if reciprocal is None:
        return numerators * (1.0 / total)
    per_key = count_deflation(mask) * (keys**-0.5 * typical / (deflation or typical))
    return numerators * (reciprocal(total * per_key) * per_key)


def count_deflation_steps(keys: int) -> int:
    """Steps of `count_deflation` for this many keys, padding included."""
    return max(1, math.ceil(math.log2(keys / 2)))


def count_deflation(mask: jax.Array) -> jax.Array:
    """A rough, secret keys / (number of real keys), a number for each row of the mask.

    Formula: Goldschmidt's reciprocal of count/keys with ceil(log2(keys/2)) steps: the true ratio times g in (0.63,
    1] from two real keys on ([CLS] and [SEP]).
    Source: ours; a deflation that adapts to the sentence. Cost: 2 steps - 1 multiplications of one scalar a sentence.
    """
    keys = mask.shape[-1]
    share = jnp.sum(mask, axis=-1, keepdims=True) * (1.0 / keys)
    return goldschmidt.reciprocal(share, deflation=1.0, steps=count_deflation_steps(keys))


def _centred(scores: jax.Array, mask: jax.Array) -> jax.Array:
    masked = scores + (mask.astype(scores.dtype) - 1.0) * MASK_OFFSET
    return masked - jnp.max(masked, axis=-1, keepdims=True)
