"""A decoder without MPC: the reference, one pass at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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
from secformer_jax.models.decoders.model import Cache, Decoder, Functions, Kept, Places, places

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


@functools.lru_cache(maxsize=16)
def _side_by_side(config: DecoderArchitecture) -> Callable[..., Any]:
    """A pass over one token of each of several texts, whose places are their own."""

    def one(params: Any, token: jax.Array, at: Places, cache: Cache) -> tuple[jax.Array, Cache]:
        found: Any = Decoder(config, exact_functions(config)).apply(params, token[None, None], at, cache)
        logits, cache, _ = found
        return logits[0], cache

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0)))


def checked_room(config: DecoderArchitecture, tokens: int) -> int:
    """A number of tokens that a model has positions for.

    Raises:
        UserError: it has not.
    """
    if not 1 <= tokens <= config.max_position_embeddings:
        raise UserError(f"{tokens} tokens, and the model has {config.max_position_embeddings} positions: ask for fewer")
    return tokens


def _check_fits(tokens: int, capacity: int) -> None:
    if tokens > capacity:
        raise UserError(f"{tokens} tokens, and there is room for {capacity}: ask for fewer")


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
        self.cache = Cache.empty(config, 1, capacity)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys (turned) and values so far, (layers, key_value_heads, tokens, head_dim) each."""
        keys, values = (np.asarray(part[:, 0, :, : self.length]) for part in self.cache)
        return keys, values

    def extend(self, tokens: np.ndarray) -> tuple[np.ndarray, Kept]:
        """Logits (tokens, vocab_size) after each of these next tokens, and what was computed.

        Raises:
            UserError: there is no room for them.
        """
        new = len(tokens)
        _check_fits(self.length + new, self._capacity)
        filled = np.arange(self._capacity) < self.length
        at = places(self._model.config, self._capacity, filled, new, start=self.length, position=self.length)
        ids = jnp.asarray(tokens, jnp.int32)[None]
        logits, self.cache, kept = self._apply(self._params, ids, at, self.cache, every=True)
        self.length += new
        return np.asarray(logits[0]), kept


class PlaintextDecoders:
    """Texts that grow side by side behind one prefix, by a token in a pass: hardly slower than one text.

    Args:
        model: the checkpoint.
        capacity: the most tokens that a text may have, with the prefix.
        prefix: ids of the tokens before every text.
        texts: how many.

    Raises:
        UserError: more than the model has positions for.
    """

    def __init__(self, model: DecoderCheckpoint, capacity: int, prefix: Sequence[int], texts: int) -> None:
        first = PlaintextDecoder(model, capacity)
        if prefix:
            first.extend(np.asarray(prefix))
        self._config, self._capacity, self._lengths = model.config, capacity, [first.length] * texts
        self._params = {"params": jax.tree.map(jnp.asarray, model.params)}
        self._apply = _side_by_side(model.config)
        self._cache = jax.tree.map(lambda part: jnp.repeat(part[None], texts, axis=0), first.cache)

    def extend(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Logits (texts, vocab_size) after the next token of some texts; any number for the others, which stay.

        Raises:
            UserError: there is no room for it.
        """
        _check_fits(max(self._lengths[text] for text in tokens) + 1, self._capacity)
        # A text that stays writes where its next token will.
        at = [self._places(min(length, self._capacity - 1)) for length in self._lengths]
        ids = jnp.asarray([tokens.get(text, 0) for text in range(len(at))], jnp.int32)
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *at)
        logits, self._cache = self._apply(self._params, ids, stacked, self._cache)
        for text in tokens:
            self._lengths[text] += 1
        return np.asarray(logits)

    def _places(self, length: int) -> Places:
        filled = np.arange(self._capacity) < length
        return places(self._config, self._capacity, filled, 1, start=length, position=length)
