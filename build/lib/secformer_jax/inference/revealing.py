"""What `reveal.Reveal` says, computed by the protocol."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from secformer_jax.inference.reveal import Reveal


def revealing(reveal: Reveal, compute: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function whose result may be revealed, of one whose result may not."""
    if reveal.label:
        return lambda *arguments: _greatest(compute(*arguments))
    if reveal.bits is not None:
        scale = 2.0**reveal.bits
        return lambda *arguments: jnp.floor(compute(*arguments) * scale + 0.5) / scale
    return compute


def _greatest(logits: jax.Array) -> jax.Array:
    """One-hot over the last axis."""
    others = jnp.argmax(logits, axis=-1)[..., None] != jnp.arange(logits.shape[-1])
    # A difference is shared by sums, as results have to be, and a comparison bit by bit.
    return 1 - others.astype(logits.dtype)
