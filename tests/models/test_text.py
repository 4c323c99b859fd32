import json
import shutil

import numpy as np
import pytest
import tokenizers
import transformers

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.text import Tokenizer, padded_length

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "é", "e"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


def test_encode_and_pad(folder):
    encoded = Tokenizer(folder).encode(["A bd", "c"], max_length=8)
    np.testing.assert_array_equal(encoded.input_ids, [[2, 5, 6, 8, 3, 0, 0, 0], [2, 7, 3, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(encoded.attention_mask, [[1] * 5 + [0] * 3, [1] * 3 + [0] * 5])
    assert not encoded.token_type_ids.any()
    assert (encoded.input_ids.dtype, encoded.attention_mask.dtype) == (np.int32, np.float32)


def test_pairs(folder):
    encoded = Tokenizer(folder).encode(["a"], ["b c"])
    assert encoded.input_ids.shape == (1, 16)
    np.testing.assert_array_equal(encoded.input_ids[0, :6], [2, 5, 3, 6, 7, 3])
    np.testing.assert_array_equal(encoded.token_type_ids[0, :7], [0, 0, 0, 1, 1, 1, 0])


def test_truncation_cuts_the_longer_first(folder):
    tokenizer = Tokenizer(folder)
    encoded = tokenizer.encode(["a a a a a a"], ["b"], max_length=7, truncate=True)
    np.testing.assert_array_equal(encoded.input_ids, [[2, 5, 5, 5, 3, 6, 3]])
    assert tokenizer.encode(["a " * 600], truncate=True).input_ids.shape == (1, 512)
    assert tokenizer.encode(["a " * 20]).attention_mask.sum() == 22


@pytest.mark.parametrize(("tokens", "length"), [(1, 16), (16, 16), (17, 32), (129, 256), (512, 512)])
def test_padded_length(tokens, length):
    assert padded_length(tokens) == length


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [""]}, "empty text"),
        ({"texts": ["a"], "text_pairs": [" \n"]}, "empty text"),
        ({"texts": []}, "no text"),
        ({"texts": ["a", "b"], "text_pairs": ["c"]}, "2 texts and 1 pairs"),
        (
            {"texts": ["a " * 210], "max_length": 128},
            "sequence of 212 tokens, and the limit is 128: pass --max-length 256 or --truncate$",
        ),
        ({"texts": ["a " * 600]}, "sequence of 602 tokens, and the limit is 512: pass --truncate$"),
        (
            {"texts": ["a b"], "max_length": 2, "truncate": True},
            "--max-length 2 leaves no room for text: pass at least 3",
        ),
    ],
)
def test_bad_input(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        Tokenizer(folder).encode(**arguments)


def test_bad_folders(folder, tmp_path):
    with pytest.raises(UserError, match="has 11 tokens, and the model has 10"):
        Tokenizer(folder, Architecture(vocab_size=10))
    with pytest.raises(UserError, match="no tokenizer in"):
        Tokenizer(tmp_path / "absent")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        Tokenizer(folder)


UNICODE = [
    "\ud800 lone surrogates \udfff",
    "\ud83d\ude00 a pair of surrogates",
    "\U0001f469\u200d\U0001f52c and \u0645\u0631\u062d\u0628\u0627 and \u4f60\u597d and e\u0301",
    "null \x00, bell \x07, line \u2028 ends \x85",
    "\u200b",
    "\ufffd\ufffe\uffff\U0010ffff",
]


@pytest.mark.parametrize("text", UNICODE, ids=ascii)
def test_any_unicode(folder, minilm, text):
    for directory in (folder, minilm.tokenizer_dir):
        encoded = Tokenizer(directory).encode([text], [text], max_length=128)
        assert encoded.attention_mask.sum() >= 3


def test_case_follows_the_folder(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    np.testing.assert_array_equal(Tokenizer(folder).encode(["A é"]).input_ids[0, :4], [2, 1, 9, 3])
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    np.testing.assert_array_equal(Tokenizer(folder).encode(["A é"]).input_ids[0, :4], [2, 5, 10, 3])


def test_equals_transformers(minilm, tmp_path):
    texts = ["Hello, World! caf\u00e9 (3.14) unbelievably", "don't \u4f60\u597d \u2014 stop", *UNICODE[2:4]]
    pairs = texts[::-1]
    reference = transformers.BertTokenizerFast.from_pretrained(minilm.tokenizer_dir)
    expected = reference(texts, pairs, padding="max_length", max_length=64, return_tensors="np")
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(minilm.tokenizer_dir / name, tmp_path / name)
    for directory in (minilm.tokenizer_dir, tmp_path):
        encoded = Tokenizer(directory, minilm.config).encode(texts, pairs, max_length=64)
        np.testing.assert_array_equal(encoded.input_ids, expected["input_ids"])
        np.testing.assert_array_equal(encoded.token_type_ids, expected["token_type_ids"])
        np.testing.assert_array_equal(encoded.attention_mask, expected["attention_mask"])


SENTENCES = ["The train to the coast leaves at nine.", "Le train part à neuf heures, n'est-ce pas?", "東京 is far 😀"]


def byte_level(folder):
    """A byte-level BPE tokenizer as RoBERTa has it, in its older files: vocab.json and merges.txt."""
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES * 3, vocab_size=320, min_frequency=1, special_tokens=special)
    trained.save_model(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    return Architecture(vocab_size=trained.get_vocab_size(), pad_token_id=1, type_vocab_size=1, model_type="roberta")


def unigram(folder):
    """A unigram tokenizer as XLM-RoBERTa has it, in tokenizer.json."""
    trained = tokenizers.SentencePieceUnigramTokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES * 3, vocab_size=120, special_tokens=special, unk_token="<unk>")
    ends = ("</s>", 2), ("<s>", 0)
    trained._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ends, trim_offsets=False)
    trained.save(str(folder / "tokenizer.json"))
    return Architecture(
        vocab_size=trained.get_vocab_size(), pad_token_id=1, type_vocab_size=1, model_type="xlm-roberta"
    )


@pytest.mark.parametrize("make", [byte_level, unigram])
def test_other_kinds_of_tokenizers(tmp_path, make):
    config = make(tmp_path)
    encoded = Tokenizer(tmp_path, config).encode(SENTENCES, SENTENCES[::-1], keep_tokens=True)
    assert encoded.input_ids.max() < config.vocab_size and not encoded.token_type_ids.any()
    assert set(encoded.input_ids[encoded.attention_mask == 0]) <= {1}
    for row, (text, pair) in enumerate(zip(SENTENCES, SENTENCES[::-1], strict=True)):
        tokens = encoded.tokens[row]
        assert len(tokens) == encoded.attention_mask[row].sum() and tokens[0][:2] == ("<s>", None)
        # What the tokens cover is the text, but for its spaces; a character of several bytes may be cut in tokens.
        for which, whole in enumerate((text, pair)):
            covered = {i for token in tokens if token.text == which for i in range(token.start, token.end)}
            assert covered == {i for i, character in enumerate(whole) if not character.isspace()}


def test_older_files_equal_transformers(tmp_path):
    config = byte_level(tmp_path)
    reference = transformers.RobertaTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    expected = reference(SENTENCES, padding="max_length", max_length=128, return_tensors="np")["input_ids"]
    encoded = Tokenizer(tmp_path, config).encode(SENTENCES, max_length=128)
    np.testing.assert_array_equal(encoded.input_ids, expected)


def test_lower_case_as_sentence_transformers_has_it(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    np.testing.assert_array_equal(Tokenizer(folder).encode(["A"]).input_ids[0, :3], [2, 5, 3])
