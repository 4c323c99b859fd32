"""What it takes to compute a decoder by openings: its cache and its passes. It follows from what is public of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.decoders.inputs import TokenInputs
from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.decoders.plaintext import checked_room
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.primitives.fixed import Fixed
from secformer_jax.openings.decoder.known import Known, LayerCache, empty_cache, known
from secformer_jax.openings.decoder.model import OpenedDecoder
from secformer_jax.openings.decoder.plan import Plan, make_plan

PARTS = ("keys", "values")


class DecoderServing:
    """A decoder behind a fixed prefix, with room for some tokens.

    Args:
        config: the model.
        calibration: its ranges behind the prefix.
        prefix: how many tokens come before every request's; everybody knows them.
        capacity: the most tokens of a request, with the padding of its prompt.
        every: see `OpenedDecoder`.

    Raises:
        UserError: ranges that do not fit, or more tokens than the model has positions for.
    """

    def __init__(
        self, config: DecoderArchitecture, calibration: Calibration, prefix: int, capacity: int, *, every: bool = False
    ) -> None:
        keys = checked_room(config, prefix + capacity)
        self.config, self.capacity, self.prefix = config, capacity, prefix
        self.plan: Plan = make_plan(config, calibration, keys)
        self.model = OpenedDecoder(config, self.plan, prefix, every)

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

    @property
    def inputs(self) -> TokenInputs:
        """How the client shares the rows of its new tokens."""
        return TokenInputs(self.config.vocab_size, self.plan.table_width)

    def variables(self, new: int) -> dict[str, Any]:
        """The module's collections as shapes, for a pass over so many new tokens: "weights", "opened", "dealer"."""
        with enable_x64():
            return jax.eval_shape(self.model.init, jax.random.key(0), *self._arguments(new))

    def material(self, new: int) -> Any:
        """Abstract dealer material of such a pass."""
        return self.variables(new)["dealer"]

    def function(self) -> Callable[..., Any]:
        """A pass: (weights, material, one-hot rows, known, cache) to the logits and the cache."""

        def run(weights: Any, material: Any, one_hot: jax.Array, known: Known, cache: Any) -> tuple[Fixed, Any]:
            return self.model.apply({**weights, "dealer": material}, one_hot, known, cache)

        return run

    def _arguments(self, new: int) -> tuple[Any, Known, Any]:
        one_hot = jnp.zeros((new, self.config.vocab_size), jnp.int64)
        known = self.known(np.zeros(self.capacity, bool), new, start=0, real=new)
        return one_hot, known, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.cache())
