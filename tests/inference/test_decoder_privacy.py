"""What the servers of a private decoder see: uniform values, other ones each time, and nothing else."""

import decoders as cases
import numpy as np
import pytest

pytest.importorskip("spu")

from noted import Opening, noted
from uniformity import accepted, single_bits

from secformer_jax.inference.decoders.simulated import SimulatedDecoder
from secformer_jax.models.decoders.calibrate import calibrate
from secformer_jax.models.decoders.checkpoint import load
from secformer_jax.mpc.runtime import config

PREFIX, LENGTH, PASSES = (3, 5, 7), 6, 12
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(0, 97, 20) for _ in range(4)]
LLAMA = {
    "embeddings": [["one-hot rows"], ["embeddings"]],
    "norm": [["x"], ["x", "sum of squares"], ["product", "inverse root"]],
    "attention": [
        ["query", "key", "value, lifted"],
        ["query", "key", "value"],
        ["centred scores"],
        ["exponential"],
        ["sum of its squares"],
        ["inverse mean"],
        ["square"],
        ["numerators, prefix", "numerators, cache", "sum of numerators"],
        ["weighed values", "inverse sum"],
        ["context"],
    ],
    "feed-forward": [["gate", "up"], ["activation"], ["gated"]],
}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    cases.reference("llama", folder, num_hidden_layers=1)
    model = load(folder)
    ranges = calibrate(model, PREFIX, TEXTS)
    with SimulatedDecoder(model, ranges, PREFIX, LENGTH + 1, config.load("2pc_semi2k")) as found:
        yield found


def flat(messages: list[list[Opening]]) -> list[Opening]:
    return [each for message in messages for each in message]


def opened(decoder, tokens, *, steps: int = 1) -> list[list[Opening]]:
    """What a party learns from a prompt and a step, message by message."""
    text = decoder.text()
    with noted() as parties:
        text.extend(tokens[:LENGTH])
        for token in tokens[LENGTH : LENGTH + steps]:
            text.extend(np.asarray([token]))
    ours, theirs = parties
    assert len(ours) == len(theirs)
    return ours


def test_every_opening_is_uniform_in_every_bit_whatever_the_text(decoder):
    """Of one text many times over, so that what is equal each time would stand out; and of another one."""
    for text in TEXTS[:2]:

        def p_values(text=text) -> list[float]:
            runs = [opened(decoder, text) for _ in range(PASSES)]
            assert len({len(run) for run in runs}) == 1
            found = []
            for places in zip(*map(flat, runs), strict=True):
                [bits] = {place.bits for place in places}
                values = np.concatenate([place.values for place in places])
                found.append(single_bits(values, bits))
            # Hundreds of places: each has its share of the level.
            return [min(1.0, len(found) * min(found))]

        assert accepted(p_values)


def test_two_requests_of_one_text_open_other_values(decoder):
    """No mask serves twice: of weights, of material, or of a cache."""
    one, other = (flat(opened(decoder, TEXTS[0])) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert (first.bits, first.values.shape) == (second.bits, second.values.shape)
        if first.values.size * first.bits > 64:
            assert not np.array_equal(first.values, second.values)


def test_what_is_opened_is_listed(decoder):
    """Message by message: nothing is opened that the list does not name."""
    listed = [*LLAMA["embeddings"], *LLAMA["norm"], *LLAMA["attention"], *LLAMA["norm"], *LLAMA["feed-forward"]]
    head = [["x"], ["sum of squares"], ["x", "inverse root"], ["normed"]]
    found = opened(decoder, TEXTS[0], steps=0)
    squarings = decoder.serving.plan.layers[0][0].softmax.squarings
    assert squarings == 2
    assert [len(message) for message in found] == [len(message) for message in [*listed, *head]]


def test_a_bit_that_is_not_masked_would_be_noticed(decoder):
    runs = [flat(opened(decoder, TEXTS[0])) for _ in range(PASSES)]
    values = np.concatenate([run[0].values | 1 for run in runs])
    assert single_bits(values, runs[0][0].bits) < 1e-9
