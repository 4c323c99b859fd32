"""What the operators of a cluster choose, in the cluster file's "secformer"."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError

MAX_ROWS = 32
"""The most texts in a run."""
KEYS = ("batch_wait_ms", "batch_tokens", "runs_in_flight", "link_sources", "operators", "answers", "audits")


@dataclass(frozen=True)
class Batching:
    """Which requests are computed in one run: those of one size that come within a waiting time.

    Attributes:
        wait_seconds: how long the first one waits for others; 0: each has a run of its own.
        tokens: the most tokens, padding included, in a run; a single text may have more.
    """

    wait_seconds: float = 0.01
    tokens: int = 512

    def rows(self, length: int, unit: int = 1) -> int:
        """The most texts of a request: a power of two.

        Args:
            length: padded, of each.
            unit: texts that one answer takes, 1 or 2.
        """
        return max(unit, 1 << (min(MAX_ROWS, max(1, self.tokens // length)).bit_length() - 1))

    def most(self, rows: int, length: int) -> int:
        """How many requests of a size share a run at most."""
        if not self.wait_seconds:
            return 1
        return max(1, min(self.tokens // (rows * length), MAX_ROWS // rows))


@dataclass(frozen=True)
class Options:
    """All of it.

    Attributes:
        batching: which requests share a run.
        runs_in_flight: how many runs the parties have in hand at a time, those included that are only prepared.
        link_sources: networks from which parties connect to each other, beside the addresses of their links.
        operators: who may see status and metrics, beside the servers and the owner.
        answers: how many texts a client may have answered in all, by its name; nobody else has a limit.
        audits: which part of the dealer's pieces two servers look at instead of using them.
    """

    batching: Batching = Batching()
    runs_in_flight: int = 1
    link_sources: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    answers: Mapping[str, int] = field(default_factory=dict)
    audits: float = 0.05

    @classmethod
    def read(cls, path: Path, extra: Mapping[str, Any]) -> Options:
        """Those of a cluster file.

        Args:
            path: of the file, for what is said about it.
            extra: its "secformer".

        Raises:
            UserError: a value that can't be.
        """
        names = name_list(path, "operators", extra.get("operators", []))
        flight, sources, answers = _runs_in_flight(path, extra), _link_sources(path, extra), _answers(path, extra)
        return cls(_batching(path, extra), flight, sources, names, answers, _audits(path, extra))


def name_list(path: Path, key: str, names: Any) -> tuple[str, ...]:
    """Names under a key of the file."""
    if not isinstance(names, list):
        raise UserError(f'{path}: "{key}" is a list of names, and it is {names!r}')
    return tuple(names)


def _batching(path: Path, extra: Mapping[str, Any]) -> Batching:
    wait, tokens = extra.get("batch_wait_ms", 10), extra.get("batch_tokens", 512)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (wait, tokens))
    if not numbers or not 0 <= wait <= 60_000 or not 16 <= tokens <= 1 << 16:
        raise UserError(
            f'{path}: "batch_wait_ms" is {wait!r} and "batch_tokens" {tokens!r}: milliseconds up to 60000 (0: no '
            "batches), and 16 to 65536 tokens were expected"
        )
    return Batching(wait / 1000, int(tokens))


def _runs_in_flight(path: Path, extra: Mapping[str, Any]) -> int:
    lanes = extra.get("runs_in_flight", 1)
    if type(lanes) is not int or not 1 <= lanes <= 8:
        raise UserError(f'{path}: "runs_in_flight" is {lanes!r}, and 1 to 8 was expected')
    return lanes


def _link_sources(path: Path, extra: Mapping[str, Any]) -> tuple[str, ...]:
    given = extra.get("link_sources", [])
    try:
        if not isinstance(given, list):
            raise ValueError(f"{given!r} is no list")
        return tuple(str(ipaddress.ip_network(each)) for each in given)
    except ValueError as error:
        raise UserError(f'{path}: "link_sources" has networks like "10.0.0.0/8" ({error})') from None


def _answers(path: Path, extra: Mapping[str, Any]) -> dict[str, int]:
    given = extra.get("answers", {})
    if not isinstance(given, dict) or not all(type(limit) is int and limit >= 0 for limit in given.values()):
        raise UserError(f'{path}: "answers" has a number of texts for some clients, and it is {given!r}')
    return given


def _audits(path: Path, extra: Mapping[str, Any]) -> float:
    given = extra.get("audits", 0.05)
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 <= given < 1:
        raise UserError(f'{path}: "audits" is {given!r}, and a part from 0 to below 1 was expected')
    return float(given)
