"""Whether the tests of privacy would notice: classic faults, planted one by one in a copy of the project.

    python experiments/mutations.py [--fault NAME] ...

Each fault is one change of one line, which leaves all answers right and reveals something. In the copy the tests that
are named beside it run, and one of them has to fail. Writes results/mutations.json and .md.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from results import FOLDER, ROOT, Check, Entry, Results, console, run, table

PARTS = ("secformer_jax", "tests", "spu_configs", "experiments", "pyproject.toml")
SECONDS = 900


@dataclass(frozen=True)
class Fault:
    """One change of the code.

    Attributes:
        reveals: what somebody learns by it, and who.
        file: under secformer_jax/.
        old: a text that stands there once.
        new: what takes its place.
        tests: those that have to notice.
    """

    reveals: str
    file: str
    old: str
    new: str
    tests: str


MATERIAL, SHARES, DEALER = "mpc/material.py", "mpc/runtime/shares.py", "cluster/dealer/service.py"
DRAWN = "return Array(shape, bits, keys, join([expand(key, shape, bits) for key in keys]))"
FAULTS = {
    "a hole in masks": Fault(
        "a bit of every opened value, to the servers",
        MATERIAL,
        DRAWN,
        "ring = join([expand(key, shape, bits) for key in keys]) & ~(1 << 21)\n"
        "        from secformer_jax.mpc.runtime.shares import split\n"
        "        return Array(shape, bits, tuple(split(ring, [self.key() for _ in keys[1:]], bits)), ring)",
        "tests/mpc/test_material.py",
    ),
    "one key for all masks of a place": Fault(
        "differences of opened values, to the servers",
        MATERIAL,
        "keys = tuple(self.key() for _ in range(self.parties))",
        "keys = self.__dict__.setdefault('_keys', tuple(self.key() for _ in range(self.parties)))",
        "tests/mpc/test_material.py",
    ),
    "the same masks at every place": Fault(
        "differences of opened values, to the servers",
        MATERIAL,
        'return type(self)(self.parties, self._next("child"))',
        "return type(self)(self.parties, self.seed)",
        "tests/mpc/test_audit.py",
    ),
    "the same masks for every request": Fault(
        "differences of texts, to the servers",
        MATERIAL,
        "        if self._taken:\n",
        "        if False:\n",
        "tests/mpc/test_material.py",
    ),
    "masks from a clock": Fault(
        "everything, to who guesses the time",
        MATERIAL,
        "self.parties, self.seed = parties, seed or os.urandom(SEED_BYTES)",
        "import time\n        self.parties = parties\n"
        "        self.seed = seed or int(time.time()).to_bytes(SEED_BYTES, 'big')",
        "tests/mpc/test_material.py",
    ),
    "a mask one bit too narrow": Fault(
        "the top bit of opened values, to the servers",
        "mpc/primitives/fixed.py",
        "r = randomness.uniform(self.r.shape, self.width)",
        "r = randomness.uniform(self.r.shape, self.width - 1)",
        "tests/mpc/test_fixed.py",
    ),
    "an opening of all 64 bits": Fault(
        "what stands above a value's ring, to the servers",
        "mpc/runtime/exchange.py",
        'own = b"".join(pack(share[0], width).data for share, width in zip(shares, bits, strict=True))',
        'own = b"".join(pack(share[0], 64).data for share in shares)\n    bits = [64] * len(bits)',
        "tests/mpc/test_exchange.py",
    ),
    "a bit above the ring in packed shares": Fault(
        "carries of sums, to the servers",
        SHARES,
        "elements = elements & ((1 << bits) - 1)",
        "elements = elements & ((2 << bits) - 1)",
        "tests/mpc/test_shares.py",
    ),
    "weights under one mask": Fault(
        "differences of weights, to the servers",
        MATERIAL,
        "return cls({name: [os.urandom(SEED_BYTES) for _ in range(parties)] for name in shapes}, shapes)",
        "return cls(dict.fromkeys(shapes, [os.urandom(SEED_BYTES) for _ in range(parties)]), shapes)",
        "tests/mpc/test_material.py",
    ),
    "a piece kept ahead serves again": Fault(
        "differences of texts, to the servers",
        DEALER,
        "self._ahead.pop((published.deployment.name, shape), None)",
        "self._ahead.get((published.deployment.name, shape), None)",
        "tests/cluster/test_material_service.py",
    ),
    "a piece's number serves again": Fault(
        "differences of texts, to the servers",
        DEALER,
        "if not await asyncio.to_thread(self._ledger.add, piece):",
        "if await asyncio.to_thread(self._ledger.add, piece) is None:",
        "tests/cluster/test_material_service.py",
    ),
    "any input passes": Fault(
        "what a model says where no text is, to a client",
        "mpc/runtime/one_hot.py",
        "return np.logical_and.reduce([(d == 0)",
        "return np.logical_and.reduce([(d == d)",
        "tests/mpc/test_one_hot.py",
    ),
    "an audit that looks at keys alone": Fault(
        "wrong pieces pass, for a dealer that cheats",
        "mpc/audit.py",
        "    if node.of_weights:\n        return True",
        "    if True:\n        return True",
        "tests/mpc/test_audit.py",
    ),
    "keys that an audit gives away": Fault(
        "equations of the weights' masks, to a server that looks at pieces",
        MATERIAL,
        "tuple(split(ring, fresh_seeds(self.parties - 1), bits))",
        "tuple(split(ring, [self.key() for _ in range(self.parties - 1)], bits))",
        "tests/mpc/test_audit.py",
    ),
    "keys and values under one mask": Fault(
        "differences of a conversation's keys and values, to the servers",
        "cluster/dealer/conversations.py",
        "{each: fresh_seeds(parties) for each in shapes}",
        "dict.fromkeys(shapes, fresh_seeds(parties))",
        "tests/cluster/test_rooms.py",
    ),
    "a conversation of whoever names it": Fault(
        "how a text goes on, to another client",
        "cluster/party/rooms.py",
        'f"{session}/{client}/{conversation}"',
        'f"{session}/{conversation}"',
        "tests/cluster/test_rooms.py",
    ),
    "a cache with rows that are no token": Fault(
        "logits of a pass that attends to numbers of any size, to a client",
        "cluster/party/node.py",
        "self.rooms.end_soon(self._running[request].shape.conversation)",
        "pass",
        "tests/cluster/test_cluster_decoder.py",
    ),
    "shares that do not age": Fault(
        "weights, to who has one disk of today and one of last month",
        "cluster/party/aging.py",
        "pack(ring + zero(i), share.bits)",
        "pack(ring, share.bits)",
        "tests/cluster/test_aging.py",
    ),
    "revocations that are read once": Fault(
        "answers, to who has a stolen key",
        "cluster/wire/revocation.py",
        "if now is not None and now != self._read_at:",
        "if False:",
        "tests/cluster/test_revocation.py",
    ),
    "results as they were computed": Fault(
        "equations in the weights, to the dealer together with a client",
        "cluster/party/computing.py",
        "(ring + zeros.next(ring.shape),)",
        "(ring,)",
        "tests/mpc/test_zero_sharing.py",
    ),
    "shares of an input from one key": Fault(
        "differences of a client's inputs, to a server",
        SHARES,
        "return [os.urandom(SEED_BYTES) for _ in range(count)]",
        "return [b'k' * SEED_BYTES for _ in range(count)]",
        "tests/mpc/test_shares.py tests/cluster/test_cluster_parts.py",
    ),
    "a proof that is not checked": Fault(
        "everything, to who stands between the servers",
        "cluster/party/identity.py",
        'key.verify(base64.b64decode(values["signature"]), statement, ec.ECDSA(hashes.SHA256()))',
        'base64.b64decode(values["signature"])',
        "tests/cluster/test_cluster_parts.py",
    ),
    "exact ranges": Fault(
        "a fingerprint of the weights, to everybody",
        "cluster/deployment.py",
        "None if calibration is None else calibration.published()",
        'None if calibration is None else dataclasses.replace(calibration, fingerprint="")',
        "tests/cluster/test_cluster_parts.py",
    ),
}


def main(
    fault: Annotated[list[str] | None, typer.Option(help="one of them; all by default")] = None,
    fresh: Annotated[bool, typer.Option(help="measure finished cells again")] = False,
    folder: Annotated[Path, typer.Option(help="where the results go")] = FOLDER,
) -> None:
    """Plant, test, print and write."""
    results, out = Results("mutations", folder, fresh=fresh), console()
    for name in fault or FAULTS:
        results.cell(name, functools.partial(noticed, FAULTS[name]))
    rows = [
        [name, FAULTS[name].reveals, FAULTS[name].file, cell["first"] or "nothing"]
        for name, cell in results.cells.items()
        if name in FAULTS
    ]
    found = table("Faults and the first test that fails", ("fault", "reveals", "file", "noticed by"), rows)
    missed = sum(not cell["first"] for name, cell in results.cells.items() if name in FAULTS)
    results.publish(out, [found], [Check("faults that no test notices", missed, 0)])
    raise typer.Exit(int(missed > 0))


def noticed(fault: Fault) -> Entry:
    """The first test that fails with the fault; every one passes without it."""
    with tempfile.TemporaryDirectory(prefix="secformer-fault-") as temporary:
        copy = Path(temporary)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        if (sound := tested(copy, fault.tests)) is not None:
            raise SystemExit(f"{sound} fails without any fault")
        path = copy / "secformer_jax" / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.old) != 1:
            raise SystemExit(f"{fault.file} does not have {fault.old!r} once: the fault has to be written anew")
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        return {"tests": fault.tests, "first": tested(copy, fault.tests)}


def tested(folder: Path, tests: str) -> str | None:
    """The first failing test of a copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode != 1 or not lines:
        raise SystemExit(f"pytest ended with status {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return lines[0].split()[1].partition("[")[0]


if __name__ == "__main__":
    run(main)
