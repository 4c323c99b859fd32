"""A conversation as tokens: a fixed prefix, what follows it, and an answer that comes piece by piece."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.tokens import ChatTokens

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def folder_with(path, template, special):
    """Bytes as tokens, and the special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["system\nBe kind", "What is it? It is", "assistant", "user", "\n\n\n"] * 9
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return path


def test_prefix_and_prompt(tmp_path):
    tokens = ChatTokens(folder_with(tmp_path, TEMPLATE, SPECIAL))
    assert tokens.text(tokens.prefix) == "system\nBe kind\n"
    prompt = tokens.prompt(["Hello?"])
    assert tokens.text(prompt) == "user\nHello?\nassistant\n"
    assert (prompt[0], prompt.count(0), prompt.count(1)) == (0, 2, 1)
    brief = ChatTokens(tmp_path, "Be brief")
    assert brief.text(brief.prefix) == "system\nBe brief\n" and brief.prompt(["Hello?"]) == prompt


def test_a_character_of_several_tokens_comes_whole(tmp_path):
    tokens = ChatTokens(folder_with(tmp_path, TEMPLATE, SPECIAL))
    answer = "né \N{SNOWMAN} \N{GRINNING FACE}!"
    ids = tokens.prompt([answer])[2:]
    ids = ids[: ids.index(1)]
    pieces = list(tokens.pieces(iter(ids)))
    whole = tokens.text(ids)
    assert answer in whole and "".join(pieces) == whole
    assert len(ids) > len(whole) and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    # An answer that is cut within a character says so at its end.
    cut = ids[: len(ids) - 2]
    assert "".join(tokens.pieces(iter(cut))) == tokens.text(cut)


def test_a_tokenizer_that_joins_the_prefix_with_the_question(tmp_path):
    template = (
        "{% for message in messages %}{% if loop.first %}{{ 'Be ki' }}{% endif %}"
        "{{ ('nd' if message['role'] == 'user' else 'assistant\n') + message['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    with pytest.raises(UserError, match="joins the system's prompt with the question"):
        ChatTokens(folder_with(tmp_path, template, SPECIAL))


def test_no_tokenizer(tmp_path):
    folder_with(tmp_path, TEMPLATE, SPECIAL)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        ChatTokens(tmp_path)
