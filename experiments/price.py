"""What protection costs a request: the proof of its input, fresh shares of its answer, audits of the dealer, aging.

    python experiments/price.py [--fresh]

MiniLM with drop-in (a pair of 16 tokens) and BERT-base with fast (12 layers, 128 tokens, random weights) on SEMI2K with
two servers. Seconds and bytes beside those of all that a request needs, W. An audit costs a piece more: its dealing and
its making again, in `audits` of the pieces (cluster/options.py). Shares age once a session: the whole is divided by 100
requests. Writes results/price.json and .md.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from cluster_subject import minilm
from efficiency import CASES, calibrated, subject
from results import FOLDER, ROOT, Check, Entry, Results, console, run, table

from secformer_jax.cluster import store
from secformer_jax.cluster.deployment import RequestShape
from secformer_jax.cluster.options import Options
from secformer_jax.cluster.party.aging import Sealed
from secformer_jax.cluster.requirements import MASKS, WEIGHTS, mask_shapes, requirements
from secformer_jax.cluster.wire.message import shares_of, with_shares
from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.inference.private import PrivateModel
from secformer_jax.inference.serving import serving_for
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.text import Encoded
from secformer_jax.mpc.audit import OwnMasks, audit
from secformer_jax.mpc.material import Dealer, Randomness, WeightMasks, deal_nodes, material_nodes
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.shares import HELD, deal, sent_bytes, share
from secformer_jax.mpc.runtime.zero_sharing import ZeroSharing

sys.path.insert(0, str(ROOT / "tests"))
from memory_link import at_every_end

PROTOCOL, KEY, NAME, FRACTION_BITS = "SEMI2K", bytes(32), "0" * 32, 18
REQUESTS_A_SESSION, MOST = 100, 0.10
PARTS = ("proof of the input", "fresh shares of the answer", "audits", "aging")
Subject = tuple[Checkpoint, str, Calibration, Encoded]


def bert_base() -> Subject:
    """Random weights, real ranges."""
    case = CASES["base-128"]
    model, sentences = subject(case)
    return model, "fast", calibrated(case, presets.family(presets.preset("fast"))), sentences.rows(np.arange(1))


def real_minilm() -> Subject:
    """The real model."""
    found = minilm("drop-in")
    assert found.calibration is not None
    return found.model, found.preset, found.calibration, found.requests[0]


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "MiniLM, drop-in, 2 x 16 tokens": real_minilm,
    "BERT-base, fast, 1 x 128 tokens": bert_base,
}


def measure(of: Callable[[], Subject]) -> Entry:
    """Seconds and bytes of a request as a whole, and of each protection."""
    model, preset, ranges, batch = of()
    functions = presets.preset(preset)
    with PrivateModel(model, functions, "2pc_semi2k", calibration=ranges) as private:
        private(batch)
        answer = private(batch)
    result = answer.result
    check = result.profile.by_part["input"]
    serving = serving_for(model, functions, ranges, FRACTION_BITS, "client")
    rows, length = batch.input_ids.shape
    needed = requirements(serving, RequestShape(rows, length))
    sent = result.profile.total.send_bytes + sum(result.dealt_bytes) + sum(result.client_bytes)
    found = {
        "proof of the input": {"seconds": check.seconds, "bytes": 2 * check.send_bytes},
        "fresh shares of the answer": {"seconds": zeros(answer.logits.shape), "bytes": 0},
        "audits": audits(material_nodes(needed.material), mask_shapes(needed.weights)),
        "aging": aging(serving.weights(Dealer())[WEIGHTS]),
    }
    return {"whole_seconds": result.whole_seconds, "whole_bytes": sent, "parts": found}


def zeros(shape: tuple[int, ...], tries: int = 20) -> float:
    """Seconds for one party's share of zero."""

    def party(link: Any) -> float:
        sharing = ZeroSharing(link)
        started = time.perf_counter()
        for _ in range(tries):
            sharing.next(shape)
        return (time.perf_counter() - started) / tries

    return max(at_every_end(2, party))


def audits(nodes: Sequence[Any], shapes: dict[str, tuple[int, ...]]) -> Entry:
    """A piece that is dealt and made again, for the part of all pieces that is."""
    part = Options().audits / (1 - Options().audits)
    masks = WeightMasks.fresh(shapes, 2)
    randomness = Randomness(2)
    started = time.perf_counter()
    arrays = deal_nodes(nodes, randomness, masks)
    dealing = time.perf_counter() - started
    shares = [deal(x.components, "int64", x.shape, PROTOCOL, x.bits) for x in arrays]
    own = OwnMasks({name: np.asarray(masks.array(name)) for name in shapes})
    started = time.perf_counter()
    audit(nodes, randomness.seed, own, 1, {i: each[1] for i, each in enumerate(shares)})
    again = time.perf_counter() - started
    sent = sum(sent_bytes(one) for each in shares for one in each)
    return {
        "seconds": part * (dealing + again),
        "bytes": part * sent,
        "dealing_seconds": dealing,
        "again_seconds": again,
    }


def aging(weights: Any) -> Entry:
    """Reading what lies on disk and sharing it anew, beyond reading it."""
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(weights))}
    with tempfile.TemporaryDirectory(prefix="secformer-price-") as folder:
        paths = [Path(folder) / f"S{rank}.sealed" for rank in range(2)]
        writers = [store.SealedWriter(path, KEY, NAME) for path in paths]
        for name, leaf in leaves.items():
            for collection in (WEIGHTS, MASKS):
                for writer, piece in zip(writers, share(leaf, "int64", PROTOCOL, 2), strict=True):
                    writer.add(with_shares("weights", {}, {f"{collection}/{name}": piece}))
        for writer in writers:
            writer.finish()

        def read_all(records: Any) -> float:
            started = time.perf_counter()
            for record in records:
                for one in shares_of(record).values():
                    one.stacked()
            return time.perf_counter() - started

        def party(link: Any) -> tuple[float, float]:
            sealed = Sealed(paths[link.rank], KEY, NAME, link)
            before = read_all(sealed.records())
            held = HELD[PROTOCOL](link.rank)
            return before, read_all(sealed.renewed("session", held, 2, Coins(link.spawn())))

        plain, renewed = map(max, zip(*at_every_end(2, party), strict=True))
        size = sum(path.stat().st_size for path in paths)
    return {
        "seconds": (renewed - plain) / REQUESTS_A_SESSION,
        "bytes": 0,
        "session_seconds": renewed - plain,
        "disk": size,
    }


def main(
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Measure, print and write."""
    results, out = Results("price", folder, fresh=fresh), console()
    tables, checks = [], []
    for name, of in SUBJECTS.items():
        cell = results.cell(name, functools.partial(measure, of))
        whole, sent = cell["whole_seconds"], cell["whole_bytes"]
        rows = [
            (
                part,
                f"{cell['parts'][part]['seconds']:.4f}",
                f"{100 * cell['parts'][part]['seconds'] / whole:.1f}",
                f"{cell['parts'][part]['bytes'] / 1e6:,.2f}",
                f"{100 * cell['parts'][part]['bytes'] / sent:.1f}",
            )
            for part in PARTS
        ]
        columns = ("protection", "seconds a request", "% of W", "MB, all servers", "% of W's")
        title = f"{name}: W is {whole:.2f} s and {sent / 1e6:,.1f} MB; sharing anew takes "
        title += f"{cell['parts']['aging']['session_seconds']:.1f} s a session"
        tables.append(table(title, columns, rows))
        together = sum(cell["parts"][part]["seconds"] for part in PARTS) / whole
        checks.append(Check(f"{name}: all protection, part of W", together, MOST))
    results.publish(out, tables, checks)
    raise typer.Exit(int(not all(check.holds for check in checks)))


if __name__ == "__main__":
    run(main)
