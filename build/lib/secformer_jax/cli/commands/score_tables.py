"""What `secformer evaluate` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from secformer_jax.cli.commands.common import Choice
from secformer_jax.cli.report import Entry, Reporter

_WHICH = ("rms", "greatest")


def print_scores(reporter: Reporter, choice: Choice, entries: Sequence[Entry]) -> None:
    """Metrics, and of several runtimes how near they are; what was asked of domains and layers below."""
    reporter.table(
        f"Dev splits, {choice}",
        ("task", "runtime", "examples", "metric", "value", "others", "seconds"),
        [
            (
                entry["task"],
                entry["runtime"],
                f"{entry['count']:,}",
                entry["metric_name"],
                f"{entry['metric']:.4f}",
                ", ".join(f"{name} {value:.4f}" for name, value in list(entry["metrics"].items())[1:]),
                f"{entry['seconds']:.1f}",
            )
            for entry in entries
        ],
    )
    pairs = [(entry, other, near) for entry in entries for other, near in entry["agreement"].items()]
    if pairs:
        reporter.table(
            "Runtimes against each other",
            ("task", "runtimes", "examples", "same predictions", "greatest difference of a logit"),
            [
                (
                    entry["task"],
                    f"{other}, {entry['runtime']}",
                    f"{near['count']:,}",
                    f"{near['same_predictions']:,}" if "same_predictions" in near else "",
                    f"{near['max_logit_difference']:.4f}",
                )
                for entry, other, near in pairs
            ],
        )
    for entry in entries:
        if entry["note"]:
            reporter.say(entry["note"])
        for line in entry.get("left_domain", ()):
            reporter.say(line)
        if entry.get("left_domain") == []:
            reporter.say(f"{entry['task']}: every value stayed in the domain of its series")
        if "layer_errors" in entry:
            _print_layers(reporter, entry)


def _print_layers(reporter: Reporter, entry: Entry) -> None:
    errors = ("approximation", "fixed_point")
    reporter.table(
        f"{entry['task']}: hidden states, and their errors: of the approximations (in floating point, against "
        "the functions that they stand for) and of fixed point (emulated against the same functions in floating point)",
        ("after", "root mean square", *(f"{name.replace('_', ' ')}, {which}" for name in errors for which in _WHICH)),
        [
            (
                row["place"],
                f"{row['rms']:.3f}",
                *(f"{row[f'{name}_{which}_error']:.5f}" for name in errors for which in ("rms", "max")),
            )
            for row in entry["layer_errors"]
        ],
    )
