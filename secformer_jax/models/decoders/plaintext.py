"""A decoder without MPC: the reference, one pass at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions import gelu
from secformer_jax.functions.layer_norm import layer_norm
from secformer_jax.functions.rms_norm import rms_norm
from secformer_jax.functions.silu import silu_exact
from secformer_jax.functions.softmax import softmax_exact
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.model import Cache, Decoder, Functions, Kept, places

ACTIVATIONS = {**gelu.EXACT, "silu": silu_exact}


@functools.lru_cache(maxsize=16)
def exact_functions(config: DecoderArchitecture) -> Functions:
    """The model's own functions, none of them approximated."""
    norm = rms_norm if config.rms_norm else layer_norm
    return Functions(softmax_exact, ACTIVATIONS[config.hidden_act], functools.partial(norm, epsilon=config.norm_eps))


@functools.lru_cache(maxsize=16)
def _compiled(config: DecoderArchitecture, functions: Functions) -> Callable[..., Any]:
    """A pass, compiled once for every number of tokens, new and in all."""
    return jax.jit(Decoder(config, functions).apply, static_argnames="every")


def checked_room(config: DecoderArchitecture, tokens: int) -> int:
    """A number of tokens that a model has positions for.

    Raises:
        UserError: it has not.
    """
    if not 1 <= tokens <= config.max_position_embeddings:
        raise UserError(f"{tokens} tokens, and the model has {config.max_position_embeddings} positions: ask for fewer")
    return tokens


class PlaintextDecoder:
    """A text that grows: `extend` takes its next tokens.

    Args:
        model: the checkpoint.
        capacity: the most tokens that the text may have.
        functions: by default the model's own.

    Raises:
        UserError: more than the model has positions for.
    """

    def __init__(self, model: DecoderCheckpoint, capacity: int, functions: Functions | None = None) -> None:
        config = model.config
        self._model, self._capacity, self.length = model, checked_room(config, capacity), 0
        self._params = {"params": jax.tree.map(jnp.asarray, model.params)}
        self._apply = _compiled(config, functions or exact_functions(config))
        self._cache = Cache.empty(config, 1, capacity)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys (turned) and values so far, (layers, key_value_heads, tokens, head_dim) each."""
        keys, values = (np.asarray(part[:, 0, :, : self.length]) for part in self._cache)
        return keys, values

    def extend(self, tokens: np.ndarray) -> tuple[np.ndarray, Kept]:
        """Logits (tokens, vocab_size) after each of these next tokens, and what was computed.

        Raises:
            UserError: there is no room for them.
        """
        new = len(tokens)
        if self.length + new > self._capacity:
            raise UserError(f"{self.length + new} tokens, and there is room for {self._capacity}: ask for fewer")
        filled = np.arange(self._capacity) < self.length
        at = places(self._model.config, self._capacity, filled, new, start=self.length, position=self.length)
        ids = jnp.asarray(tokens, jnp.int32)[None]
        logits, self._cache, kept = self._apply(self._params, ids, at, self._cache, every=True)
        self.length += new
        return np.asarray(logits[0]), kept
