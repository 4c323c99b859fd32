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

from secformer_jax.mpc.int64 import enable_x64
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

HEAD_DIM = 32
ONE_LAYER = dataclasses.replace(bert.SHAPES["tiny"], num_hidden_layers=1)


@dataclasses.dataclass(frozen=True)
class Texts:
    """How many tokens each text has, the padded length, and how many heads read them."""

    counts: tuple[int, ...]
    length: int
    heads: int

    @property
    def mask(self) -> np.ndarray:
        """(batch, length), 1 for a token."""
        return (np.arange(self.length) < np.array(self.counts)[:, None]).astype(np.int64)


SHORT, LONG = Texts((2, 3, 17, 32), 32, 12), Texts((3, 512), 512, 1)


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


def queries_and_keys(texts: Texts, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ring elements, and the scores, whose rows, centred on their real keys, reach low and high at least."""
    rng = np.random.default_rng(0)
    query, key = rng.standard_t(5, (2, len(texts.counts), texts.heads, texts.length, HEAD_DIM))
    span = centred(texts, query @ np.swapaxes(key, -1, -2))
    query = query / min(span.max() / high, span.min() / low)
    query, key = np.rint(query * 2.0**scales.QUERY), np.rint(key * 2.0**scales.KEY)
    scores = query @ np.swapaxes(key, -1, -2) / 2.0 ** (scales.QUERY + scales.KEY)
    # What padding holds has nothing to do with the ranges.
    key = np.where(texts.mask[:, None, :, None], key, 1000 * key)
    return query.astype(np.int64), key.astype(np.int64), scores


def centred(texts: Texts, scores: np.ndarray) -> np.ndarray:
    mask = np.broadcast_to(texts.mask[:, None, None, :] == 1, scores.shape)
    return (scores - scores.mean(axis=-1, where=mask, keepdims=True))[mask]


def attention(protocol: str, softmax: Softmax, texts: Texts, query: np.ndarray, key: np.ndarray, scores: np.ndarray):
    """The softmax's values and costs, its constants chosen from the range of these scores."""
    unit = calibration.Range(0.1, 1.0)
    own = ("attention.layer_norm", "output.layer_norm", "gelu", "query", "key", "value")
    names = ["embeddings.layer_norm", *(f"layer.0.{name}" for name in own)]
    places = {name: {"variance": unit, "input": unit, "output": unit} for name in names}
    seen, span = update(None, {"layer.0.softmax": scores}, texts.mask), centred(texts, scores)
    # Here every row counts, not those of real queries alone.
    softmax_ranges = {**seen.places["layer.0.softmax"], "centred_score": calibration.Range(span.min(), span.max())}
    ranges = dataclasses.replace(seen, places={**places, "layer.0.softmax": softmax_ranges})
    plan = make_plan(ONE_LAYER, ranges, texts.length, exact=softmax is exact_softmax).layers[0]
    module = Attending(plan, softmax)
    identity = np.broadcast_to(np.eye(texts.length, dtype=np.int64) << scales.VALUE, scores.shape)
    counts = np.array(texts.counts)[:, None]
    means = texts.mask * np.rint(2.0**scales.MEAN / counts)
    weights = texts.mask * np.rint(texts.length / counts)
    inputs = query, key, np.ascontiguousarray(identity), weights.astype(np.int64), means.astype(np.int64)
    with Engine(config.load(protocol)) as engine:
        engine.publish({})
        with enable_x64():
            material = jax.eval_shape(module.init, jax.random.key(0), *inputs)["dealer"]
        program = engine.compile(lambda _, dealt, *x: module.apply({"dealer": dealt}, *x), material, *inputs)
        result = engine.run(program, Dealer().deal(material), *inputs)
    return result.value / 2.0 ** (scales.CONTEXT + RING_BITS - plan.width), plan, result


def distribution(texts: Texts, numerators: np.ndarray) -> np.ndarray:
    numerators = numerators * texts.mask[:, None, None, :]
    return numerators / numerators.sum(axis=-1, keepdims=True)


def assert_padding_weighs_nothing(texts: Texts, found: np.ndarray, protocol: str) -> None:
    """Nothing but rounding: of two shares of zero, nearly always to zero; of three, within one unit of the context."""
    padding = found[np.broadcast_to(texts.mask[:, None, None, :] == 0, found.shape)]
    assert np.abs(padding).max() <= 2.0**-scales.CONTEXT
    assert np.abs(padding.mean()) <= 0.02 * 2.0**-scales.CONTEXT
    if protocol == "2pc_semi2k":
        assert np.count_nonzero(padding) <= 0.01 * padding.size


def exactly(texts: Texts, scores: np.ndarray) -> np.ndarray:
    real = texts.mask[:, None, None] == 1
    return distribution(texts, np.exp(scores - scores.max(axis=-1, keepdims=True, where=real, initial=-99)))


@pytest.mark.parametrize(
    ("protocol", "texts", "most"),
    [("2pc_semi2k", SHORT, 0.001), ("3pc_aby3", SHORT, 0.001), ("2pc_semi2k", LONG, 0.0025)],
)
def test_exact_softmax(protocol, texts, most):
    """Centred scores from -42 to 49 and beyond: those of MiniLM's first layer. The longest text has the fewest bits."""
    query, key, scores = queries_and_keys(texts, -42.0, 49.0)
    span = centred(texts, scores)
    assert span.max() > 48 and span.min() < -41
    found, plan, result = attention(protocol, exact_softmax, texts, query, key, scores)
    assert np.abs(found - exactly(texts, scores)).max() <= most
    assert_padding_weighs_nothing(texts, found, protocol)
    exact = plan.softmax.exact
    assert (exact.squarings, exact.square_width) == (5, scales.SQUARES)
    if protocol == "2pc_semi2k":  # 4 messages, 4 a squaring, 3 of the context
        assert result.profile.total.send_actions == 4 + 4 * exact.squarings + 3


@pytest.mark.parametrize(("protocol", "texts"), [("2pc_semi2k", SHORT), ("3pc_aby3", SHORT), ("2pc_semi2k", LONG)])
def test_two_quad(protocol, texts):
    """In long texts the numerators have fewer bits, and the softmax is as near."""
    query, key, scores = queries_and_keys(texts, -6.0, 6.0)
    found, plan, result = attention(protocol, two_quad, texts, query, key, scores)
    error = np.abs(found - distribution(texts, np.square(scores + 5)))
    # The reciprocal's error is relative, 2^-11, and two keys may have the whole weight of a row.
    assert error.max() <= 0.001 and error[np.array(texts.counts) > 3].max() <= 5e-4
    assert plan.softmax.numerator_bits == {32: 8, 512: 6}[texts.length]
    assert_padding_weighs_nothing(texts, found, protocol)
    if protocol == "2pc_semi2k":
        assert result.profile.total.send_actions == 3 + 3
