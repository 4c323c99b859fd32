"""README.md: its tables are what results/ and the package say now, and its commands are there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
CODE = "    secformer "


@pytest.fixture
def readme(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("readme")


@pytest.fixture
def text(readme) -> str:
    return readme.README.read_text(encoding="utf-8")


def test_readme_is_up_to_date(readme, text):
    assert readme.filled(text) == text
    readme.main(check=True)


def test_every_table_has_its_markers_once(readme, text):
    for name in readme.TABLES:
        assert [text.count(marker) for marker in readme.markers(name)] == [1, 1]


def test_another_figure_is_found_in_one_line_and_put_right(readme, text, tmp_path, monkeypatch):
    own = tmp_path / "README.md"
    monkeypatch.setattr(readme, "README", own)
    speed, families = readme.bodies(text)["speed"], readme.bodies(text)["families"]
    changed = text.replace(speed, speed.replace("| fast | ", "| fast | 9")).replace(families, "")
    own.write_text(changed, encoding="utf-8")
    with pytest.raises(
        SystemExit, match=r"not up to date: speed, families: run python experiments/readme\.py$"
    ) as refused:
        readme.main(check=True)
    assert "\n" not in str(refused.value) and own.read_text(encoding="utf-8") == changed
    readme.main(check=False)
    assert own.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<!-- table heads: end -->\n", "", "heads: 1 begin and 0 end"),
        ("<!-- table heads: end -->\n", "<!-- table heads: end -->\n" * 2, "heads: 1 begin and 2 end"),
        ("<!-- table heads: end -->\n", "<!-- table heads: end -->\n<!-- table hats: begin -->\n", "of hats"),
    ],
)
def test_other_markers_are_refused(readme, text, old, new, told):
    with pytest.raises(SystemExit, match=told):
        readme.filled(text.replace(old, new))


def test_words_by_hand_fit_what_there_is(readme, monkeypatch):
    monkeypatch.setitem(readme.ASKED, "translation", ("", "infer"))
    with pytest.raises(SystemExit, match="heads: translation: add a line, or take it out"):
        readme.heads()


def test_missing_results_are_named(readme, monkeypatch, tmp_path):
    monkeypatch.setattr(readme, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"no results/student\.json"):
        readme.student()


def test_figures_are_those_of_the_experiments_own_pages(readme):
    """The scripts' own tables, made by other code."""
    pages = {name: (readme.FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in ("network", "accuracy")}
    for row in readme.speed():
        if row.startswith("| fast |"):
            _, side, seconds, _, _, lan, wan, *_ = (cell.strip() for cell in row.split("|"))
            assert re.search(rf"\| {side} \| {seconds} \| {lan} \(.*?\) \| .*? \| {wan} \(", pages["network"])
    found = next(row for row in readme.accuracy() if row.startswith("| drop-in |"))
    figures = [cell.strip() for cell in found.split("|")[3:-1]]
    own = next(row for row in pages["accuracy"].split("\n") if row.startswith("| drop-in | emulated |"))
    assert [cell.strip() for cell in own.split("|")[3:-1] if cell.strip()] == figures


def test_commands_have_the_options_that_readme_gives_them(text):
    from secformer_jax.cli.app import app

    commands = typer.main.get_command(app).commands
    lines = [line.removeprefix(CODE).split(" # ")[0] for line in text.split("\n") if line.startswith(CODE)]
    assert len(lines) > 10
    for line in lines:
        name, *words = shlex.split(re.sub(r"[\[\]]", " ", line))
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_lines_are_short(text):
    prose = [line for line in text.split("\n") if not line.startswith(("|", "    "))]
    assert max(map(len, prose)) <= 120
