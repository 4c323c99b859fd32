"""The functions of the opened model, each alone, in the scales that the model has there: for operators.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from secformer_jax.cli.commands.compare import DEFAULT_PAIR
from secformer_jax.functions import presets
from secformer_jax.functions.fitting import fit_reciprocal, fit_rsqrt
from secformer_jax.functions.series import Series
from secformer_jax.functions.softmax import softmax_puma
from secformer_jax.models import checkpoint
from secformer_jax.models.calibrate import calibrate_model, calibration_sentences
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Tokenizer
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives.fixed import Fixed, fixed, open_together
from secformer_jax.mpc.primitives.products import WeightProducts
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys, attend, two_quad
from secformer_jax.openings.block import Block, narrowed, row_series
from secformer_jax.openings.constants import HEAD_WIDTH, LayerPlan, NormPlan, Plan
from secformer_jax.openings.model import LayerNorm, gelu_tail
from secformer_jax.openings.plan import make_plan, variance_ratio
from secformer_jax.openings.softmax_exact import exact_softmax

FRACTION_BITS = 18
STRETCH = 20
"""Fraction bits of the public factor that the model has in its weights: GeLU's inputs come as the model's then."""
MEAN_FACTOR = 24
"""Fraction bits of one over the width."""
SENTENCES = (
    *DEFAULT_PAIR,
    "A cat sleeps on the sofa.",
    "Interest rates went up at the bank, and nobody who had borrowed from it in the good years was pleased.",
    "Is it?",
    "Der Zug nach Wien fährt um neun Uhr ab.",
)
LENGTH = 32


@dataclass
class Operator:
    """What an engine runs, call(weights, material, *inputs), and what the same is in the clear.

    `plain` are the arguments of the float64 forms; `own_form` is the variant's own (None: the function itself); `read`
    makes of the function's values what the engine returns.
    """

    call: Callable
    material: Any
    inputs: tuple[np.ndarray, ...]
    plain: tuple[np.ndarray, ...]
    own_form: Callable | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    dealer: Dealer = field(default_factory=Dealer)
    read: Callable = np.asarray


def alone(function: Callable, *inputs: np.ndarray, own_form: Callable | None = None) -> Operator:
    """A function on SPU's own fixed point, with the dealer material that it asks for."""
    make = getattr(function, "material", None)
    with enable_x64():
        material = jax.eval_shape(lambda: make(*(x.shape for x in inputs))) if make else {}

    def call(weights: Any, material: Any, *inputs: jax.Array) -> jax.Array:
        return function(*inputs, material=material) if make else function(*inputs)

    return Operator(call, material, inputs, _double(*inputs), own_form)


def _double(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array, np.float64) for array in arrays)


def _module(
    module: nn.Module,
    inputs: tuple[np.ndarray, ...],
    plain: tuple[np.ndarray, ...],
    own_form: Callable | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Operator:
    dealer, published = Dealer(), {}
    if weights:
        masks = dealer.mask_weights({name: weight.shape for name, weight in weights.items()})
        opened = {name: weight - masks.array(name) for name, weight in weights.items()}
        published = {"weights": weights, "opened": opened}
    with enable_x64():
        material = jax.eval_shape(module.init, jax.random.key(0), *inputs)["dealer"]

    def call(weights: Any, material: Any, *inputs: jax.Array) -> Any:
        return module.apply({**weights, "dealer": material}, *inputs)

    return Operator(call, material, inputs, _double(*plain), own_form, published, dealer)


class _Gelu(Block):
    plan: LayerPlan

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        value = fixed(x, FRACTION_BITS)
        stretch = round(self.plan.gelu_stretch * 2**STRETCH)
        stretched = Fixed(value.ring * stretch, FRACTION_BITS + STRETCH)
        half = value.replace(bits=value.bits + 1)
        after = gelu_tail(self, stretched, self.plan.gelu, self.plan.feed_width) + half
        return narrowed(self, "pair", after, FRACTION_BITS).real(FRACTION_BITS)


def gelu(plan: LayerPlan, x: np.ndarray) -> Operator:
    """As in `openings.model.FeedForward`, with x/2 added, and a truncation at its end, which the model does without."""
    return _module(_Gelu(plan), (x,), (x,), lambda x: x / 2 + plan.gelu(x * plan.gelu_stretch))


class _Attention(Block):
    plan: LayerPlan

    @nn.compact
    def __call__(
        self, query: jax.Array, key: jax.Array, value: jax.Array, weights: jax.Array, means: jax.Array
    ) -> jax.Array:
        with jax.named_scope("attention"):
            softmax, plan = exact_softmax if self.plan.softmax.exact else two_quad, self.plan.softmax
            q, k = Fixed(query, scales.QUERY, plan.score_width), Fixed(key, scales.KEY, plan.score_width)
            v = Fixed(value, scales.VALUE, plan.sums_width)
            context = attend(softmax, self, q, k, v, None, Keys(weights, means), plan, self.plan.width)
            return narrowed(self, "pair", context, scales.CONTEXT).real(FRACTION_BITS)


def attention(plan: LayerPlan, query: np.ndarray, key: np.ndarray, mask: np.ndarray) -> Operator:
    """`openings.attention.attend`, (batch, heads, length, head_dim), with columns of the identity as values.

    Each head reads the probabilities of head_dim keys, the next head those of the next keys, and so on round. A message
    at its end brings them into the runtime's ring, which the model does without.
    """
    (heads, length, width), counts = query.shape[1:], mask.sum(axis=1, keepdims=True)
    columns = (np.arange(heads)[:, None] * width + np.arange(width)) % max(length, width)
    one_hot = (np.arange(length)[:, None] == columns[:, None, :]).astype(np.float64)
    value = np.broadcast_to(one_hot, key.shape)
    rings = (_ring(query, scales.QUERY), _ring(key, scales.KEY), _ring(value, scales.VALUE))
    keys = (mask * np.rint(length / counts)).astype(np.int64), _ring(mask / counts, scales.MEAN)
    scores = np.einsum("bhqd,bhkd->bhqk", *_double(query, key))
    operator = _module(_Attention(plan), (*rings, *keys), (scores, mask[:, None, None, :]))
    operator.read = lambda probabilities: np.einsum("bhqk,bhkd->bhqd", probabilities, value)
    return operator


class _LayerNorm(Block):
    plan: NormPlan
    bits: int
    width: int

    @nn.compact
    def __call__(self, ring: jax.Array) -> jax.Array:
        gamma, beta = (self.weight(name, ring.shape[-1]) for name in ("gamma", "beta"))
        with jax.named_scope("layer_norm"):
            # The model takes the mean off by its weights; here it costs a message.
            factor = round(2**MEAN_FACTOR / ring.shape[-1])
            total = Fixed(jnp.sum(ring, axis=-1, keepdims=True) * factor, self.bits + MEAN_FACTOR)
            mean = narrowed(self, "mean", total, self.bits)
            centred = Fixed(ring - mean.ring, self.bits, self.width)
        x = LayerNorm(self.plan, HEAD_WIDTH, name="norm")(centred)
        product = {"gamma": ("scale", self.mask_name("gamma"), gamma.ring.shape)}
        masks = self.material("affine", lambda: WeightProducts.abstract(x.shape, x.width, **product))
        [e] = open_together([x.masked(masks.a, masks.width)])
        y = Fixed(masks.times("gamma", e, gamma) + beta.ring, scales.SUM, x.width)
        return narrowed(self, "pair", y, FRACTION_BITS).real(FRACTION_BITS)


def layer_norm(
    plan: NormPlan, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, width: int, bits: int = scales.SUM
) -> Operator:
    """`openings.model.LayerNorm`, the mean before it, and gamma and beta after it as the model's head applies them.

    Its input has `bits` fraction bits modulo 2^width, as in the model.
    """
    weights = {"gamma": _ring(gamma, scales.SUM - scales.HIDDEN), "beta": _ring(beta, scales.SUM)}
    ratio = variance_ratio(x.shape[-1])

    def own_form(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        inverse = np.asarray(plan.series(jnp.asarray(x.var(-1, keepdims=True) * ratio)))
        return (x - x.mean(-1, keepdims=True)) * inverse * gamma + beta

    return _module(_LayerNorm(plan, bits, width), (_ring(x, bits),), (x, gamma, beta), own_form, weights)


class _Row(Block):
    series: Series

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        masks = self.material("series", lambda: row_series(self.series, x.shape, FRACTION_BITS, scales.HEAD))
        [opening] = open_together([masks.masked(fixed(x, FRACTION_BITS))])
        return narrowed(self, "pair", masks.finish(opening), scales.HEAD).real(FRACTION_BITS)


def row(kind: str, low: float, high: float, x: np.ndarray) -> Operator:
    """A reciprocal or rsqrt with one value a row, as in the normalisations."""
    series = (fit_reciprocal if kind == "reciprocal" else fit_rsqrt)(low, high)
    return _module(_Row(series), (x,), (x,), series)


def _ring(x: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(np.asarray(x, np.float64) * 2.0**bits).astype(np.int64)


def on_minilm(softmax: Callable, norm: Callable) -> Iterator[tuple[str, Operator, Callable, np.ndarray | None]]:
    """(name, operator, float64 form, where to look) at every place of MiniLM: real queries, keys, sums, weights.

    Queries of padding are left out: calibration does not count them for softmax, and nothing reads them.
    """
    model = checkpoint.load("minilm")
    tokenizer, exact = Tokenizer(model.tokenizer_dir, model.config), presets.preset("exact")
    (ranges,) = calibrate_model(model, tokenizer.encode(calibration_sentences(), None, 128, True), ["exact/exact"])
    plan = make_plan(model.config, ranges, LENGTH, exact=True)
    batch = tokenizer.encode(list(SENTENCES), None, LENGTH, True)
    _, kept = Plaintext(model, exact, head="embedding").intermediates(batch)
    mask, encoder = batch.attention_mask, model.params["bert"]["encoder"]["layer"]
    shape = (*mask.shape, model.config.num_attention_heads, model.config.head_dim)
    for i, layer in enumerate(plan.layers):
        own, hidden = encoder[str(i)]["attention"]["self"], np.asarray(kept[f"hidden_states.{i}"], np.float64)
        q, k = (
            (hidden @ np.asarray(own[n]["kernel"], np.float64) + own[n]["bias"]).reshape(shape).swapaxes(1, 2)
            for n in ("query", "key")
        )
        q = q * model.config.head_dim**-0.5
        scores = np.einsum("bhqd,bhkd->bhqk", q, k)
        real = np.broadcast_to(mask[:, None, :, None] > 0, scores.shape)  # head_dim is LENGTH
        yield f"softmax opened, layer {i}", attention(layer, q, k, mask), softmax, real
        keys = mask[:, None, None, :].astype(np.float32)
        puma = alone(softmax_puma, scores.astype(np.float32), keys, own_form=softmax_puma)
        yield f"softmax puma, layer {i}", puma, softmax, real
    for name, norm_plan, width, bits, weights in _norms(plan, model.params["bert"]):
        gamma, beta = (np.asarray(weights["LayerNorm"][n], np.float64) for n in ("scale", "bias"))
        x = np.asarray(kept[f"{name}.layer_norm"], np.float64)
        yield f"layer_norm opened, {name}", layer_norm(norm_plan, x, gamma, beta, width, bits), norm, None


def _norms(plan: Plan, bert: Mapping[str, Any]) -> Iterator[tuple[str, NormPlan, int, int, Mapping[str, Any]]]:
    """Every LayerNorm: its place, its constants, ring and fraction bits of its input, and its parameters."""
    yield "embeddings", plan.embeddings_norm, plan.table_width, plan.table_bits, bert["embeddings"]
    for i, layer in enumerate(plan.layers):
        own = bert["encoder"]["layer"][str(i)]
        attention = own["attention"]["output"]
        yield f"layer.{i}.attention", layer.attention_norm, layer.width, scales.SUM, attention
        yield f"layer.{i}.output", layer.output_norm, layer.feed_width, scales.SUM, own["output"]
