"""Where a value leaves the domain that its series was fitted on: the opened model, emulated, with nothing hidden.

Fixed point never raises, and a series beyond its domain is bounded and wrong. So the check runs the same program on
SPU's plain ring (one party, no masks to keep) and returns what goes into every series, material of the model's own.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import numpy as np
from jax.experimental import enable_x64

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.presets import Approximations
from secformer_jax.inference.opened import OpenedServing
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded
from secformer_jax.models.transformer import Architecture
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives.fixed import Fixed
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.program import Program
from secformer_jax.openings.plan import Plan, variance_ratio

_Watch = tuple[str, str, tuple[float, float], float]


@dataclass(frozen=True)
class Violation:
    """A series that met real tokens' values outside its domain.

    Attributes:
        place, quantity: as in `Calibration`; the softmax's "square_mean_0", ..., and "row_mean", its last divisor.
        low, high: the domain.
        seen_low, seen_high: the extremes that went in.
    """

    place: str
    quantity: str
    low: float
    high: float
    seen_low: float
    seen_high: float

    def __str__(self) -> str:
        seen = [x for x in (self.seen_low, self.seen_high) if not self.low <= x <= self.high]
        values = " and ".join(f"{x:.4g}" for x in seen)
        return f"{self.place} {self.quantity} {values} left [{self.low:.4g}, {self.high:.4g}]"

    def union(self, other: Violation) -> Violation:
        """The same place over two batches."""
        low, high = min(self.seen_low, other.seen_low), max(self.seen_high, other.seen_high)
        return Violation(self.place, self.quantity, self.low, self.high, low, high)


class RangeCheck:
    """The opened model under emulation, which keeps account of every series' inputs at real tokens.

    Args:
        model: the checkpoint.
        approximations: `fast` or `drop-in`.
        calibration: the ranges that are checked, with the margin of their series.

    Raises:
        UserError: functions that aren't computed by the opened model.
    """

    def __init__(self, model: Checkpoint, approximations: Approximations, calibration: Calibration | None) -> None:
        if not approximations.openings:
            raise UserError("ranges are checked for the presets whose series have domains: fast and drop-in")
        config = mpc_config.load(mpc_config.EMULATION)
        exact = approximations.softmax.family == "exact"
        self._config = model.config
        self._serving = OpenedServing(model, calibration, config.fraction_bits, exact=exact)
        self._dealer, self._engine = Dealer(), Engine(config)
        self._programs: dict[tuple[int, ...], tuple[Program, Any, list[_Watch]]] = {}
        self._seen: dict[tuple, Violation] = {}
        self._engine.publish(self._serving.weights(self._dealer), public=self._serving.is_public)

    def __enter__(self) -> RangeCheck:
        return self

    def __exit__(self, *exception) -> None:
        self._engine.close()

    def __call__(self, encoded: Encoded) -> np.ndarray:
        """The emulated logits of one batch; what went into the series is added to what was seen."""
        inputs, shape = self._serving.inputs(encoded), encoded.input_ids.shape
        if shape not in self._programs:
            self._programs[shape] = self._compile(shape, inputs)
        program, material, watched = self._programs[shape]
        logits, seen = self._engine.run(program, self._dealer.deal(material), *inputs).value
        real = encoded.attention_mask != 0
        for (place, quantity, domain, unit), ring in zip(watched, seen, strict=True):
            values = _at_real_tokens(ring, real) * unit
            new = Violation(place, quantity, *domain, float(values.min()), float(values.max()))
            # A domain may depend on the length: then each has its own account.
            key = place, quantity, domain
            self._seen[key] = new.union(self._seen.get(key, new))
        return logits

    def _compile(self, shape: tuple[int, ...], inputs: tuple[np.ndarray, ...]) -> tuple[Program, Any, list[_Watch]]:
        model = self._serving.model(shape[1])
        with enable_x64():
            material = jax.eval_shape(model.init, jax.random.key(0), *inputs)["dealer"]
        watched: list[_Watch] = []

        def forward(weights, material, *inputs):
            seen: dict[str, jax.Array] = {}
            nodes = jax.tree_util.tree_map_with_path(
                lambda path, node: _Watched.of(node, path, seen), material, is_leaf=_is_series
            )
            logits = model.apply({**weights, "dealer": nodes}, *inputs)
            watched[:] = [_watch(name, _at(nodes, name), model.plan, self._config, shape[1]) for name in seen]
            return logits, list(seen.values())

        return self._engine.compile(forward, material, *inputs), material, watched

    @property
    def violations(self) -> list[Violation]:
        """The places so far where a value left its domain, in the model's order: what follows one may be its effect."""
        return [seen for seen in self._seen.values() if seen.seen_low < seen.low or seen.seen_high > seen.high]


def check_ranges(
    model: Checkpoint, approximations: Approximations, calibration: Calibration | None, encoded: Encoded
) -> list[Violation]:
    """Where values of this batch leave the domains of `fast` or `drop-in`; see `RangeCheck`."""
    with RangeCheck(model, approximations, calibration) as check:
        check(encoded)
        return check.violations


class _Watched(OpenedSeries):
    """A series that notes what it is asked to mask."""

    path: str = flax.struct.field(pytree_node=False)
    seen: dict[str, jax.Array] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, node: Any, path: tuple, seen: dict[str, jax.Array]) -> Any:
        """The same material; anything but a series as it is."""
        if not _is_series(node):
            return node
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        return cls(**fields, path="/".join(key.key for key in path), seen=seen)

    def masked(self, x: Fixed) -> jax.Array:
        """See OpenedSeries."""
        self.seen[self.path] = x.ring
        return super().masked(x)


def _is_series(node: Any) -> bool:
    return isinstance(node, OpenedSeries)


def _at(nodes: Any, path: str) -> OpenedSeries:
    for key in path.split("/"):
        nodes = nodes[key]
    return nodes


_NAMES = (
    (r"tanh", "pooler.tanh input"),
    (r"pooler_gelu", "pooler.gelu input"),
    (r"embeddings_norm/series", "embeddings.layer_norm variance"),
    (r"layer_(\d+)_(attention|output)_norm/series", r"layer.\1.\2.layer_norm variance"),
    (r"layer_(\d+)_feed_forward/gelu", r"layer.\1.gelu input"),
    (r"layer_(\d+)_attention/exponential", r"layer.\1.softmax centred_score"),
    (r"layer_(\d+)_attention/mean_(\d+)", r"layer.\1.softmax square_mean_\2"),
    (r"layer_(\d+)_attention/series", r"layer.\1.softmax row_mean"),
)


def _watch(path: str, series: OpenedSeries, plan: Plan, config: Architecture, length: int) -> _Watch:
    """How to read what went into a series: its place, quantity and domain, and the value of one ring unit."""
    name = next((match.expand(name) for pattern, name in _NAMES if (match := re.fullmatch(pattern, path))), f"{path} x")
    place, quantity = name.split(" ")
    factor = 1.0
    if quantity == "variance":
        factor = 1 / variance_ratio(config.embedding_width if place.startswith("embeddings") else config.hidden_size)
    elif quantity == "row_mean":
        factor = 2.0 ** plan.layers[int(place.split(".")[1])].sum_bits / length
    domain = series.series.low * factor, series.series.high * factor
    return place, quantity, domain, factor / 2.0**series.bits


def _at_real_tokens(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Values (batch, n), (batch, length, n) or (batch, heads, queries, keys or 1) of real tokens, queries and keys."""
    if values.ndim == 2:  # one row a text
        return values
    mask = real[:, :, None] if values.ndim == 3 else real[:, None, :, None]
    if values.ndim == 4 and values.shape[-1] > 1:
        mask = mask & real[:, None, None, :]
    return values[np.broadcast_to(mask, values.shape)]
