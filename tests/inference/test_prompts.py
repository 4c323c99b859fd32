"""How a prompt is read: in passes of few lengths, within the room that there is."""

import pytest

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.prompts import passes_over, prompt_passes


@pytest.mark.parametrize(
    ("tokens", "start", "capacity", "most", "rows"),
    [
        (1, 0, 1024, 1, [1]),
        (9, 0, 1024, 1, [16]),
        (65, 0, 1024, 1, [128]),
        (129, 0, 1024, 1, [128, 1]),
        (300, 0, 1024, 1, [256, 64]),
        (500, 0, 1024, 1, [512]),
        (600, 0, 1024, 1, [512, 128]),
        (600, 0, 1025, 1, [512, 128]),
        (1100, 0, 4096, 1, [1024, 128]),
        # A pass is shorter than the conversation.
        (20, 0, 32, 1, [16, 16]),
        # Where there is no room for padding there is none; an answer comes first, but for a quarter.
        (40, 0, 256, 256, [64]),
        (50, 0, 64, 64, [32, 16, 1, 1]),
        (193, 0, 256, 64, [128, 64, 1]),
        (193, 0, 256, 65, [128, 64, 1]),
        (193, 0, 256, 1, [128, 128]),
        (97, 0, 114, 1, [64, 32, 1]),
        (97, 17, 114, 1, [64, 32, 1]),
        (9, 48, 64, 1, [16]),
        (9, 49, 64, 1, [1] * 9),
        (3, 0, 3, 1, [1, 1, 1]),
    ],
)
def test_passes(tokens, start, capacity, most, rows):
    prompt = list(range(tokens))
    found = passes_over(prompt, start, capacity, most)
    assert [each for _, each in found] == rows
    assert [token for piece, _ in found for token in piece] == prompt
    assert all(0 < len(piece) <= each for piece, each in found) and start + sum(rows) <= capacity


def test_what_has_no_room():
    """It is said before anything is computed; an answer that has room for one token is one."""
    assert prompt_passes(600) == [512, 128]
    with pytest.raises(UserError, match="a prompt of 16 tokens behind 49, and there is room for 64"):
        passes_over([1] * 16, 49, 64, 1)
    with pytest.raises(UserError, match="a prompt of 701 tokens, and there is room for 700"):
        passes_over([1] * 701, 0, 700, 1)
    with pytest.raises(UserError, match="without a token"):
        passes_over([], 0, 64, 1)
