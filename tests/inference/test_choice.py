"""The next token from the logits: the rules by hand."""

import numpy as np
import pytest

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.choice import Choice

LOGITS = np.log([0.5, 0.3, 0.15, 0.05])
GENERATOR = np.random.default_rng(0)


def frequencies(choice: Choice, previous=(), draws: int = 4000) -> np.ndarray:
    found = [choice.next(LOGITS, previous, GENERATOR) for _ in range(draws)]
    return np.bincount(found, minlength=4) / draws


def test_the_likeliest():
    assert Choice().next(LOGITS, (), GENERATOR) == 0
    assert Choice(repetition_penalty=2.0).next(LOGITS, [0, 0, 3], GENERATOR) == 1
    # A positive logit is divided.
    assert Choice(repetition_penalty=2.0).next(np.array([3.0, 2.0]), [0], GENERATOR) == 1


def test_draws_follow_the_probabilities():
    np.testing.assert_allclose(frequencies(Choice(temperature=1.0)), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])
    np.testing.assert_allclose(frequencies(Choice(temperature=0.5)), squares / squares.sum(), atol=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.7, 2), (0.9, 3), (1.0, 4)])
def test_the_fewest_likeliest(top_p, kept):
    expected = np.exp(LOGITS) * (np.arange(4) < kept)
    found = frequencies(Choice(temperature=1.0, top_p=top_p))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.03)


def test_small_errors_hardly_change_a_draw():
    """Private logits differ in their last bits; drawn in the order of the logits, nearly all would change."""
    logits, errors = np.zeros(300), GENERATOR.normal(scale=1e-3, size=(500, 300))
    found = [
        [Choice(temperature=1.0).next(given, (), np.random.default_rng(seed)) for given in (logits, logits + error)]
        for seed, error in enumerate(errors)
    ]
    assert sum(one != other for one, other in found) <= 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, and 0 or more was expected"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0, and above 0 and at most 1 was expected"),
        ({"repetition_penalty": 0.5}, "repetition_penalty is 0.5, and 1 or more was expected"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        Choice(**settings)
