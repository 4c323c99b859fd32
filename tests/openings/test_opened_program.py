"""What a request opens: a fixed list, each array uniform, no two related; and only the logits come out."""

import itertools
from unittest import mock

import numpy as np
import pytest
from opened_bert import LENGTH, TINY, calibrate, opened_checkpoint, request
from scipy.stats import chisquare
from uniformity import jointly, three_bits

from secformer_jax.functions import presets

pytest.importorskip("spu")

from noted import Opening, noted

from secformer_jax.inference.private import PrivateModel
from secformer_jax.mpc.runtime.program import ONLINE

TEXTS = request(TINY, 0)
ROWS = TEXTS.input_ids.size
REQUESTS = 8


@pytest.fixture(scope="module", params=["fast", "drop-in"])
def emulated(request):
    """Each opening's values over some requests, every one with fresh masks; draws them anew on each call."""
    model = opened_checkpoint(TINY)
    ranges = calibrate(model, request.param)
    with PrivateModel(model, presets.preset(request.param), "1pc_ref2k", calibration=ranges) as private:

        def openings() -> list[Opening]:
            with noted() as parties:
                for _ in range(REQUESTS):
                    private(TEXTS)
            [messages] = parties
            flat = list(itertools.chain(*messages))
            count = len(flat) // REQUESTS
            return [
                each._replace(values=np.concatenate([again.values for again in flat[i::count]]))
                for i, each in enumerate(flat[:count])
            ]

        yield openings


def test_every_opening_of_the_program_is_uniform(emulated):
    """All values that requests reveal, taken out of the real program: the highest three bits and the lowest."""

    def p_values() -> list[float]:
        found = emulated()
        assert len(found) > 30 and min(each.values.size for each in found) >= 64 * REQUESTS
        return [
            chisquare(np.bincount(three_bits(each.values, shift), minlength=8)).pvalue
            for each in found
            for shift in (each.bits - 3, 0)
        ]

    # Some eighty of them: each is asked for p > 0.00001, on a second draw if not on the first.
    assert any(min(p_values()) > 1e-5 for _ in range(2))


def test_no_two_openings_of_the_program_have_to_do_with_each_other(emulated):
    """A mask that serves twice would show in the difference of what it masks."""

    def p_values() -> list[float]:
        pairs = [
            (one, other) for one, other in itertools.combinations(emulated(), 2) if one.values.size == other.values.size
        ]
        assert len(pairs) > 100
        return [p for one, other in pairs for p in jointly((one.values, other.values), (one.bits, other.bits))]

    assert any(min(p_values()) > 1e-6 for _ in range(2))


def expected_openings(preset: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """By message: the part of the model, and the number of values and bits of each array."""
    c, batch, length = TINY, len(TEXTS.input_ids), LENGTH
    width, inner, heads = c.hidden_size, c.intermediate_size, c.num_attention_heads
    hidden, rows, scores = ROWS * width, ROWS * heads, ROWS * heads * length
    one_hot, columns = ROWS * (c.vocab_size + c.type_vocab_size), ROWS

    def layer_norm(values: int, squares: int, result: int, inverse: int) -> list:
        # The values; and of each row: what its variance's series is of, the truncation of the result, the product.
        return [("layer_norm", [each]) for each in ((hidden, values), (ROWS, squares), (ROWS, result), (ROWS, inverse))]

    # Rows of one-hot token ids and types; hidden states into a product with weights.
    found = [("embedding", [(one_hot, 24)]), *layer_norm(24, 37, 40, 52), ("attention", [(hidden, 35)])]
    found += [("attention", [(hidden, 35)] * 3)]  # queries, keys and values before their truncation
    if preset == "fast":
        found += [
            ("attention", [(hidden, 31), (hidden, 31), (hidden, 36)]),
            ("softmax", [(scores, 31)]),
            ("softmax", [(scores, 46), (columns, 46)]),  # scores + c, and the weights of the keys
            ("softmax", [(scores, 36), (rows, 28)]),  # the numerators and their sum
            ("attention", [(hidden, 36), (rows, 40)]),  # the context, and the inverse sum before its truncation
            ("attention", [(rows, 51)]),
        ]
        norms, feed = ((35, 38, 40, 52), (35, 36, 40, 63)), 35
    else:
        found += [
            ("attention", [(hidden, 41), (hidden, 41), (columns, 41), (hidden, 33)]),  # with the mean's weights
            ("attention", [(batch * width, 41)]),  # the mean key
            ("softmax", [(scores, 24)]),  # into the exponential
            ("softmax", [(scores, 42), (columns, 47)]),  # before the first square, and the weights of the keys
        ]
        # The rows' mean, the truncation of its inverse, the product with it, the truncation of that: of each squaring.
        for mean, inverse in ((37, 40), (38, 40)):
            found += [("softmax", [each]) for each in ((rows, mean), (rows, inverse), (rows, 47), (scores, 47))]
        found += [
            ("softmax", [(scores, 33), (rows, 15)]),
            ("attention", [(hidden, 33), (rows, 32)]),
            ("attention", [(rows, 49)]),
        ]
        norms, feed = ((35, 38, 40, 53), (36, 37, 40, 63)), 36
    found += [("attention", [(hidden, 35)]), *layer_norm(*norms[0])]  # the context into the output
    found += [
        ("feed_forward", [(hidden, feed)]),
        ("gelu", [(ROWS * inner, 24)]),
        ("feed_forward", [(ROWS * inner, feed)]),
    ]
    found += layer_norm(*norms[1])
    # The first token's last hidden state, and its truncation; tanh's argument, and the truncation of its result.
    return [*found, *(("head", [(batch * width, bits)]) for bits in (46, 46, 24, 32))]


@pytest.mark.parametrize("preset", ["fast", "drop-in"])
def test_nothing_else_is_opened_and_only_the_logits_come_out(preset):
    model = opened_checkpoint(TINY)
    with PrivateModel(model, presets.preset(preset), calibration=calibrate(model, preset)) as private:
        parties = private._engine._parties
        with (
            mock.patch.object(parties, "reconstruct", wraps=parties.reconstruct) as reconstructed,
            mock.patch.object(parties, "run", wraps=parties.run) as ran,
            noted() as learnt,
        ):
            answer = private(TEXTS)
    assert len(learnt) == 2
    for messages in learnt:
        assert {each.phase for message in messages for each in message} == {ONLINE}
        found = [(message[0].part, [(each.values.size, each.bits) for each in message]) for message in messages]
        assert found == expected_openings(preset)
    assert reconstructed.call_count == 1
    assert ran.call_args.args[0][-1].outputs == reconstructed.call_args.args
    assert answer.logits.shape == (len(TEXTS.input_ids), 2)
