"""Figures of other systems, each with its source and how sure it is; none of them was measured here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from results import table
from rich.table import Table


class System(NamedTuple):
    """A system's figures for one request of BERT-base, 128 tokens; bytes as its source counts them.

    None is what the source does not say; `reported` are seconds, compute included, and where they were measured.
    """

    megabytes: float
    messages: int | None
    reported: str
    source: str


SYSTEMS = {
    "FuseFSS (published)": System(
        891, 1_116, "1.15 on 2 GPUs; 3.36 and 9.94 by its formula, bytes twice", "ICML 2026, evaluation file: read"
    ),
    "SIGMA (published)": System(1_060, 1_128, "1.61 on GPUs", "PETS 2024: read"),
    "SHAFT (its own code)": System(5_625, 1_495, "30.3, 16.2 without its provider", "NDSS 2025: run on 2 cores"),
    "Puma (published)": System(10_800, None, "33.9, 3 parties, 5 Gbit/s, 0.5 ms", "arXiv 2307.12533: read"),
    "Mosformer (published)": System(1_150, None, "20.1, 3 parties", "CCS 2025: from a digest"),
    "BumbleBee (published)": System(6_400, None, "185, no dealer", "NDSS 2025: from Mosformer's digest"),
}

TASKS = ("QNLI", "CoLA", "STS-B", "MRPC", "RTE")
TABLE_2 = {
    "BERT-base plain, and Puma": (91.7, 57.8, 89.1, 90.3, 69.7),
    "BERT-base MPCFormer without distillation": (69.8, 0.0, 36.1, 81.2, 52.7),
    "BERT-base MPCFormer": (90.6, 52.6, 80.3, 88.7, 64.9),
    "BERT-base SecFormer without distillation": (89.3, 57.0, 86.2, 83.8, 63.2),
    "BERT-base SecFormer": (91.2, 57.1, 87.4, 89.2, 69.0),
    "BERT-large plain, and Puma": (92.4, 61.7, 90.2, 90.6, 75.5),
    "BERT-large MPCFormer": (87.8, 0.0, 52.1, 81.4, 59.2),
    "BERT-large SecFormer": (92.0, 61.3, 89.2, 88.7, 72.6),
}
"""SecFormer, arXiv 2401.00793, Table 2; recalled, and its row averages agree with the abstract."""

TOTALS = {
    "SecFormer": (19.5, 39.0),
    "MPCFormer": (19.0, 38.0),
    "Puma, on CrypTen": (70.0, 140.0),
}
"""SecFormer's Table 3: seconds of BERT-base and BERT-large, 512 tokens, CrypTen on GPUs; quoted by others."""

FASTER = {"BERT-base": 3.57, "BERT-large": 3.58}
"""SecFormer's abstract, read: times faster than Puma."""

PUMA = {
    "BERT-base, 64 tokens": (21.1, 4.9),
    "BERT-base, 128 tokens": (33.9, 10.8),
    "BERT-base, 256 tokens": (61.2, 26.0),
    "BERT-large, 128 tokens": (73.7, 27.2),
    "RoBERTa-base, 128 tokens": (41.6, 11.5),
}
"""Puma, arXiv 2307.12533, read: seconds and gigabytes of one sentence, three servers of 32 cores, 5 Gbit/s, 1 ms."""


def table_2() -> Table:
    """Accuracy on GLUE's dev sets."""
    rows = [[side, *(f"{x:.1f}" for x in row), f"{sum(row) / len(row):.1f}"] for side, row in TABLE_2.items()]
    return table("Published: SecFormer's Table 2 (recalled; its averages agree)", ("", *TASKS, "mean"), rows)


def totals() -> Table:
    """Seconds of a request."""
    rows = [[side, *(f"{x:.1f}" for x in row)] for side, row in TOTALS.items()]
    title = "Published: SecFormer's totals, seconds, 512 tokens, CrypTen on GPUs (quoted by others)"
    return table(title, ("", "BERT-base", "BERT-large"), rows)


def puma() -> Table:
    """Seconds and gigabytes of Puma."""
    rows = [[case, *(f"{x:.1f}" for x in row)] for case, row in PUMA.items()]
    return table("Published: Puma, three servers of 32 cores, 5 Gbit/s (read)", ("", "seconds", "GB"), rows)


def systems() -> Table:
    """What later systems say of BERT-base at 128 tokens."""
    rows = [
        [name, s.source, s.reported, f"{s.megabytes:,.0f}", "" if s.messages is None else f"{s.messages:,}"]
        for name, s in SYSTEMS.items()
    ]
    title = "Published: BERT-base, 128 tokens"
    return table(title, ("system", "source", "seconds", "MB", "messages"), rows, text_columns=3)


TABLES: dict[str, Callable[[], Table]] = {"table_2": table_2, "totals": totals, "puma": puma, "systems": systems}
