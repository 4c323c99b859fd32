"""Both softmaxes of the opened model alone, at scores as MiniLM has them, masked keys included."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from secformer_jax.functions import calibration
from secformer_jax.functions.measure import update
from secformer_jax.models import transformer as bert

pytest.importorskip("spu")

from jax.experimental import enable_x64

from secformer_jax.mpc.material import Dealer
from secformer_jax.mpc.primitives.fixed import Fixed
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.shares import RING_BITS
from secformer_jax.openings import scales
from secformer_jax.openings.attention import Keys, Softmax, attend, two_quad
from secformer_jax.openings.block import Block
from secformer_jax.openings.constants import LayerPlan
from secformer_jax.openings.plan import make_plan
from secformer_jax.openings.softmax_exact import exact_softmax

HEADS, LENGTH, HEAD_DIM = 12, 32, 32
COUNTS = np.array([2, 3, 17, LENGTH])
MASK = (np.arange(LENGTH) < COUNTS[:, None]).astype(np.int64)
ONE_LAYER = dataclasses.replace(bert.SHAPES["tiny"], num_hidden_layers=1)


class Attending(Block):
    """`attend` with values that are the identity, so that the context is the softmax itself."""

    plan: LayerPlan
    softmax: Softmax

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array, weights: jax.Array, means: jax.Array):
        keys, plan = Keys(weights, means), self.plan.softmax
        q, k = Fixed(query, scales.QUERY, plan.score_width), Fixed(key, scales.KEY, plan.score_width)
        v = Fixed(value, scales.VALUE, plan.sums_width)
        context = attend(self.softmax, self, q, k, v, None, keys, plan, self.plan.width)
        assert (context.bits, context.width) == (scales.CONTEXT, self.plan.width)
        return context.ring << (RING_BITS - context.width)


def queries_and_keys(low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ring elements, and the scores, whose rows, centred on their real keys, reach low and high at least."""
    rng = np.random.default_rng(0)
    query, key = rng.standard_t(5, (2, len(COUNTS), HEADS, LENGTH, HEAD_DIM))
    span = centred(query @ np.swapaxes(key, -1, -2))
    query = query / min(span.max() / high, span.min() / low)
    query, key = np.rint(query * 2.0**scales.QUERY), np.rint(key * 2.0**scales.KEY)
    scores = query @ np.swapaxes(key, -1, -2) / 2.0 ** (scales.QUERY + scales.KEY)
    # What padding holds has nothing to do with the ranges.
    key = np.where(MASK[:, None, :, None], key, 1000 * key)
    return query.astype(np.int64), key.astype(np.int64), scores


def centred(scores: np.ndarray) -> np.ndarray:
    mask = np.broadcast_to(MASK[:, None, None, :] == 1, scores.shape)
    return (scores - scores.mean(axis=-1, where=mask, keepdims=True))[mask]


def attention(protocol: str, softmax: Softmax, query: np.ndarray, key: np.ndarray, scores: np.ndarray):
    """The softmax's values and costs, its constants chosen from the range of these scores."""
    unit = calibration.Range(0.1, 1.0)
    own = ("attention.layer_norm", "output.layer_norm", "gelu", "query", "key", "value")
    names = ["embeddings.layer_norm", *(f"layer.0.{name}" for name in own)]
    places = {name: {"variance": unit, "input": unit, "output": unit} for name in names}
    seen, span = update(None, {"layer.0.softmax": scores}, MASK), centred(scores)
    # Here every row counts, not those of real queries alone.
    softmax_ranges = {**seen.places["layer.0.softmax"], "centred_score": calibration.Range(span.min(), span.max())}
    ranges = dataclasses.replace(seen, places={**places, "layer.0.softmax": softmax_ranges})
    plan = make_plan(ONE_LAYER, ranges, LENGTH, exact=softmax is exact_softmax).layers[0]
    module = Attending(plan, softmax)
    identity = np.broadcast_to(np.eye(LENGTH, dtype=np.int64) << scales.VALUE, scores.shape)
    means = MASK * np.rint(2.0**scales.MEAN / COUNTS[:, None])
    weights = MASK * np.rint(LENGTH / COUNTS[:, None])
    inputs = query, key, np.ascontiguousarray(identity), weights.astype(np.int64), means.astype(np.int64)
    with Engine(config.load(protocol)) as engine:
        engine.publish({})
        with enable_x64():
            material = jax.eval_shape(module.init, jax.random.key(0), *inputs)["dealer"]
        program = engine.compile(lambda _, dealt, *x: module.apply({"dealer": dealt}, *x), material, *inputs)
        result = engine.run(program, Dealer().deal(material), *inputs)
    return result.value / 2.0 ** (scales.CONTEXT + RING_BITS - plan.width), plan, result


def distribution(numerators: np.ndarray) -> np.ndarray:
    numerators = numerators * MASK[:, None, None, :]
    return numerators / numerators.sum(axis=-1, keepdims=True)


def assert_padding_weighs_nothing(found: np.ndarray, protocol: str) -> None:
    """Nothing but rounding: of two shares of zero, nearly always to zero; of three, within one unit of the context."""
    padding = found[np.broadcast_to(MASK[:, None, None, :] == 0, found.shape)]
    assert np.abs(padding).max() <= 2.0**-scales.CONTEXT
    assert np.abs(padding.mean()) <= 0.02 * 2.0**-scales.CONTEXT
    if protocol == "2pc_semi2k":
        assert np.count_nonzero(padding) <= 0.01 * padding.size


@pytest.mark.parametrize("protocol", ["2pc_semi2k", "3pc_aby3"])
def test_exact_softmax(protocol):
    """Centred scores from -42 to 49 and beyond: those of MiniLM's first layer."""
    query, key, scores = queries_and_keys(-42.0, 49.0)
    span = centred(scores)
    assert span.max() > 48 and span.min() < -41
    found, plan, result = attention(protocol, exact_softmax, query, key, scores)
    truth = distribution(
        np.exp(scores - scores.max(axis=-1, keepdims=True, where=MASK[:, None, None] == 1, initial=-99))
    )
    assert np.abs(found - truth).max() <= 0.002
    assert_padding_weighs_nothing(found, protocol)
    squarings = plan.softmax.exact.squarings
    assert squarings == 5
    if protocol == "2pc_semi2k":  # 5 messages, 4 a squaring, 3 of the context
        assert result.profile.total.send_actions == 5 + 4 * squarings + 3


@pytest.mark.parametrize("protocol", ["2pc_semi2k", "3pc_aby3"])
def test_two_quad(protocol):
    query, key, scores = queries_and_keys(-6.0, 6.0)
    found, _, result = attention(protocol, two_quad, query, key, scores)
    error = np.abs(found - distribution(np.square(scores + 5)))
    # The reciprocal's error is relative, 2^-11, and two keys may have the whole weight of a row.
    assert error.max() <= 0.001 and error[COUNTS > 3].max() <= 5e-4
    assert_padding_weighs_nothing(found, protocol)
    if protocol == "2pc_semi2k":
        assert result.profile.total.send_actions == 3 + 3
