"""What the pages of docs/ show of results/ (`pages.py` writes it): tables of the experiments' own pages, and memory."""

from __future__ import annotations

import re
from collections.abc import Callable

import efficiency
from results import FOLDER, markdown_rows, read


def tables_of(name: str, *beginnings: str) -> Callable[[], list[str]]:
    """Those tables of results/NAME.md whose titles begin so."""

    def lines() -> list[str]:
        path = FOLDER / f"{name}.md"
        if not path.is_file():
            raise SystemExit(f"no results/{path.name}: its experiment has to be run first")
        _, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        chosen = [section.strip().split("\n") for section in sections if section.startswith(beginnings)]
        if not chosen:
            raise SystemExit(f"results/{path.name} has no table whose title begins with {' or '.join(beginnings)}")
        return [line for title, *rest in chosen for line in ("", f"{title}:", *rest)][1:]

    return lines


def peaks() -> list[str]:
    """Memory at the peak, by model and side."""
    cells, sides = read("efficiency")["cells"], ("fast", "drop-in", "puma")
    rows = []
    for case in (efficiency.CASES[name] for name in efficiency.MODELS):
        found = [cells.get(case.key(side)) for side in sides]
        if any(found):
            figures = ["" if e is None else f"{e['peak_memory_bytes'] / 1e9:.1f}" for e in found]
            rows.append([f"{case.shape}, {case.layers} layers, {case.length} tokens", *figures])
    return markdown_rows(("GB at the peak", *sides), rows)


TABLES = {
    "cluster.md": {"cluster": tables_of("cluster", "Requests", "Megabytes after", "Killed")},
    "dealer.md": {"dealer": tables_of("dealer", "minilm")},
    "guide/generation.md": {
        "costs": tables_of("generate", "A prompt", "A token", "2 guesses"),
        "cluster": tables_of("cluster_chat", "Conversations", "Memory"),
        "perplexity": tables_of("perplexity", "Perplexity"),
    },
    "performance.md": {"memory": peaks},
    "security.md": {"price": tables_of("price", "MiniLM", "BERT-base")},
}
"""By page, what makes the lines of each of its tables."""
