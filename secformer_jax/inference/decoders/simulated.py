"""Private generation in SPU's simulation: the parties are threads of this process."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.models.transformer import part_of
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Array, Dealer, WeightMasks
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.engine import Engine, Result
from secformer_jax.mpc.runtime.parties import State
from secformer_jax.mpc.runtime.program import Program
from secformer_jax.mpc.runtime.shares import RING_BITS


class SimulatedDecoder:
    """A decoder's weights, shared among simulated parties; `text` begins a request.

    Args:
        serving: the decoder.
        config: protocol and parties.
    """

    def __init__(self, serving: DecoderServing, config: MpcConfig) -> None:
        self.serving, self.dealer = serving, Dealer(cut_once=False)
        self.engine = Engine(config, part_of=part_of, cut_once=False)
        self.publish_bytes = self.engine.publish(serving.weights(self.dealer), public=serving.is_public)
        self._passes: dict[int, tuple[Any, Program]] = {}

    def __enter__(self) -> SimulatedDecoder:
        return self

    def __exit__(self, *exception) -> None:
        self.engine.close()

    def compiled(self, new: int) -> tuple[Any, Program]:
        """The material and the program of a pass over so many new tokens, compiled once."""
        if new not in self._passes:
            serving = self.serving
            with enable_x64():
                material = serving.material(new)
                one_hot = jax.ShapeDtypeStruct((new, serving.config.vocab_size), jnp.int64)
                known = serving.known(np.zeros(serving.capacity, bool), new, start=0, real=new)
                program = self.engine.compile(serving.function(), material, one_hot, known=known, state=serving.cache())
            self._passes[new] = material, program
        return self._passes[new]

    def text(self) -> SimulatedText:
        """A new request, with a cache of its own."""
        return SimulatedText(self)


class SimulatedText:
    """One request: `extend` takes its next tokens. No row of its cache, and so no mask of one, serves twice."""

    def __init__(self, decoder: SimulatedDecoder) -> None:
        self._decoder, serving = decoder, decoder.serving
        parties = decoder.engine.config.world_size
        shapes = serving.cache_masks()
        self._masks = decoder.dealer.mask_more(shapes, parties)
        self._filled, self._start = np.zeros(serving.capacity, bool), 0
        self._state = self._first_state(self._masks, shapes)

    def extend(self, tokens: np.ndarray, padded: int | None = None) -> tuple[np.ndarray, Result]:
        """Logits (vocab_size,) after the last of these tokens, and what the pass cost.

        Args:
            tokens: ids.
            padded: how many rows the pass has; by default one for each token.

        Raises:
            UserError: there is no room for them.
        """
        serving, decoder = self._decoder.serving, self._decoder
        new, real = padded or len(tokens), len(tokens)
        if not 1 <= real <= new or self._start + new > serving.capacity:
            raise UserError(
                f"{real} tokens padded to {new}, behind {self._start}, and there is room for {serving.capacity}: ask "
                "for fewer"
            )
        material, program = decoder.compiled(new)
        ids = np.concatenate([tokens, np.full(new - real, tokens[-1])])
        one_hot = (ids[:, None] == np.arange(serving.config.vocab_size)).astype(np.int64)
        known = serving.known(self._filled, new, start=self._start, real=real)
        # Before anything is opened: should the pass fail, its rows are used up.
        start, self._start = self._start, self._start + new
        result = decoder.engine.run(
            program,
            decoder.dealer.deal(material, self._masks),
            one_hot,
            specs=[serving.spec(new)._replace(one_hot=())],
            known=known,
            state=self._state,
        )
        self._filled[start : start + real] = True
        return serving.read_logits(result.value), result

    def _first_state(self, masks: WeightMasks, shapes: dict[str, tuple[int, ...]]) -> State:
        leaves: list[Array | np.ndarray] = []
        for name, shape in shapes.items():
            mask = Array(shape, RING_BITS, tuple(masks.keys(name)))
            leaves += [mask, np.zeros(shape, np.int64), mask]
        return self._decoder.engine.state(leaves)
