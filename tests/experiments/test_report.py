"""The page of all results: every table and plot of results/ is in it, and a browser shows it without an error."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("markdown_it")

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


def build(results: Path, out: Path) -> str:
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), "--results", str(results), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return (out / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("report")
    return out, build(RESULTS, out)


def test_every_table_and_plot_is_there(page):
    out, text = page
    for written in RESULTS.glob("*.md"):
        headings = re.findall(r"^## (.*)$", written.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings and all(
            f"<h3>{heading[:20]}".replace("'", "&#x27;") in text.replace("'", "&#x27;") for heading in headings
        )
    plots = {path.name for path in RESULTS.glob("*.png")}
    assert plots == {path.name for path in out.glob("*.png")} and text.count("<img ") == len(plots)


def test_each_section_names_its_command_and_machine(page):
    _, text = page
    for written in RESULTS.glob("*.json"):
        found = json.loads(written.read_text(encoding="utf-8"))
        if "cells" in found:
            section = text.split(f'<section id="{written.stem}">')[1].split("</section>")[0]
            assert f"<code>{found['command']}" in section and found["machine"] in section


def test_it_needs_no_network(page):
    _, text = page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)


def test_published_figures_are_marked(page):
    _, text = page
    assert text.count("<div class=published>") == 4 and text.count("<h3>Published: ") == 4


def test_what_was_not_measured_is_said(tmp_path):
    (tmp_path / "results").mkdir()
    text = build(tmp_path / "results", tmp_path / "report")
    assert "Not measured: no <code>efficiency.md</code> in results/" in text


def test_a_table_cannot_bring_a_script(tmp_path):
    (tmp_path / "results").mkdir()
    table = "| a |\n| --- |\n| <script>alert(1)</script> |"
    (tmp_path / "results" / "dealer.md").write_text(f"# dealer\n\nWritten.\n\n## Table\n\n{table}\n")
    assert "<script>alert" not in build(tmp_path / "results", tmp_path / "report")


def test_a_browser_shows_it_without_an_error(page):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here: Debian's package chromium has one")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"file://{page[0] / 'index.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "CONSOLE" not in done.stderr
    # What the page's own script made: a frame around each table.
    assert done.stdout.count('<div class="scroll">') == done.stdout.count("<table>") > 20
