"""docs/commands.md is what the commands say of themselves."""

import importlib.util
from pathlib import Path

import pytest
import typer

from secformer_jax.cli.app import COMMANDS, command

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "reference.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_up_to_date(script):
    script.main(check=True)


def test_a_file_that_is_not_is_refused_in_one_line(script, tmp_path, capsys):
    file = tmp_path / "commands.md"
    for spoil in (lambda: None, lambda: file.write_text(file.read_text().replace("--epochs", "--epoch"))):
        spoil()
        with pytest.raises(typer.Exit) as stopped:
            script.main(check=True, out=file)
        said = capsys.readouterr()
        assert stopped.value.exit_code == 1 and said.out == ""
        assert said.err.count("\n") == 1 and "run python experiments/reference.py" in said.err
        script.main(out=file)
        script.main(check=True, out=file)


def test_every_option_of_every_command_is_there(script):
    page = script.reference()
    sections = dict(part.split("\n", 1) for part in page.split("## secformer ")[1:])
    assert list(sections) == list(COMMANDS)
    for name, line in COMMANDS.items():
        assert f"| `{name}` | {line} |" in page and command(name).help in sections[name]
        for option in command(name).params:
            assert sum(f"`{option.opts[0]}`" in line.split("|")[1] for line in sections[name].splitlines()[4:] if line)
    assert "| `--dropout` / `--no-dropout` | flag | `--dropout` | As the model" in sections["finetune"]
    assert "| `--task` | text, repeatable | required | STS-B, SST-2" in sections["evaluate"]
    assert "| `--learning-rate` | float | `3e-05` | The greatest one. |" in sections["finetune"]


def test_the_page_does_not_depend_on_the_terminal(script, monkeypatch):
    page = script.reference()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERMINAL_WIDTH", "40")
    assert script.reference() == page


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_one_screen_in_one_style(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        command(name).main(["--help"], prog_name=f"secformer {name}")
    assert len(capsys.readouterr().out.splitlines()) <= 40
    shown = [option for option in command(name).params if option.name != "help"]
    assert shown and all(option.help and option.help.endswith(".") for option in shown)
    assert command(name).help.endswith(".") and "\n" not in command(name).help.strip()
