"""How a prompt is read: in passes of few lengths, within the room that there is."""

import pytest

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.prompts import passes_over, prompt_passes


@pytest.mark.parametrize(
    ("tokens", "capacity", "rows"),
    [
        (1, 1024, [16]),
        (17, 1024, [32]),
        (512, 1024, [512]),
        (600, 1024, [512, 128]),
        (600, 1025, [1024]),
        (1100, 4096, [1024, 128]),
        (20, 32, [16, 16]),
        (3, 16, [1, 1, 1]),
    ],
)
def test_passes(tokens, capacity, rows):
    assert prompt_passes(tokens, capacity) == rows
    prompt = list(range(tokens))
    found = passes_over(prompt, 0, capacity)
    assert [each for _, each in found] == rows
    assert [token for piece, _ in found for token in piece] == prompt
    assert all(0 < len(piece) <= each for piece, each in found)


def test_no_room():
    """Said before anything is computed."""
    assert passes_over([1] * 9, 48, 64) == [([1] * 9, 16)]
    with pytest.raises(UserError, match="a prompt of 9 tokens, padded to 16, behind 49, and there is room for 64"):
        passes_over([1] * 9, 49, 64)
    with pytest.raises(UserError, match="a prompt of 600 tokens, padded to 640, and there is room for 630"):
        passes_over([1] * 600, 0, 630)
    with pytest.raises(UserError, match="without a token"):
        passes_over([], 0, 64)
