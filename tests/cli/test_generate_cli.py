"""`secformer generate` and `chat` with a small random model: answers that are plaintext's, and one line a mistake."""

import io
import json

import decoders as cases
import pytest

pytest.importorskip("spu")

from secformer_jax.cli import app as cli
from secformer_jax.functions import calibration

QUESTION = "What is it?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With ranges, as `secformer calibrate` measures them on a file of questions."""
    found = tmp_path_factory.mktemp("model")
    cases.reference("llama", found, vocab_size=cases.TOKENS, max_position_embeddings=256, eos_token_id=1)
    cases.write_tokenizer(found)
    (found / "chats.txt").write_text("What is it?\tIt is what?\nassistant\nUser\nBe kind\n")
    assert cli.run(["calibrate", "--model", str(found), "--data", str(found / "chats.txt")]) == 0
    return found


def run(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run([*map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_an_answer_is_plaintexts(folder, capsys):
    code, out, err = run(
        capsys, "generate", "--model", folder, "--prompt", QUESTION, "--max-tokens", 4, "--compare", "--json"
    )
    assert (code, err) == (0, "")
    [entry] = json.loads(out)["results"]
    assert entry["prompt"] == QUESTION and entry["answer"] == entry["plaintext_answer"]
    assert 1 <= len(entry["tokens"]) <= 4 and entry["finish"] in ("stop", "length")
    assert entry["padded"] == 16 >= entry["prompt_tokens"]
    assert entry["prompt_pass"]["send_bytes"] > entry["token_pass"]["send_bytes"] > 0


def test_the_number_of_passes_says_nothing_of_the_answer(folder, capsys):
    asked = ("generate", "--model", folder, "--prompt", QUESTION, "--json")
    entries = [json.loads(run(capsys, *asked, "--max-tokens", most, "--block", 4)[1])["results"][0] for most in (2, 4)]
    assert [entry["passes"] for entry in entries] == [4, 4] and len(entries[0]["tokens"]) <= 2


def test_what_is_drawn_is_drawn_again_from_a_seed(folder, capsys):
    """And in plaintext, too."""
    drawn = ("--temperature", 2, "--seed", 3, "--max-tokens", 4, "--compare", "--json")
    code, out, _ = run(capsys, "generate", "--model", folder, "--prompt", QUESTION, "--prompt", "kind", *drawn)
    entries = json.loads(out)["results"]
    assert code == 0 and len(entries) == 2
    assert all(entry["answer"] == entry["plaintext_answer"] for entry in entries)


def test_a_conversation_for_people(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\nIs it?\n\nnever read\n"))
    code, out, err = run(capsys, "chat", "--model", folder, "--max-tokens", 2, "--room", 64)
    assert (code, err) == (0, "") and out.count("Cost of") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "--room", 64),
        ("chat", "--config", "3pc_aby3"),
        ("generate", "--prompt", "a", "--config", "3pc_aby3"),
        ("generate", "--prompt", "a", "--compare"),
    ],
)
def test_a_cluster_has_its_own(arguments, folder, capsys):
    code, _, err = run(capsys, *arguments, "--model", folder, "--cluster", "2pc_semi2k_dealer")
    assert code == 2 and "are for this machine: a cluster has its own" in err and err.count("\n") == 1


def test_a_conversation_ends_where_there_is_no_room(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n" * 3))
    code, out, err = run(capsys, "chat", "--model", folder, "--max-tokens", 2, "--room", 17, "--json")
    assert code == 2 and "and there is room for 17" in err and err.count("\n") == 1
    assert len(json.loads(out)["results"]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"--prompt": ""}, "an empty prompt"),
        ({"--max-tokens": 0}, "at least 1 was expected"),
        ({"--temperature": -1}, "temperature is -1.0"),
        ({"--top-p": 0}, "top_p is 0.0"),
        ({"--config": "5pc"}, "5pc"),
        ({"--prompt": "a b c" * 999}, "and the model has 256 positions: ask for fewer"),
        ({"--max-tokens": 999}, "positions"),
        ({"--model": "minilm"}, "generate text"),
    ),
)
def test_mistakes(folder, capsys, changes, message):
    options = {"--model": folder, "--prompt": QUESTION, **changes}
    code, _, err = run(capsys, "generate", *(word for pair in options.items() for word in pair))
    assert (code, err.count("\n")) == (2, 1) and message in err


def test_ranges_of_another_prefix_are_measured_apart(folder, capsys):
    before = set(calibration.load_all(folder))
    code, out, _ = run(
        capsys, "calibrate", "--model", folder, "--data", folder / "chats.txt", "--system", "Be it", "--json"
    )
    [entry] = json.loads(out)["results"]
    assert code == 0 and set(calibration.load_all(folder)) == before | {entry["family"]} and len(before) == 1


def test_options_of_encoders(folder, capsys):
    code, _, err = run(capsys, "calibrate", "--model", folder, "--preset", "fast")
    assert code == 2 and "functions of its own" in err
    code, _, err = run(capsys, "calibrate", "--model", "sst2-student", "--system", "Be kind")
    assert code == 2 and "--system is for models that generate text" in err
    code, _, err = run(capsys, "infer", "--model", folder, "--text", "x")
    assert code == 2 and "secformer generate" in err
