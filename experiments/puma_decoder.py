"""A decoder by Puma's functions on SPU's own arithmetic: the baseline of generate.py.

Its softmax (section 3.2 of Puma, Dong et al. 2023), its SiLU or GeLU, and SPU's inverse root; weights stay resident.
With a cache, a request's keys and values stay with the parties as shares between its passes, as an opened decoder's do;
without one, as in SPU's example of GPT-2, every pass takes the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.gelu import gelu_puma
from secformer_jax.functions.silu import silu_puma
from secformer_jax.functions.softmax import softmax_puma
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.model import Cache, Decoder, Functions, Places, places
from secformer_jax.models.decoders.plaintext import PlaintextDecoder, exact_functions
from secformer_jax.models.transformer import part_of
from secformer_jax.mpc.material import Array, Dealer
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.engine import Engine, Result
from secformer_jax.mpc.runtime.shares import RING_BITS, fresh_seeds, split


def puma_functions(model: DecoderCheckpoint) -> Functions:
    """Puma's, with the model's own norms on SPU's inverse root."""
    activation = silu_puma if model.config.hidden_act == "silu" else gelu_puma
    return Functions(softmax_puma, activation, exact_functions(model.config).norm)


class PumaDecoder:
    """Weights shared among simulated parties; one request at a time.

    Args:
        model: the checkpoint.
        prefix: ids that stand before every text; their keys and values are the owner's.
        capacity: the most tokens of a text.
        config: protocol and parties.
    """

    def __init__(self, model: DecoderCheckpoint, prefix: Sequence[int], capacity: int, config: MpcConfig) -> None:
        self._config, self._prefix, self._capacity = model.config, len(prefix), capacity
        self._module = Decoder(model.config, puma_functions(model))
        self._engine, self._dealer = Engine(config, part_of=part_of), Dealer()
        weights: dict[str, Any] = {"params": model.params}
        if prefix:
            plaintext = PlaintextDecoder(model, len(prefix))
            plaintext.extend(np.asarray(prefix))
            weights["prefix"] = [rows[:, None] for rows in plaintext.rows()]
        self._engine.publish(weights)
        self.begin()

    def __enter__(self) -> PumaDecoder:
        return self

    def __exit__(self, *exception) -> None:
        self._engine.close()

    def begin(self) -> None:
        """A new request, with an empty cache."""
        empty = self._empty()
        parties = self._engine.config.world_size
        zeros = [np.zeros(leaf.shape, np.int64) for leaf in jax.tree.leaves(empty)]
        leaves = [Array(each.shape, RING_BITS, tuple(split(each, fresh_seeds(parties - 1)))) for each in zeros]
        self._state, self._filled = self._engine.state(leaves, "float32"), 0

    def extend(self, tokens: Sequence[int]) -> tuple[np.ndarray, Result]:
        """Logits after the last of these next tokens, with the cache, and what the pass cost. Each pass is compiled."""
        at = self._at(len(tokens), self._capacity)

        def function(weights: Any, material: Any, one_hot: jax.Array, known: Any, cache: Cache) -> Any:
            whole = self._behind_prefix(weights, cache)
            found: Any = self._module.apply({"params": weights["params"]}, one_hot[None], at, whole)
            logits, after, _ = found
            return logits[0], Cache(*(rows[..., self._prefix :, :] for rows in after))

        one_hot = self._one_hot(tokens)
        program = self._engine.compile(function, {}, one_hot, state=self._empty())
        result = self._engine.run(program, self._dealer.deal({}), one_hot, state=self._state)
        self._filled += len(tokens)
        return np.asarray(result.value), result

    def whole(self, tokens: Sequence[int]) -> tuple[np.ndarray, Result]:
        """The same without a cache: all tokens of the text anew."""
        self.begin()
        at = self._at(len(tokens), len(tokens))

        def function(weights: Any, material: Any, one_hot: jax.Array) -> jax.Array:
            whole = self._behind_prefix(weights, Cache.empty(self._config, 1, len(tokens)))
            found: Any = self._module.apply({"params": weights["params"]}, one_hot[None], at, whole)
            return found[0][0]

        one_hot = self._one_hot(tokens)
        result = self._engine.run(self._engine.compile(function, {}, one_hot), self._dealer.deal({}), one_hot)
        return np.asarray(result.value), result

    def _behind_prefix(self, weights: Any, cache: Cache) -> Cache:
        if not self._prefix:
            return cache
        return Cache(*(jnp.concatenate(rows, axis=3) for rows in zip(weights["prefix"], cache, strict=True)))

    def _empty(self) -> Cache:
        return jax.eval_shape(lambda: Cache.empty(self._config, 1, self._capacity))

    def _one_hot(self, tokens: Sequence[int]) -> np.ndarray:
        return (np.asarray(tokens)[:, None] == np.arange(self._config.vocab_size)).astype(np.float32)

    def _at(self, new: int, capacity: int) -> Places:
        start, keys = self._prefix + self._filled, self._prefix + capacity
        return places(self._config, keys, np.arange(keys) < start, new, start=start, position=start)
