"""Many texts at once: batches of one length, answers in order, and errors where they belong."""

import asyncio
import itertools

import numpy as np
import pytest
from opened_bert import TINY

from secformer_jax.inference.texts import MOST_WAITING, Limits, answer, answered, powers_of_two
from secformer_jax.models.text import Tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(20)))


class Echo:
    """Answers with the first word of a text; counts its batches."""

    config, labels_alone = TINY, False

    def __init__(self, head="classification"):
        self.head, self.shapes = head, []

    def most(self, length):
        return 64 // length

    async def logits(self, encoded):
        self.shapes.append(encoded.input_ids.shape)
        words = encoded.input_ids[:, 1].astype(float)
        if self.head == "similarity":
            return words.reshape(-1, 2) @ np.array([100.0, 1.0])
        return np.stack([words, -words], axis=1)


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return Tokenizer(tmp_path)


def ask(echo, tokenizer, requests, **limits):
    return asyncio.run(answer(echo, tokenizer, requests, Limits(**limits)))


def test_answers_are_in_order_and_batches_of_one_length(tokenizer):
    echo = Echo()
    texts = [f"w{n % 20}" + " w1" * (20 if n % 3 == 0 else 0) for n in range(50)]
    found = ask(echo, tokenizer, [(text, None) for text in texts])
    assert [entry["logits"][0] for entry in found] == [5 + n % 20 for n in range(50)]
    assert sum(rows for rows, _ in echo.shapes) == 50
    # The one text of 16 that is left goes with those of 32.
    assert set(echo.shapes) == {(4, 16), (2, 32)}


def test_what_is_left_is_cut_into_powers_of_two(tokenizer):
    echo = Echo()
    assert len(ask(echo, tokenizer, [("w1", None)] * 7)) == 7
    assert echo.shapes == [(4, 16), (2, 16), (1, 16)]


def test_few_wait(tokenizer):
    echo, rows = Echo(), [("w1 " * 20, None)] + [("w2", None)] * 400

    async def first() -> list:
        async for found in answered(echo, tokenizer, iter(rows), Limits()):
            return found

    assert len(asyncio.run(first())) == MOST_WAITING + 1


def test_pairs_of_texts_are_two_rows(tokenizer):
    echo = Echo("similarity")
    found = ask(echo, tokenizer, [(f"w{n}", f"w{n + 1}") for n in range(7)])
    assert [entry["logits"] for entry in found] == [[100 * (5 + n) + 6 + n] for n in range(7)]
    assert echo.shapes == [(4, 16), (4, 16), (4, 16), (2, 16)]


def test_what_can_not_be_asked_has_its_error_and_the_others_are_answered(tokenizer):
    found = ask(Echo(), tokenizer, [("w1", None), ("", None), ("w2 " * 40, None), ("w3", None)], max_length=16)
    assert [sorted(entry) for entry in found if "error" in entry] == [["error"]] * 2
    assert "empty text" in found[1]["error"] and "sequence of 42 tokens" in found[2]["error"]
    assert [found[n]["logits"][0] for n in (0, 3)] == [6, 8]
    cut = ask(Echo(), tokenizer, [("w2 " * 40, None)], max_length=16, truncate=True)
    assert cut[0]["logits"][0] == 7


def test_parts_are_powers_of_two_and_cover_all():
    for count, most in itertools.product(range(1, 70), (1, 2, 8, 32)):
        parts = list(powers_of_two(count, most))
        assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))
        assert all((size := part.stop - part.start) <= most and size & (size - 1) == 0 for part in parts)
