"""Where a value leaves the domain of its series, or the ring that it is truncated in: the opened model, emulated.

Fixed point never raises: a series beyond its domain is bounded and wrong, and so is a truncation in too small a ring.
So the check runs the same program by one party with masks that are all zero, where an overflow shows in full at the
first place that has one, and returns what goes into every series and every truncation.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.presets import Approximations
from secformer_jax.inference.opened import OpenedServing
from secformer_jax.inference.watching import Seen, Violation, domain_of, is_watched, name_of, watched
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded
from secformer_jax.models.transformer import Architecture
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Dealer, NoMasks
from secformer_jax.mpc.primitives.fixed import TruncationPair
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime import config as mpc_config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.program import Program
from secformer_jax.openings.constants import Plan
from secformer_jax.openings.plan import variance_ratio

_Watch = tuple[str, str, tuple[float, float], float, bool]
"""A place, its quantity and domain, the value of one ring unit, and whether the last axis is one of keys."""


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
        self._dealer, self._engine = Dealer(NoMasks), Engine(config)
        self._programs: dict[tuple[int, ...], tuple[Program, Any, list[_Watch]]] = {}
        self._seen: dict[tuple, Violation] = {}
        self._engine.publish(self._serving.weights(self._dealer), public=self._serving.is_public)

    def __enter__(self) -> RangeCheck:
        return self

    def __exit__(self, *exception) -> None:
        self._engine.close()

    def __call__(self, encoded: Encoded) -> np.ndarray:
        """The emulated logits of one batch; what went into the series is added to what was seen."""
        inputs, shape = self._serving.inputs.arrays(encoded), encoded.input_ids.shape
        if shape not in self._programs:
            self._programs[shape] = self._compile(shape, inputs)
        program, material, watched = self._programs[shape]
        logits, seen = self._engine.run(program, self._dealer.deal(material), *inputs).value
        real = encoded.attention_mask != 0
        for (place, quantity, domain, unit, keys), ring in zip(watched, seen, strict=True):
            values = _at_real_tokens(ring, real, keys) * unit
            new = Violation(place, quantity, *domain, float(values.min()), float(values.max()))
            # A domain may depend on the length: then each has its own account.
            key = place, quantity, domain
            self._seen[key] = new.union(self._seen.get(key, new))
        return logits

    def _compile(self, shape: tuple[int, ...], inputs: tuple[np.ndarray, ...]) -> tuple[Program, Any, list[_Watch]]:
        model = self._serving.model(shape[1])
        with enable_x64():
            material = jax.eval_shape(model.init, jax.random.key(0), *inputs)["dealer"]
        watches: list[_Watch] = []

        def forward(weights, material, *inputs):
            seen: Seen = {}
            nodes = watched(material, seen, lambda path: _OF_SERIES.search(path) is not None)
            logits = model.apply({**weights, "dealer": nodes}, *inputs)
            found = dict(jax.tree_util.tree_leaves_with_path(nodes, is_leaf=is_watched))
            by_name = {name_of(path): node for path, node in found.items()}
            watches[:] = [
                _watch(name, by_name[name], x.bits, model.plan, self._config, shape[1]) for name, x in seen.items()
            ]
            return logits, [x.ring for x in seen.values()]

        return self._engine.compile(forward, material, *inputs), material, watches

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


_OF_SERIES = re.compile(r"(row|mean_\d+|tanh|pooler_gelu)_pair$|_norm/pair$|square_0/plain/square/pair$")
"""Truncations of what a series gives: that is bounded, and the series is watched."""


_NAMES = (
    (r"tanh", "pooler.tanh input"),
    (r"pooler_gelu", "pooler.gelu input"),
    (r"last_pair", "head input"),
    (r"embeddings_norm/series", "embeddings.layer_norm variance"),
    (r"embeddings_norm/masks/scaled/pair", "embeddings.layer_norm input"),
    (r"layer_(\d+)_(attention|output)_norm/series", r"layer.\1.\2.layer_norm variance"),
    (r"layer_(\d+)_(attention|output)_norm/masks/scaled/pair", r"layer.\1.\2.layer_norm input"),
    (r"layer_(\d+)_feed_forward/gelu", r"layer.\1.gelu input"),
    (r"layer_(\d+)_attention/(query|key|value)_pair", r"layer.\1.\2 output"),
    (r"layer_(\d+)_attention/score_pair", r"layer.\1.softmax score"),
    (r"layer_(\d+)_attention/exponential", r"layer.\1.softmax centred_score"),
    (r"layer_(\d+)_attention/mean_(\d+)", r"layer.\1.softmax square_mean_\2"),
    (r"layer_(\d+)_attention/square_(\d+)/square/pair", r"layer.\1.softmax square_\2"),
    (r"layer_(\d+)_attention/numerators_pair", r"layer.\1.softmax numerator"),
    (r"layer_(\d+)_attention/series", r"layer.\1.softmax row_mean"),
    (r"layer_(\d+)_attention/scaling/pair", r"layer.\1.softmax weighted_sum"),
)


def _watch(
    path: str, node: OpenedSeries | TruncationPair, bits: int, plan: Plan, config: Architecture, length: int
) -> _Watch:
    """How to read what went into a node."""
    name = next((match.expand(name) for pattern, name in _NAMES if (match := re.fullmatch(pattern, path))), f"{path} x")
    place, quantity = name.split(" ")
    factor = 1.0
    if quantity == "variance":
        factor = 1 / variance_ratio(config.embedding_width if place.startswith("embeddings") else config.hidden_size)
    elif quantity == "row_mean":
        factor = 2.0 ** plan.layers[int(place.split(".")[1])].softmax.sum_bits / length
    elif place.endswith((".query", ".key")):
        balance = plan.layers[int(place.split(".")[1])].balance
        factor = balance if place.endswith(".query") else 1 / balance
    elif place.endswith(".gelu") and place.startswith("layer"):
        factor = 1 / plan.layers[int(place.split(".")[1])].gelu_stretch
    domain = domain_of(node, bits)
    keys = re.search("score_pair|exponential|square_|numerators", path) is not None
    return place, quantity, (domain[0] * factor, domain[1] * factor), factor / 2.0**bits, keys


def _at_real_tokens(values: np.ndarray, real: np.ndarray, keys: bool) -> np.ndarray:
    """Values (batch, n), (batch, length or 1, n) or (batch, heads, queries, n) of real tokens; n may be keys."""
    if values.ndim == 2:  # one row a text
        return values
    mask = real[:, : values.shape[1], None] if values.ndim == 3 else real[:, None, :, None]
    if keys:
        mask = mask & real[:, None, None, :]
    return values[np.broadcast_to(mask, values.shape)]
