"""What efficiency.py's figures have to meet, and how a part of the model's is read from a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator

from results import Check, Entry

from secformer_jax.cli.costs import NOTHING

COLUMNS = {
    "embedding": ("input", "embedding"),
    "GeLU": ("gelu",),
    "softmax": ("softmax",),
    "LayerNorm": ("layer_norm",),
    "linear": ("attention", "feed_forward"),
    "head": ("head",),
}
BASE = "base-128"
"""The case that others are compared with."""
ENCODER = ("GeLU", "softmax", "LayerNorm", "linear")


def of(entry: Entry, column: str, quantity: str) -> float:
    """A column's figure: "encoder" is all but embedding and head, "total" what was measured as a whole."""
    if column == "total":
        return entry[quantity]
    columns = ENCODER if column == "encoder" else (column,)
    parts = [part for name in columns for part in COLUMNS[name]]
    return sum(entry["by_part"].get(part, NOTHING)[quantity] for part in parts)


def layer(entry: Entry, quantity: str) -> float:
    """One layer's figure: of the 2 L + 1 equal LayerNorms, the embedding's is not a layer's."""
    depth = entry["layers"]
    norms = of(entry, "LayerNorm", quantity) * 2 * depth / (2 * depth + 1)
    return (of(entry, "encoder", quantity) - of(entry, "LayerNorm", quantity) + norms) / depth


def ratio(entries: dict[str, Entry], quantity: str, side: str = "fast", column: str = "encoder") -> float:
    """How many times less a side takes than Puma."""
    return of(entries["puma"], column, quantity) / of(entries[side], column, quantity)


def required(name: str, entries: dict[str, Entry], base: float = 15) -> Iterator[Check]:
    """The lines that a case has to meet; `base` is `efficiency.base_ratio`'s."""
    if not {"fast", "puma"} <= set(entries):
        return
    fast, puma = entries["fast"], entries["puma"]

    def whole(side: str, limit: float) -> Iterator[Check]:
        if side in entries:
            times = puma["whole_seconds"] / entries[side]["whole_seconds"]
            yield Check(
                f"{name}, all that a request needs: {side}, times faster than puma", times, limit, at_least=True
            )

    def encoder(side: str, quantity: str, limit: float, told: str = "") -> Iterator[Check]:
        if side in entries:
            what = {"seconds": "seconds", "send_bytes": "bytes"}[quantity]
            times = ratio(entries, quantity, side)
            yield Check(
                f"{name}, encoder online: {side}, times fewer {what} than puma{told}", times, limit, at_least=True
            )

    if name == BASE:
        yield from (*whole("fast", 5), *whole("drop-in", 4))
        yield from (*encoder("fast", "seconds", 10), *encoder("drop-in", "seconds", 7))
        yield from (*encoder("fast", "send_bytes", 15), *encoder("drop-in", "send_bytes", 10))
        if "linear" in entries:
            linear = entries["linear"]
            yield Check(f"{name}, whole: fast, of linear's", fast["whole_seconds"] / linear["whole_seconds"], 0.75)
            online = of(fast, "encoder", "seconds") / of(linear, "encoder", "seconds")
            yield Check(f"{name}, encoder online: fast, of linear's seconds", online, 0.35)
        sends, others = (math.ceil(layer(entry, "send_actions")) for entry in (fast, puma))
        yield Check(f"{name}: sends of a layer (puma: {others}; aim: 18)", sends, 22)
        few, many = sorted(fast["dealt_bytes"])
        yield Check(f"{name}: MB from the dealer to one server", few / 1e6, 0.1)
        yield Check(f"{name}: MB from the dealer to the other", many / 1e6, 900)
        yield Check(f"{name}: MB from the client to a server", fast["input_bytes"] / 1e6, 16)
        yield Check(f"{name}: error of logits, same functions", fast["same_functions_max_abs_error"], 0.002)
    if name == "base-512":
        yield from (*whole("fast", 5), *encoder("drop-in", "send_bytes", 10))
    if name in ("base-512", "large-128", "large-512"):
        # As good as for the shorter and smaller one, to a tenth.
        yield from encoder(
            "fast", "send_bytes", max(15, math.floor(10 * base) / 10), f" (BERT-base, 128 tokens: {base:.2f})"
        )
    if name == "base-128-aby3":
        yield from (*whole("fast", 1), *whole("drop-in", 1))
