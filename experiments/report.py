"""One page with every table and figure: docs/report/index.html, made from results/ alone.

    python experiments/report.py [--results results] [--out docs/report]

It needs no network and no other file: tables can be sorted and filtered, plots are inside, and it prints well. Each
section names its command, commits, dates and machine. The plots stand beside the page as PNG files too. A section
whose results are not there says so.
"""

from __future__ import annotations

import base64
import html
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

import published
import typer
from markdown_it import MarkdownIt
from results import FOLDER, ROOT, console, markdown, run

PAGE = Path(__file__).with_name("report_page.html")
OUT = ROOT / "docs" / "report"
RENDER = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of the files in results/.
        title: a heading.
        words: what the reader is to know first.
        published: names of tables in `published` that stand beside the measured ones.
    """

    name: str
    title: str
    words: str
    published: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "accuracy",
        "Accuracy (SecFormer's Table 2)",
        "The official metric on GLUE's dev sets, of one and the same small encoder (MiniLM, 6 layers). `plain` is the "
        "fine-tuned teacher. `secformer`, `mpcformer` and `fast` need a distilled student; `puma` and `drop-in` take "
        "the teacher as it is.",
        ("table_2",),
    ),
    Section(
        "efficiency",
        "Where seconds, bytes and messages go (SecFormer's Table 3)",
        "One request in the steady state, by part of the model; then everything that it needs, dealing and masks ahead "
        "included. `linear` is the floor of SPU: the same graph without its nonlinear functions.",
        ("totals", "puma"),
    ),
    Section(
        "operators",
        "Each function alone (SecFormer's Figures 5 to 9)",
        "GeLU, softmax, LayerNorm, reciprocal and reciprocal square root at several sizes. `opened` is what `fast` and "
        "`drop-in` do.",
    ),
    Section("ablation", "From Puma to fast, one change a row", "Which idea brings what, on one runtime."),
    Section("scaling", "Growth", "With the tokens, the layers and the texts of a batch; the exponents are fitted."),
    Section(
        "network",
        "Networks",
        "Measured on a shaped link, and computed for others from bytes, messages and compute.",
        ("systems",),
    ),
    Section(
        "baseline",
        "Puma from outside",
        "Hugging Face's own FlaxBert with Puma's functions swapped in, on stock SPU, beside this package's preset.",
    ),
    Section(
        "peers",
        "CrypTen",
        "SecFormer's and Puma's functions on CrypTen, where SecFormer's paper measured them, and here, in one run. "
        "Bytes are those of one party in the mean.",
    ),
    Section("compare", "Every preset on a small model", "Bytes, messages and errors."),
    Section("cluster", "A cluster of real processes", "Mutual TLS, a dealer, several clients; memory; faults."),
    Section(
        "generate",
        "Text, token by token",
        "SmolLM2-135M-Instruct and GPT-2's shape, with a cache in shares; and Puma's way.",
    ),
    Section("perplexity", "A language model on a text that it did not write", "Beside plaintext, token by token."),
    Section("cluster_chat", "Conversations on a cluster", "Real processes over mutual TLS; two clients at once."),
    Section("dealer", "The dealer", "What is dealt ahead, and how fast."),
    Section("price", "The price of security", "A request with and without the proof, the audit and fresh shares."),
    Section("kills", "Random kills", "SIGKILL to every role under load of two clients."),
    Section("fuzz", "Fuzzed messages", "Random changes of recorded messages, at every port."),
    Section("mutations", "Planted faults", "Faults in the code that the tests have to notice."),
    Section("student", "The shipped student", "How the model that comes with the package was distilled."),
    Section("private_vectors", "Private vectors", "Embeddings of real sentences under MPC, beside the plaintext's."),
    Section("private_rampart", "Private tokens", "A token classifier under MPC, beside the plaintext."),
)


def main(
    results: Annotated[Path, typer.Option(help="where the results are")] = FOLDER,
    out: Annotated[Path, typer.Option(help="where the page goes")] = OUT,
) -> None:
    """Write the page, and the plots beside it."""
    out.mkdir(parents=True, exist_ok=True)
    body = "\n".join(section(each, results) for each in SECTIONS)
    links = "\n".join(f'<a href="#{each.name}">{html.escape(each.title)}</a>' for each in SECTIONS)
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(links=links, sections=body)
    partial = out / "index.partial"
    partial.write_text(page, encoding="utf-8")
    partial.replace(out / "index.html")
    for plot in sorted(results.glob("*.png")):
        shutil.copyfile(plot, out / plot.name)
    console().print(f"Wrote {out / 'index.html'}.")


def section(part: Section, results: Path) -> str:
    """One part of the page as HTML."""
    words = RENDER.render(part.words)
    path = results / f"{part.name}.md"
    if not path.is_file():
        missing = f"<p class=missing>Not measured: no <code>{path.name}</code> in results/.</p>"
        return f'<section id="{part.name}"><h2>{html.escape(part.title)}</h2>{words}{missing}</section>'
    about, *rest = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    about = "\n".join(about.splitlines()[1:])
    shown = [RENDER.render(f"### {each}") for each in rest]
    plots = [_image(plot) for plot in _plots(part.name, results)]
    beside = [f"<div class=published>{RENDER.render(_published(name))}</div>" for name in part.published]
    return (
        f'<section id="{part.name}"><h2>{html.escape(part.title)}</h2>{words}'
        f"<div class=about>{RENDER.render(about)}</div>{''.join([*plots, *shown, *beside])}</section>"
    )


def _published(name: str) -> str:
    return markdown(published.TABLES[name]()).replace("## ", "### ", 1)


def _plots(name: str, results: Path) -> Iterator[Path]:
    yield from sorted(path for path in results.glob(f"{name}*.png") if path.stem.split("_")[0] == name)


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}">'


if __name__ == "__main__":
    run(main)
