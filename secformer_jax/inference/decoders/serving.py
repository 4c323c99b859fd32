"""What it takes to serve a decoder by openings: its weights under masks, its cache, its passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from secformer_jax.functions.calibration import Calibration
from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives.fixed import Fixed
from secformer_jax.mpc.runtime.shares import RING_BITS, InputSpec
from secformer_jax.openings.decoder.fold import Prefix, prepare
from secformer_jax.openings.decoder.known import Known, LayerCache, empty_cache, known
from secformer_jax.openings.decoder.model import OpenedDecoder
from secformer_jax.openings.decoder.plan import Plan, make_plan

PARTS = ("keys", "values")


class DecoderServing:
    """A decoder behind a fixed prefix, with room for some tokens.

    Args:
        model: the checkpoint.
        calibration: its ranges behind the prefix.
        prefix: ids of the tokens that come before every request's, and that everybody knows.
        capacity: the most tokens of a request, with the padding of its prompt.

    Raises:
        UserError: ranges that do not fit, or more tokens than the model has positions for.
    """

    def __init__(
        self, model: DecoderCheckpoint, calibration: Calibration, prefix: Sequence[int], capacity: int
    ) -> None:
        self._model, self.capacity, self.prefix = model, capacity, len(prefix)
        self._rows: Prefix | None = None
        plaintext = PlaintextDecoder(model, self.prefix + capacity)
        if prefix:
            plaintext.extend(np.asarray(prefix))
            self._rows = plaintext.rows()
        self.config = model.config
        self.plan: Plan = make_plan(model.config, calibration, self.prefix + capacity)
        self.model = OpenedDecoder(model.config, self.plan, self.prefix)

    def weights(self, dealer: Dealer) -> dict[str, Any]:
        """What is published: the weights as shares, and in clear what is left of them under masks."""
        weights = dict(prepare(self._model.params, self.config, self._rows))
        masks = dealer.mask_weights({name: weight.shape for name, weight in weights.items()})
        opened = {name: weight - masks.array(name) for name, weight in weights.items()}
        return {"weights": unflatten_dict(weights, sep="/"), "opened": unflatten_dict(opened, sep="/")}

    def is_public(self, path: str) -> bool:
        """Whether a published leaf is given in clear: weights minus uniform masks."""
        return path.startswith("['opened']")

    def cache(self) -> tuple[LayerCache, ...]:
        """Shapes of a request's cache."""
        return empty_cache(self.config, self.capacity)

    def cache_masks(self) -> dict[str, tuple[int, ...]]:
        """The dealer's names and the shapes of a request's own masks, in the order of `cache`."""
        return {
            f"layer_{i}_attention/{part}": rows.ring.shape
            for i, layer in enumerate(self.cache())
            for part, rows in zip(PARTS, layer, strict=True)
        }

    def known(self, filled: np.ndarray, new: int, *, start: int, real: int) -> Known:
        """What every party knows of a pass; see `known`."""
        return known(self.config, self.prefix, self.capacity, filled, new, start=start, real=real)

    def spec(self, new: int) -> InputSpec:
        """How the client shares the rows of its new tokens."""
        shape = (new, self.config.vocab_size)
        return InputSpec("int64", shape, self.plan.table_width, (self.config.vocab_size,))

    def material(self, new: int) -> Any:
        """Abstract dealer material of a pass over so many new tokens."""
        arguments = self._arguments(new)
        variables = jax.eval_shape(self.model.init, jax.random.key(0), *arguments)
        return variables["dealer"]

    def function(self) -> Callable[..., Any]:
        """A pass: (weights, material, one-hot rows, known, cache) to the logits and the cache."""

        def run(weights: Any, material: Any, one_hot: jax.Array, known: Known, cache: Any) -> tuple[Fixed, Any]:
            return self.model.apply({**weights, "dealer": material}, one_hot, known, cache)

        return run

    def _arguments(self, new: int) -> tuple[Any, Known, Any]:
        one_hot = jnp.zeros((new, self.config.vocab_size), jnp.int64)
        known = self.known(np.zeros(self.capacity, bool), new, start=0, real=new)
        return one_hot, known, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.cache())

    def read_logits(self, revealed: Fixed) -> np.ndarray:
        """float64 (vocab_size,), from the sum of the parties' shares."""
        unused = RING_BITS - revealed.width
        return ((np.asarray(revealed.ring) << unused) >> unused) * 2.0**-revealed.bits
