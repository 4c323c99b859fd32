"""A conversation as tokens: a fixed prefix, and what follows it."""

import pytest
from decoders import write_tokenizer

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.chat import read_tokens


def test_prefix_and_prompt(tmp_path):
    tokens = read_tokens(write_tokenizer(tmp_path))
    assert tokens.text(tokens.prefix) == "system\nBe kind\n"
    prompt = tokens.prompt(["Hello?"])
    assert tokens.text(prompt) == "user\nHello?\nassistant\n"
    assert (prompt[0], prompt.count(0), prompt.count(1)) == (0, 2, 1)
    brief = read_tokens(tmp_path, "Be brief")
    assert brief.text(brief.prefix) == "system\nBe brief\n" and brief.prompt(["Hello?"]) == prompt


def test_the_next_question(tmp_path):
    """What follows an answer that has ended is what the whole conversation has there."""
    tokens = read_tokens(write_tokenizer(tmp_path))
    first, answer = tokens.prompt(["Hello?"]), tokens.prompt(["It is"])[2:4]
    said = tokens.text(answer)
    assert [*first, *answer, *tokens.next_prompt("What?")] == tokens.prompt(["Hello?", said, "What?"])


def test_a_model_without_a_template_goes_on_with_a_text(tmp_path):
    tokens = read_tokens(write_tokenizer(tmp_path, template=None))
    assert tokens.prefix == (0,)
    prompt = tokens.prompt(["What is it?"])
    assert tokens.text(prompt) == "What is it?" and tokens.next_prompt("What is it?") == prompt
    with pytest.raises(UserError, match="no chat template, and so no place for a system's prompt"):
        read_tokens(tmp_path, "Be brief")


def test_a_tokenizer_that_joins_the_prefix_with_the_question(tmp_path):
    template = (
        "{% for message in messages %}{% if loop.first %}{{ 'Be ki' }}{% endif %}"
        "{{ ('nd' if message['role'] == 'user' else 'assistant\n') + message['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    with pytest.raises(UserError, match="joins the system's prompt with the question"):
        read_tokens(write_tokenizer(tmp_path, template))


def test_no_tokenizer(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        read_tokens(tmp_path)
