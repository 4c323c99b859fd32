"""Shares that age: at every session the servers share anew what lies on their disks.

All draw the same fresh zeros, z_0 + z_1 = 0, and each adds its own to its share of every array. The sum stays. Who has
copied one server's disk before a session and the other's after it has s_0 and s_1 + z_1, which is uniform: the zeros
are on no disk.

A file has the age of the session that wrote it. The next one is written beside it and takes its place when all parties
have written theirs, so whenever one dies, there is an age that all of them have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from secformer_jax.cluster import store
from secformer_jax.cluster.wire.message import Message, shares_of, with_shares
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.shares import Share, expand, join, pack

_AGE = "age"


class Link(Protocol):
    """What this needs of SPU's link: texts to all."""

    def all_gather(self, data: str) -> list[str]:
        """Everybody's text, by rank."""


class Sealed:
    """The sealed shares of one deployment at one party.

    Args:
        path: where they lie.
        key: that they are sealed under.
        deployment: its name.
        link: to the other parties, who do the same at the same time.
    """

    def __init__(self, path: Path, key: bytes, deployment: str, link: Link) -> None:
        self._path, self._next = path, path.with_name(path.name + ".next")
        self._key, self._deployment, self._link = key, deployment, link

    def renewed(self, session: str, held: Sequence[int], parties: int, coins: Coins) -> Iterator[Message]:
        """The records, shared anew; when they have all been taken, the new ones are on disk and the old ones gone.

        Args:
            session: the new age.
            held: which components this party holds.
            parties: how many components there are.
            coins: the parties' own.

        Raises:
            RuntimeError: the parties' files have no age in common.
            UserError: a file that is damaged.
        """
        self._agree()
        published = self._path.stat().st_mtime_ns
        writer = store.SealedWriter(self._next, self._key, self._deployment)
        try:
            writer.add(Message(_AGE, {_AGE: session}))
            for record in self.records():
                shares = {name: _renewed(share, held, parties, coins) for name, share in shares_of(record).items()}
                fields = {key: value for key, value in record.fields.items() if key != "shares"}
                new = with_shares(record.kind, fields, shares)
                writer.add(new)
                yield new
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
        # Servers tell by this time which publication is older.
        os.utime(self._next, ns=(published, published))
        self._link.all_gather("written")
        self._next.replace(self._path)

    def records(self) -> Iterator[Message]:
        """The records as they are on disk now."""
        return (record for record in store.read(self._path, self._key, self._deployment) if record.kind != _AGE)

    def _agree(self) -> None:
        """Go on from the newest age that all parties have."""
        own = {self._age(path): path for path in (self._path, self._next) if path.exists()}
        everybodys = [json.loads(text) for text in self._link.all_gather(json.dumps(list(own)))]
        common = [age for age in everybodys[0] if all(age in ages for ages in everybodys)]
        if not common:
            raise RuntimeError("the servers' shares of the model are of different ages: publish it again")
        if own[common[-1]] == self._next:
            self._next.replace(self._path)
        else:
            self._next.unlink(missing_ok=True)

    def _age(self, path: Path) -> str:
        first = next(store.read(path, self._key, self._deployment), None)
        return str(first.fields[_AGE]) if first is not None and first.kind == _AGE else ""


def _renewed(share: Share, held: Sequence[int], parties: int, coins: Coins) -> Share:
    """The same with a zero on top: a stream for every component but the last, and their negative sum for that."""
    seeds = [coins.seed() for _ in range(parties - 1)]

    def zero(component: int) -> np.ndarray:
        if component < parties - 1:
            return expand(seeds[component], share.shape, share.bits)
        return -join([expand(seed, share.shape, share.bits) for seed in seeds])

    rings = zip(share.rings(), held, strict=True)
    return Share(share.dtype, share.shape, tuple(pack(ring + zero(i), share.bits) for ring, i in rings), share.bits)
