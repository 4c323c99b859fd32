"""Files of texts: every format's rows, and what is wrong with some."""

import json

import pytest

from secformer_jax.errors import UserError
from secformer_jax.files.rows import Columns, Table

CSV = 'id,text,text_pair\n1,"a, ""b""\nc",x\n2,only\n3,d,y\n'


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path, **columns):
    return list(Table(path, Columns(**columns)).rows())


def test_csv(tmp_path):
    first, second, third = rows(write(tmp_path / "a.csv", CSV), kept=("id",))
    assert (first.number, first.place, first.text, first.pair, first.kept) == (
        1,
        "line 2",
        'a, "b"\nc',
        "x",
        {"id": "1"},
    )
    assert (second.place, second.error) == ("line 4", "2 fields, and the header has 3")
    assert (third.place, third.text, third.error) == ("line 5", "d", "")


def test_csv_with_a_mark_of_its_encoding_and_bytes_of_another(tmp_path):
    first, second = rows(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\nok\ncaf\xe9\n"))
    assert first.text == "ok" and second.error == "not UTF-8"


def test_tabs(tmp_path):
    [row] = rows(write(tmp_path / "a.tsv", "sentence\tlabel\na, b\t1\n"), text="sentence")
    assert row.text == "a, b"


def test_json_lines(tmp_path):
    lines = ['{"text": "a", "n": 1}', "", "{", "[1]", '{"other": 1}', '{"text": 3}', '{"text": "b"}']
    found = rows(write(tmp_path / "a.jsonl", "\n".join(lines)), kept=("n",))
    assert [row.text for row in found if not row.error] == ["a", "b"]
    assert [row.number for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row.place for row in found] == [f"line {n}" for n in (1, 3, 4, 5, 6, 7)]
    assert [row.error.split(":")[0] for row in found if row.error] == [
        "no JSON",
        "no JSON object",
        "text is missing",
        "text is no text but int",
    ]
    assert found[0].kept == {"n": 1} and found[-1].kept == {"n": None}


def test_half_a_character_is_a_bad_row(tmp_path):
    """No encoding has it: the file of answers could not be written."""
    lines = [
        r'{"text": "nice \ud83d", "n": 1}',
        r'{"text": "a", "n": {"m": ["\ude00"]}}',
        r'{"text": "nice \ud83d\ude00", "n": 2}',
    ]
    found = rows(write(tmp_path / "a.jsonl", "\n".join(lines)), kept=("n",))
    assert [row.error for row in found] == ["not UTF-8", "not UTF-8", ""] and found[2].text == "nice 😀"


def test_deep_json_is_a_bad_row(tmp_path):
    good, bad = rows(write(tmp_path / "a.jsonl", '{"text": "a"}\n' + "[" * 100_000))
    assert good.text == "a" and bad.error.startswith("no JSON")


def test_text(tmp_path):
    assert [row.text for row in rows(write(tmp_path / "a.txt", "a\n\nb"))] == ["a", "", "b"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", None], "n": [1, 2]}), tmp_path / "a.parquet")
    good, bad = rows(tmp_path / "a.parquet", kept=("n",))
    assert (good.place, good.text, good.kept) == ("row 1", "a", {"n": 1})
    assert bad.error == "text is missing"
    with pytest.raises(UserError, match="no Parquet file"):
        rows(write(tmp_path / "b.parquet", json.dumps({})))


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("a.csv", "a,b\n1,2\n", {}, "no column 'text', and a, b are there: pass --text-column"),
        ("a.csv", "text\n1\n", {"pair": "b"}, "no column 'b'.*--pair-column"),
        ("a.csv", "text\n1\n", {"kept": ("c",)}, "no column 'c'.*--keep"),
        ("a.csv", "text,text\n1,2\n", {}, "a column twice"),
        ("a.csv", "text\n", {}, "no row"),
        ("a.csv", "", {}, "no row"),
        ("a.jsonl", "1\n2\n", {}, "no row that can be read"),
        ("a.xlsx", "", {}, "read from .csv, .tsv, .jsonl, .parquet, .txt"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, columns, said):
    with pytest.raises(UserError, match=said):
        Table(write(tmp_path / name, content), Columns(**columns))


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no file"):
        Table(tmp_path / "none.csv", Columns())


def test_the_only_column_needs_no_name(tmp_path):
    [row] = rows(write(tmp_path / "a.csv", "sentence\nhello\n"))
    assert row.text == "hello"
