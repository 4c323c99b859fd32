"""Each role of a cluster killed with SIGKILL at a random moment of a running request: who says what, and when."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cluster_subject import UNNOTICED_SECONDS, Subject, ask, processes, tiny, until_ready
from results import Entry

from secformer_jax.cluster.clients.client import ClusterClient
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.errors import UserError

CLIENTS = ("alice", "bob")
ROLES = ("S0", "S1", "worker of S0", "worker of S1", "dealer", "client", "owner")
LIMIT_SECONDS = 30.0
TOLERANCE = 0.02
_MOMENTS = 3.0


@contextlib.contextmanager
def _served() -> Iterator[tuple[LocalCluster, Subject]]:
    """A tiny model on a cluster whose runs have one request each, so that each answer has a piece of its own."""
    subject = tiny("fast")
    with (
        tempfile.TemporaryDirectory(prefix="secformer-faults-") as folder,
        LocalCluster(Path(folder), "2pc_semi2k_dealer", clients=CLIENTS, options={"batch_wait_ms": 0}) as local,
    ):
        subject.publish(local)
        asyncio.run(ask(local, "bob", subject.requests[:1]))
        yield local, subject


def kill(role: str, times: int) -> Entry:
    """Kill a role some times; each trial's seconds until it was reported and until the model was served again."""
    with _served() as (local, subject):
        trials = [_trial(local, subject, role, random.Random(f"{role} {number}")) for number in range(times)]
    return {
        "trials": trials,
        "most_report_seconds": max(trial["report_seconds"] for trial in trials),
        "most_recovery_seconds": max(trial["recovery_seconds"] for trial in trials),
        "failures": sum(bool(trial["failure"]) for trial in trials),
    }


def kills(first: int, count: int) -> Entry:
    """Random roles killed one after the other, on a cluster of their own; each is the same whenever it is tried."""
    trials = []
    with _served() as (local, subject):
        for number in range(first, first + count):
            chance = random.Random(f"kill {number}")
            role = chance.choice(ROLES)
            try:
                trials.append({"role": role, **_trial(local, subject, role, chance)})
            except UserError as error:
                # The cluster is not served again: this kill has failed, and no later one can be tried here.
                never = {"moment": 0.0, "report_seconds": 0.0, "recovery_seconds": math.inf, "pieces": []}
                trials.append({"role": role, **never, "failure": str(error)})
                break
    pieces = [piece for trial in trials for piece in trial.pop("pieces")]
    return {"trials": trials, "pieces": len(pieces), "pieces_twice": len(pieces) - len(set(pieces))}


def _trial(local: LocalCluster, subject: Subject, role: str, chance: random.Random) -> Entry:
    until_ready(local, stays=0)
    before = processes(local)
    outside = role in ("client", "owner")
    asking = [] if outside else [_Asking(local, subject, client) for client in CLIENTS]
    victim = _outsider(local, subject, role) if outside else None
    moment = chance.uniform(0.2, _MOMENTS) + (4 if outside else 0)
    time.sleep(moment)
    killed, clock = time.monotonic(), datetime.datetime.now(datetime.UTC)
    if victim is not None:
        victim.kill()
        victim.join()
        failure, reported = "", 0.0
    else:
        os.kill(before[role], signal.SIGKILL)
        if role in local.processes:
            local.processes[role].wait()
        failures = [each.failure(killed) for each in asking]
        failure, reported = next((text for text, _ in failures if text), ""), max(seconds for _, seconds in failures)
        # What an init system would do; the others go on by themselves.
        if role in local.processes:
            local.start(role)
    failure = failure or _silent(local, role, clock)
    recovery = until_ready(local, UNNOTICED_SECONDS if role == "dealer" else 0)
    for attempt in range(2):
        try:
            [answer] = asyncio.run(ask(local, "bob", subject.requests[:1]))
        except UserError as error:
            # A dealer's loss can go unnoticed until the next request; that one may fail, too.
            failure = failure or (str(error) if attempt else "")
            continue
        if subject.error(0, answer) > TOLERANCE:
            failure = failure or f"wrong by {subject.error(0, answer)}"
        break
    gone = [name for name, process in local.processes.items() if process.poll() is not None]
    restarted = [name for name, process in local.processes.items() if name != role and process.pid != before[name]]
    return {
        "moment": moment,
        "report_seconds": reported,
        "recovery_seconds": recovery,
        "failure": failure or ", ".join(gone + restarted),
        "pieces": [piece for each in asking for piece in each.pieces],
    }


class _Asking:
    """A client that asks until it fails."""

    def __init__(self, local: LocalCluster, subject: Subject, client: str) -> None:
        self._error, self._when, self._worst = "", 0.0, 0.0
        self.pieces: list[str] = []
        self._thread = threading.Thread(target=self._ask, args=(local, subject, client), daemon=True)
        self._thread.start()

    def _ask(self, local: LocalCluster, subject: Subject, client: str) -> None:
        try:
            asyncio.run(self._ask_on(local, subject, client))
        except UserError as error:
            self._error, self._when = str(error), time.monotonic()

    async def _ask_on(self, local: LocalCluster, subject: Subject, client: str) -> None:
        async with ClusterClient(local.cluster, client) as asking:
            for index in itertools.count():
                answer = await asking.infer(subject.requests[index % len(subject.requests)])
                self._worst = max(self._worst, subject.error(index, answer))
                # Both servers' receipts name the piece: once is enough.
                self.pieces.append(json.loads(answer.transcript[-1]["text"])["piece"])

    def failure(self, killed: float) -> tuple[str, float]:
        """What is wrong with how it ended ("" if nothing is), and seconds until it did."""
        self._thread.join(2 * LIMIT_SECONDS)
        if not self._error:
            return "the client hangs", 2 * LIMIT_SECONDS
        if self._worst > TOLERANCE:
            return f"wrong by {self._worst}", 0.0
        wrong = f"more than a line: {self._error!r}" if "\n" in self._error else ""
        return wrong, max(0.0, self._when - killed)


def _outsider(local: LocalCluster, subject: Subject, role: str):
    """A client or an owner as a process of its own."""
    target = _publish if role == "owner" else _ask_for_ever
    process = multiprocessing.get_context("spawn").Process(target=target, args=(local.path, subject), daemon=True)
    process.start()
    return process


def _publish(path: Path, subject: Subject) -> None:
    subject.publish(_Running(path))


def _ask_for_ever(path: Path, subject: Subject) -> None:
    asyncio.run(ask(_Running(path), "alice", subject.requests * 200))


class _Running(LocalCluster):
    """The cluster as another process sees it: its file alone."""

    def __init__(self, path: Path) -> None:
        from secformer_jax.cluster import config

        self.path, self.cluster = path, config.load(path)


def _silent(local: LocalCluster, role: str, since: datetime.datetime) -> str:
    """Which of the other servers said nothing within the limit."""
    if role in ("client", "owner"):
        return ""
    waiting = {name for name in local.cluster.parties if name != role}
    ends = time.monotonic() + LIMIT_SECONDS
    while waiting and time.monotonic() < ends:
        waiting -= {name for name in waiting if _warned(local.log(name), since)}
        time.sleep(0.2)
    return f"silent: {', '.join(sorted(waiting))}" if waiting else ""


def _warned(log: Path, since: datetime.datetime) -> bool:
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        when = datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00"))
        if when >= since - datetime.timedelta(milliseconds=5) and entry["level"] == "warning":
            return True
    return False
