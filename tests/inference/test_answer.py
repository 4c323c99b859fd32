"""An answer that grows: when it ends, what is shown of it and when, and what the model has still to read."""

import numpy as np
import pytest
from decoders import TOKENS, write_tokenizer

from secformer_jax.errors import UserError
from secformer_jax.inference.decoders.answer import Answer, Ending
from secformer_jax.inference.decoders.choice import Choice
from secformer_jax.models.decoders.chat import read_tokens

END = 1


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return read_tokens(write_tokenizer(tmp_path_factory.mktemp("tokens")))


def ids_of(tokens, text: str) -> list[int]:
    return tokens._tokenizer.encode(text, add_special_tokens=False).ids


def said(tokens, ids, **ending) -> tuple[Answer, list[str]]:
    """What is shown after each token that a model is made to find likeliest."""
    answer = Answer(tokens, [END], [5], Choice(), Ending(**ending))
    pieces = []
    for token in ids:
        pieces.append(answer.add(np.eye(TOKENS)[token]))
        if answer.finish:
            break
    return answer, pieces


def test_the_models_own_end(tokens):
    ids = [*ids_of(tokens, "It is"), END, 9]
    answer, pieces = said(tokens, ids)
    assert ("".join(pieces), answer.text, answer.finish) == ("It is", "It is", "stop")
    assert answer.ids == ids[:-1] and answer.unread == []


def test_the_greatest_length(tokens):
    ids = ids_of(tokens, "It is kind")
    answer, pieces = said(tokens, ids, most=2)
    assert (answer.ids, answer.finish, answer.unread) == (ids[:2], "length", ids[1:2])
    assert "".join(pieces) == tokens.text(ids[:2])


def test_a_character_of_several_tokens_comes_whole(tokens):
    text = "né \N{SNOWMAN} \N{GRINNING FACE}!"
    ids = ids_of(tokens, text)
    answer, pieces = said(tokens, ids, most=len(ids))
    assert len(ids) > len(text) and "".join(pieces) == answer.text == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    # An answer that is cut within a character says so at its end.
    answer, pieces = said(tokens, ids, most=len(ids) - 2)
    assert answer.finish == "length" and "".join(pieces) == answer.text != text
    assert answer.text.endswith("\N{REPLACEMENT CHARACTER}")


def test_a_text_that_ends_it_is_never_shown(tokens):
    """Nor is what might become one, until it is none."""
    ids = ids_of(tokens, "one\n\ntwo\nUser: three")
    answer, pieces = said(tokens, ids, most=99, stops=("\nUser:",))
    assert ("".join(pieces), answer.text, answer.finish) == ("one\n\ntwo", "one\n\ntwo", "stop")
    # The newline that begins it waits for what follows; one before another newline does not.
    assert pieces[-1] == "" and "".join(pieces[: len(ids_of(tokens, "one\n\ntwo"))]) == "one\n\ntwo"
    answer, pieces = said(tokens, ids_of(tokens, "ab\n"), most=3, stops=("\nUser:",))
    assert "".join(pieces) == answer.text == "ab\n"


def test_an_answers_length_is_hidden_in_blocks(tokens):
    ids = [*ids_of(tokens, "It is"), END]
    for block in (1, 4, len(ids), 20):
        answer, _ = said(tokens, ids, block=block)
        passes = len(ids)
        while answer.goes_on:
            assert answer.add(np.eye(TOKENS)[9]) == ""
            passes += 1
        assert passes == -(-len(ids) // block) * block
        assert (answer.text, answer.ids, answer.finish) == ("It is", ids, "stop")


def test_no_room(tokens):
    answer, pieces = said(tokens, ids_of(tokens, "a\n"), most=99, stops=("\nUser:",))
    assert answer.finish is None and "".join(pieces) == "a"
    assert (answer.end(), answer.finish) == ("\n", "length")


@pytest.mark.parametrize("ending", ({"most": 0}, {"block": 0}, {"stops": ("",)}, {"stops": ("a", "b", "c", "d", "e")}))
def test_bad_endings(ending):
    with pytest.raises(UserError, match=r"was expected|at most 4, and none empty"):
        Ending(**ending)


def test_tokens_that_were_there_weigh_less(tokens):
    """Of the prompt and of the answer."""
    answer = Answer(tokens, [END], [5], Choice(repetition_penalty=2.0), Ending())
    logits = np.zeros(TOKENS)
    logits[[5, 6, 7]] = 3.0, 2.0, 1.8
    for _ in range(3):
        answer.add(logits)
    assert answer.ids == [6, 7, 5]
