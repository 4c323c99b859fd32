"""README.md and docs/: tables are what results/ and the package say now, and commands are there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS, README, RESULTS = ROOT / "experiments", ROOT / "README.md", ROOT / "results"
CODE = "    secformer "


def module(name):
    """One of the experiments' modules, which import each other by their names."""
    return importlib.import_module(name)


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return module("pages")


@pytest.fixture
def readme(pages):
    return module("readme")


@pytest.fixture
def text() -> str:
    return README.read_text(encoding="utf-8")


def test_pages_are_up_to_date(pages):
    assert {README, ROOT / "docs" / "reproduction.md"} < set(pages.PAGES)
    pages.main(check=True)


def test_a_cell_of_several_lines_is_one_line(pages):
    _, _, row = module("results").markdown_rows(("prompt", "answer"), [("a | b", "1. c\n\n2. d")])
    assert row == "| a \\| b | 1. c 2. d |"


def test_another_figure_is_found_in_one_line_and_put_right(pages, readme, text, tmp_path):
    own = tmp_path / "README.md"
    found = pages.bodies("README.md", text, readme.TABLES)
    changed = text.replace(found["speed"], found["speed"].replace("| fast | ", "| fast | 9"))
    changed = changed.replace(found["families"], "")
    own.write_text(changed, encoding="utf-8")
    with pytest.raises(
        SystemExit, match=r"README\.md is not up to date: speed, families: run python experiments/pages\.py$"
    ) as refused:
        pages.write(own, readme.TABLES, check=True)
    assert "\n" not in str(refused.value) and own.read_text(encoding="utf-8") == changed
    pages.write(own, readme.TABLES, check=False)
    assert own.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<!-- table heads: end -->\n", "", "heads: 1 begin and 0 end"),
        ("<!-- table heads: end -->\n", "<!-- table heads: end -->\n" * 2, "heads: 1 begin and 2 end"),
        ("<!-- table heads: end -->\n", "<!-- table heads: end -->\n<!-- table hats: begin -->\n", "of hats"),
    ],
)
def test_other_markers_are_refused(pages, readme, text, old, new, told):
    with pytest.raises(SystemExit, match=told):
        pages.filled("README.md", text.replace(old, new), readme.TABLES)


def test_words_by_hand_fit_what_there_is(readme, monkeypatch):
    monkeypatch.setitem(readme.ASKED, "translation", ("", "infer"))
    with pytest.raises(SystemExit, match="heads: translation: add a line, or take it out"):
        readme.heads()


def test_missing_results_are_named(pages, readme, monkeypatch, tmp_path):
    monkeypatch.setattr(module("results"), "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"no results/student\.json"):
        readme.student()


def test_figures_are_those_of_the_experiments_own_pages(readme):
    """The scripts' own tables, made by other code."""
    shown = {name: (RESULTS / f"{name}.md").read_text(encoding="utf-8") for name in ("network", "accuracy")}
    for row in readme.speed():
        if row.startswith("| fast |"):
            _, side, seconds, _, _, lan, wan, *_ = (cell.strip() for cell in row.split("|"))
            assert re.search(rf"\| {side} \| {seconds} \| {lan} \(.*?\) \| .*? \| {wan} \(", shown["network"])
    found = next(row for row in readme.accuracy() if row.startswith("| drop-in |"))
    figures = [cell.strip() for cell in found.split("|")[3:-1]]
    own = next(row for row in shown["accuracy"].split("\n") if row.startswith("| drop-in | emulated |"))
    assert [cell.strip() for cell in own.split("|")[3:-1] if cell.strip()] == figures


def test_commands_have_the_options_that_readme_gives_them(text):
    from secformer_jax.cli.app import command

    lines = [line.removeprefix(CODE).split(" # ")[0] for line in text.split("\n") if line.startswith(CODE)]
    assert len(lines) > 10
    for line in lines:
        name, *words = shlex.split(re.sub(r"[\[\]]", " ", line))
        options = {option for parameter in command(name).params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_lines_are_short(text):
    prose = [line for line in text.split("\n") if not line.startswith(("|", "    "))]
    assert max(map(len, prose)) <= 120


def test_the_page_on_the_paper_has_no_figure_by_hand(pages):
    path = ROOT / "docs" / "reproduction.md"
    text = path.read_text(encoding="utf-8")
    for body in pages.bodies(path.name, text, pages.PAGES[path]).values():
        text = text.replace(body, "")
    assert re.findall(r"\d+[.,]\d+|\d+ ?%", text.replace("arXiv 2401.00793", "")) == []
