"""Private generation in SPU's simulation: the parties are threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.decoders.answer import Answer
from secformer_jax.inference.decoders.logits import read_logits
from secformer_jax.inference.decoders.prompts import passes_over
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.inference.decoders.weights import prepared
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.transformer import part_of
from secformer_jax.mpc.material import Array, Dealer, Randomness, WeightMasks
from secformer_jax.mpc.runtime.config import MpcConfig
from secformer_jax.mpc.runtime.engine import Engine, Result
from secformer_jax.mpc.runtime.parties import State
from secformer_jax.mpc.runtime.program import Program
from secformer_jax.mpc.runtime.shares import RING_BITS


class SimulatedDecoder:
    """A decoder's weights, shared among simulated parties; `text` begins a request.

    Args:
        model: the checkpoint.
        calibration: its ranges behind the prefix.
        prefix: ids of the tokens that come before every request's.
        capacity: the most tokens of a request, with the padding of its prompt.
        config: protocol and parties.
        every: have logits of all new tokens (new, vocab_size), and not of the last.
        randomness: what masks are drawn from.

    Raises:
        UserError: as `DecoderServing`.
    """

    def __init__(
        self,
        model: DecoderCheckpoint,
        calibration: Calibration,
        prefix: Sequence[int],
        capacity: int,
        config: MpcConfig,
        *,
        every: bool = False,
        randomness: Callable[[int], Randomness] = Randomness,
    ) -> None:
        self.serving = DecoderServing(model.config, calibration, len(prefix), capacity, every=every)
        self.engine, self.dealer = Engine(config, part_of=part_of, cut_once=False), Dealer(randomness, cut_once=False)
        weights = dict(prepared(model, prefix))
        masks = self.dealer.mask_weights({name: weight.shape for name, weight in weights.items()})
        opened = {name: weight - masks.array(name) for name, weight in weights.items()}
        published = {"weights": unflatten_dict(weights, sep="/"), "opened": unflatten_dict(opened, sep="/")}
        self.engine.publish(published, public=self.serving.is_public)
        self._passes: dict[int, tuple[Any, Program]] = {}

    def __enter__(self) -> SimulatedDecoder:
        return self

    def __exit__(self, *exception) -> None:
        self.engine.close()

    def compiled(self, new: int) -> tuple[Any, Program]:
        """The material and the program of a pass over so many new tokens, compiled once."""
        if new not in self._passes:
            serving = self.serving
            material, [spec] = serving.material(new), serving.inputs.specs(1, new)
            one_hot = jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            known = serving.known(np.zeros(serving.capacity, bool), new, start=0, real=new)
            program = self.engine.compile(self.function(), material, one_hot, known=known, state=serving.cache())
            self._passes[new] = material, program
        return self._passes[new]

    def function(self) -> Callable[..., Any]:
        """What is compiled for a pass."""
        return self.serving.function()

    def read(self, value: Any) -> np.ndarray:
        """The logits, from what it reveals."""
        return read_logits(value.ring, self.serving.plan.logits_width)

    def text(self) -> SimulatedText:
        """A new request, with a cache of its own."""
        return SimulatedText(self)


class SimulatedText:
    """One request: `extend` takes its next tokens. No row of its cache, and so no mask of one, serves twice.

    Attributes:
        used: how many rows are taken, with the padding of prompts.
    """

    def __init__(self, decoder: SimulatedDecoder) -> None:
        self._decoder, serving = decoder, decoder.serving
        parties = decoder.engine.config.world_size
        shapes = serving.cache_masks()
        self._masks = decoder.dealer.mask_more(shapes, parties)
        self._filled, self.used = np.zeros(serving.capacity, bool), 0
        self._state = self._first_state(self._masks, shapes)

    def extend(self, tokens: Sequence[int] | np.ndarray, padded: int | None = None) -> tuple[np.ndarray, Result]:
        """Logits (vocab_size,) after the last of these tokens, and what the pass cost.

        Args:
            tokens: ids.
            padded: how many rows the pass has; by default one for each token.

        Raises:
            UserError: there is no room for them.
        """
        serving, decoder = self._decoder.serving, self._decoder
        new, real = padded or len(tokens), len(tokens)
        if not 1 <= real <= new or self.used + new > serving.capacity:
            raise UserError(
                f"{real} tokens padded to {new}, behind {self.used}, and there is room for {serving.capacity}: ask "
                "for fewer, or give the conversation more room"
            )
        material, program = decoder.compiled(new)
        known = serving.known(self._filled, new, start=self.used, real=real)
        # Before anything is opened: should the pass fail, its rows are used up.
        start, self.used = self.used, self.used + new
        result = decoder.engine.run(
            program,
            decoder.dealer.deal(material, self._masks),
            serving.inputs.array(tokens, new),
            specs=serving.inputs.specs(1, new),
            known=known,
            state=self._state,
        )
        self._filled[start : start + real] = True
        return decoder.read(result.value), result

    def write(self, prompt: Sequence[int], answer: Answer) -> Iterator[tuple[str, Result]]:
        """Let an answer grow behind a prompt: what can be shown more after each pass, and what the pass cost.

        Raises:
            UserError: the prompt is too long for what room is left; an answer ends where there is no more.
        """
        *before, last = passes_over(prompt, self.used, self._decoder.serving.capacity, answer.most)
        for each in before:
            yield "", self.extend(*each)[1]
        logits, result = self.extend(*last)
        while True:
            said, full = answer.add(logits), self.used == self._decoder.serving.capacity
            if answer.finish is None and full:
                said += answer.end()
            yield said, result
            if full or not answer.goes_on:
                break
            logits, result = self.extend(answer.ids[-1:])

    def _first_state(self, masks: WeightMasks, shapes: dict[str, tuple[int, ...]]) -> State:
        leaves: list[Array | np.ndarray] = []
        for name, shape in shapes.items():
            mask = Array(shape, RING_BITS, tuple(masks.keys(name)))
            leaves += [mask, np.zeros(shape, np.int64), mask]
        return self._decoder.engine.state(leaves)
