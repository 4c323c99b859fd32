"""The opened model: the answers of plaintext on every protocol, few messages, and masked keys that don't matter."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from opened_bert import COUNTS, LENGTH, TINY, WIDER, calibrate, opened_checkpoint, request

from secformer_jax.functions import presets
from secformer_jax.mpc.int64 import enable_x64

pytest.importorskip("spu")

from secformer_jax.cli.commands.calibrate import encode_lines
from secformer_jax.errors import UserError
from secformer_jax.inference.opened import FRACTION_BITS
from secformer_jax.inference.private import Answer, Plaintext, PrivateModel
from secformer_jax.models.calibrate import calibrate_model, calibration_sentences
from secformer_jax.models.text import Encoded
from secformer_jax.models.transformer import select_params
from secformer_jax.mpc.material import MaterialReusedError
from secformer_jax.openings import scales
from secformer_jax.openings.block import row_series
from secformer_jax.openings.constants import HEAD_WIDTH
from secformer_jax.openings.plan import gelu_tail

PRESETS = ("fast", "drop-in")
CONFIGS = {"tiny": TINY, "wider": WIDER}
LOGITS = 0.005
"""Of logits, behind the pooler and a classifier."""
NOISE = 0.001
"""Of cosines, which have no tanh behind them."""


class Served:
    """A private model with its own calibration, and one answered request of four texts."""

    def __init__(self, config, preset: str, protocol: str, head: str = "classification") -> None:
        self.config, self.model = config, opened_checkpoint(config, head)
        self.ranges, self.functions = calibrate(self.model, preset), presets.preset(preset)
        self.private = PrivateModel(self.model, self.functions, protocol, calibration=self.ranges)
        self.request = request(config, 0)
        self.answer: Answer = self.private(self.request)

    def error(self, encoded: Encoded | None = None) -> float:
        """Against plaintext with the same functions."""
        answer = self.answer if encoded is None else self.private(encoded)
        expected = Plaintext(self.model, self.functions, calibration=self.ranges)(encoded or self.request)
        assert answer.logits.shape == expected.shape
        return float(np.abs(answer.logits - expected).max())

    def sends_a_layer(self) -> float:
        """Messages of one layer: all but those of the input's proof, embeddings, their LayerNorm, and the head."""
        profile = self.answer.result.profile
        others = sum(profile.by_part[part].send_actions for part in ("input", "embedding", "head"))
        return (profile.total.send_actions - others - 4) / self.config.num_hidden_layers


@pytest.fixture(scope="module")
def served() -> Iterator:
    made: dict[tuple, Served] = {}

    def serve(*key: str) -> Served:
        if key not in made:
            made[key] = Served(CONFIGS[key[0]], *key[1:])
        return made[key]

    yield serve
    for each in made.values():
        each.private.close()


@pytest.mark.parametrize("protocol", ["2pc_semi2k", "3pc_aby3", "1pc_ref2k"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("config", CONFIGS)
def test_logits_of_2_to_all_real_tokens(served, config, preset, protocol):
    one = served(config, preset, protocol)
    assert one.request.attention_mask.sum(axis=1).tolist() == list(COUNTS)
    assert np.ptp(one.answer.logits, axis=0).min() > 10 * LOGITS
    assert one.error() <= LOGITS
    assert one.answer.result.offline_bytes > 0


@pytest.mark.parametrize("head", ["regression", "embedding"])
@pytest.mark.parametrize("preset", PRESETS)
def test_other_heads(preset, head):
    config = dataclasses.replace(TINY, id2label=("score",))
    one = Served(config, preset, "1pc_ref2k", head)
    with one.private:
        assert one.answer.logits.shape == ((4, 1) if head == "regression" else (2,))
        assert np.ptp(one.answer.logits) > 3 * NOISE
        assert one.error() <= (LOGITS if head == "regression" else NOISE)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_at_padded_positions_does_not_matter(served, preset):
    """Even where it leaves every domain: one word, at padding alone, has an embedding a million times too large."""
    one = served("wider", preset, "1pc_ref2k")
    words = np.array(one.model.params["bert"]["embeddings"]["word_embeddings"]["embedding"])
    wild, real = len(words) - 1, one.request.attention_mask == 1
    words[wild] *= 2.0**20
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: words if path[-2].key == "word_embeddings" else leaf, one.model.params
    )
    ids = np.where(one.request.input_ids == wild, 5, one.request.input_ids)
    others = np.random.default_rng(0).integers(1, wild, ids.shape)
    model, answers = dataclasses.replace(one.model, params=params), []
    with PrivateModel(model, one.functions, "1pc_ref2k", calibration=one.ranges) as private:
        for padding in (np.zeros_like(ids), others, np.full_like(ids, wild)):
            filled = np.where(real, ids, padding).astype(np.int32)
            answers.append(private(dataclasses.replace(one.request, input_ids=filled)).logits)
    # Two answers to the same request differ as much.
    assert max(np.abs(answer - answers[0]).max() for answer in answers) <= LOGITS
    encoded = dataclasses.replace(one.request, input_ids=ids)
    assert np.abs(answers[0] - Plaintext(model, one.functions, calibration=one.ranges)(encoded)).max() <= LOGITS


@pytest.mark.parametrize(("preset", "most"), [("fast", 20), ("drop-in", 37)])
@pytest.mark.parametrize("config", CONFIGS)
def test_messages_of_a_layer(served, config, preset, most):
    """Attention without its softmax 8, each LayerNorm 4, the feed-forward block 3."""
    one = served(config, preset, "2pc_semi2k")
    exact = [layer.softmax.exact for layer in one.private._serving.model(LENGTH).plan.layers]
    softmax = np.mean([3 + 4 * each.squarings for each in exact]) if preset == "drop-in" else 2
    assert one.sends_a_layer() == 7 + softmax + 2 * 4 + 3 <= most


@pytest.mark.parametrize("preset", PRESETS)
def test_messages_do_not_grow_with_the_length_or_the_batch(served, preset):
    one = served("tiny", preset, "2pc_semi2k")
    ranges = dataclasses.replace(one.ranges, max_length=2 * LENGTH)
    with PrivateModel(one.model, one.functions, calibration=ranges) as private:
        longer = private(request(TINY, 2, (20,), 2 * LENGTH)).result.profile
    profile = one.answer.result.profile
    assert longer.total.send_bytes != profile.total.send_bytes
    sends = [{part: cost.send_actions for part, cost in each.by_part.items()} for each in (profile, longer)]
    assert sends[0] == sends[1]


def whole_bytes(bits: int) -> int:
    """Of a value in an opening."""
    return -(-bits // 8)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("config", CONFIGS)
def test_bytes(served, config, preset):
    """An opening has as many bytes a value as its ring needs: GeLU's 3, a linear layer's input 5."""
    one = served(config, preset, "2pc_semi2k")
    c, tokens, parts = one.config, one.request.input_ids.size, one.answer.result.profile.by_part
    layers, width, inner = c.num_hidden_layers, c.hidden_size, c.intermediate_size
    plan = one.private._serving.model(LENGTH).plan
    assert parts["gelu"].send_bytes == layers * tokens * 3 * inner
    assert parts["gelu"].send_actions == layers
    # Two linear layers, each of which reads one opening; the residual reads the first.
    assert parts["feed_forward"].send_bytes == layers * tokens * 5 * (width + inner)
    assert {whole_bytes(bits) for layer in plan.layers for bits in (layer.width, layer.feed_width)} == {5}
    # LayerNorm: the values in their ring, and of each row its square sum, and its inverse deviation twice.
    read = [plan.table_width, *(bits for layer in plan.layers for bits in (layer.width, layer.feed_width))]
    given = [plan.layers[0].width]
    for layer, following in zip(plan.layers, [*(layer.width for layer in plan.layers[1:]), HEAD_WIDTH], strict=True):
        given += [layer.feed_width, following]
    norms = [plan.embeddings_norm]
    norms += [norm for layer in plan.layers for norm in (layer.attention_norm, layer.output_norm)]
    expected = 0
    for norm, values, result in zip(norms, read, given, strict=True):
        squares = 2 * norm.centred + width.bit_length() - 1 + round(np.log2(norm.series.period))
        with enable_x64():
            truncated = row_series(norm.series, (1,), 0, norm.inverse + 2).width
        product = result + norm.centred + norm.inverse - scales.HIDDEN
        expected += width * whole_bytes(values) + sum(map(whole_bytes, (squares, truncated, product)))
    assert parts["layer_norm"].send_bytes == tokens * expected
    assert parts["embedding"].send_bytes == tokens * 3 * (c.vocab_size + c.type_vocab_size)


@pytest.mark.parametrize("preset", PRESETS)
def test_requests_differ_and_material_is_used_once(served, preset):
    one = served("tiny", preset, "2pc_semi2k")
    engine, encoded = one.private._engine, one.request
    program, material = one.private._programs[encoded.input_ids.shape]
    dealt, inputs = one.private._dealer.deal(material), one.private._serving.inputs.arrays(encoded)
    specs = one.private._serving.inputs.specs(*encoded.input_ids.shape)
    first = engine.run(program, dealt, *inputs, specs=specs)
    assert np.abs(first.value - one.answer.logits).max() <= 0.005
    with pytest.raises(MaterialReusedError, match="one request only"):
        engine.run(program, dealt, *inputs, specs=specs)


def test_what_the_opened_model_does_not_take():
    model = opened_checkpoint(TINY)
    for preset in PRESETS:
        functions = presets.preset(preset)
        with pytest.raises(UserError, match="no ranges: pass a calibration"):
            PrivateModel(model, functions)
        with pytest.raises(UserError, match="leave out --embedding inside"):
            PrivateModel(model, functions, calibration=calibrate(model, preset), embedding="inside")
        # The ranges of 2Quad's model say nothing about softmax's, nor the other way round.
        other = calibrate(model, "fast" if preset == "drop-in" else "drop-in")
        with pytest.raises(UserError, match="functions, and these are"):
            PrivateModel(model, functions, calibration=other)
        short = calibrate(model, preset, 16)
        with pytest.raises(UserError, match="--max-length 32"), PrivateModel(model, functions, calibration=short) as b:
            b(request(TINY, 0, (20,), 32))


@pytest.mark.parametrize("preset", PRESETS)
def test_plaintext_has_the_series_that_is_opened(preset):
    """Of GeLU, whose period is no power of two before its inputs are stretched."""
    ranges = calibrate(opened_checkpoint(TINY), preset)
    built = presets.build(
        presets.preset(preset), num_layers=TINY.num_hidden_layers, epsilon=1e-12, length=LENGTH, calibration=ranges
    )
    for i, layer in enumerate(built.layers):
        opened, stretch = gelu_tail(TINY, ranges, i)
        tail = layer.gelu.keywords["tail"]
        x = np.linspace(tail.low, tail.high, 1000, dtype=np.float32)
        np.testing.assert_allclose(opened(x * stretch), tail(x), atol=1e-5)
        assert np.log2(opened.period).is_integer() and not np.log2(tail.period).is_integer()


def test_scales_leave_room():
    """Every truncation drops bits, weights keep 16 of them, and what is opened of a series fits its bytes."""
    assert scales.SUM - scales.HIDDEN == scales.SUM - scales.CONTEXT == scales.SUM - scales.FEED == 16
    assert max(scales.QUERY, scales.KEY, scales.VALUE) < scales.SUM and scales.QUERY + scales.KEY > scales.SCORE
    assert 2 * scales.SCORE > scales.NUMERATOR and scales.NUMERATOR + scales.VALUE >= scales.CONTEXT
    assert scales.EXACT_NUMERATOR < scales.EXPONENTIAL
    assert scales.GELU_PUBLIC + scales.GELU_MASK > scales.FEED and scales.GELU_OPENED == scales.EXPONENT_OPENED == 24
    assert scales.TABLE > scales.HIDDEN and scales.LEAST_ROOT < scales.EXPONENTIAL
    # An answer's hidden state comes from SUM bits to those of the runtime.
    assert scales.SUM > FRACTION_BITS > scales.HEAD


def test_drop_in_minilm_without_retraining(minilm):
    """Its first two layers, the first of which has the widest scores, and the words that are asked for: the rest is
    a minute of compilation and sharing."""
    config = dataclasses.replace(minilm.config, num_hidden_layers=2)
    model = dataclasses.replace(minilm, config=config, params=select_params(minilm.params, config, "embedding"))
    functions = presets.preset("drop-in")
    [ranges] = calibrate_model(model, encode_lines(model, calibration_sentences(), LENGTH), [presets.family(functions)])
    pair = encode_lines(model, ["A cat sleeps on the sofa.\tA kitten naps on the couch."], LENGTH)
    expected = Plaintext(model, presets.preset("exact"))(pair)
    words, ids = np.unique(pair.input_ids, return_inverse=True)
    model = dataclasses.replace(
        model,
        config=dataclasses.replace(config, vocab_size=len(words)),
        params=jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf[words] if path[-2].key == "word_embeddings" else leaf, model.params
        ),
    )
    with PrivateModel(model, functions, "2pc_semi2k", calibration=ranges) as private:
        answer = private(dataclasses.replace(pair, input_ids=ids.reshape(pair.input_ids.shape).astype(np.int32)))
        squarings = [layer.softmax.exact.squarings for layer in private._serving.model(LENGTH).plan.layers]
    assert answer.seq_length == LENGTH and expected[0] > 0.3
    assert np.abs(answer.logits - expected).max() <= 0.002
    parts = answer.result.profile.by_part
    others = sum(parts[part].send_actions for part in ("input", "embedding", "head"))
    sends = answer.result.profile.total.send_actions - others
    assert sends == 4 + sum(21 + 4 * count for count in squarings)
