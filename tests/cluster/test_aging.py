"""Sealed shares that are shared anew at every session, and what a party that dies in between leaves."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from memory_link import at_every_end

from secformer_jax.cluster import store
from secformer_jax.cluster.party.aging import Sealed
from secformer_jax.cluster.wire.message import shares_of, with_shares
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime.coins import Coins
from secformer_jax.mpc.runtime.shares import HELD, RING_BITS, share

KEY, NAME = bytes(32), "0" * 32
SHAPES = {"first": (50, 40), "second": (7,)}
PROTOCOLS = {"SEMI2K": 2, "ABY3": 3}


class Servers:
    """Each one's folder with the shares of two arrays."""

    def __init__(self, folder: Path, protocol: str) -> None:
        self.protocol, self.parties = protocol, PROTOCOLS[protocol]
        generator = np.random.default_rng(0)
        self.arrays = {name: generator.integers(-1000, 1000, shape) for name, shape in SHAPES.items()}
        self.paths = [folder / f"S{rank}.sealed" for rank in range(self.parties)]
        writers = [store.SealedWriter(path, KEY, NAME) for path in self.paths]
        for name, array in self.arrays.items():
            for writer, own in zip(writers, share(array, "int64", protocol, self.parties), strict=True):
                writer.add(with_shares("weights", {}, {name: own}))
        for writer in writers:
            writer.finish()

    def session(self, number: int, dies: int | None = None) -> list[dict[str, list[np.ndarray]]]:
        """What each party loads; one of them may die when it has written all."""

        def party(link):
            sealed = Sealed(self.paths[link.rank], KEY, NAME, link)
            if link.rank == dies:
                sealed._link = _DiesBeforeItsNextWord(link)
            held = HELD[self.protocol](link.rank)
            found = {}
            try:
                for record in sealed.renewed(f"session {number}", held, self.parties, Coins(link.spawn())):
                    found |= {name: own.rings() for name, own in shares_of(record).items()}
            except DiedError:
                pass
            return found

        return at_every_end(self.parties, party)

    def check(self, loaded: list[dict[str, list[np.ndarray]]]) -> None:
        """Components that two parties hold are equal, and all of them add up."""
        for name, array in self.arrays.items():
            components: dict[int, np.ndarray] = {}
            for rank, own in enumerate(loaded):
                for index, ring in zip(HELD[self.protocol](rank), own[name], strict=True):
                    np.testing.assert_array_equal(components.setdefault(index, ring), ring)
            np.testing.assert_array_equal(sum(components.values()), array)

    def stored(self, rank: int) -> dict[str, list[np.ndarray]]:
        records = store.read(self.paths[rank], KEY, NAME)
        return {name: own.rings() for each in records if each.kind != "age" for name, own in shares_of(each).items()}


class DiedError(Exception):
    pass


class _DiesBeforeItsNextWord:
    """A link whose party says which ages it has, lets the others go on, and is gone before it has heard of them."""

    def __init__(self, link) -> None:
        self._link, self._said = link, 0

    def all_gather(self, text: str) -> list[str]:
        self._said += 1
        found = self._link.all_gather(text)
        if self._said > 1:
            raise DiedError
        return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sum_stays_and_every_share_changes(tmp_path, protocol):
    servers = Servers(tmp_path, protocol)
    times = [path.stat().st_mtime_ns for path in servers.paths]
    before = [servers.stored(rank) for rank in range(servers.parties)]
    for number in range(3):
        servers.check(servers.session(number))
        after = [servers.stored(rank) for rank in range(servers.parties)]
        servers.check(after)
        for old, new in zip(before, after, strict=True):
            for name in SHAPES:
                assert not any(np.any(x == y) for x, y in zip(old[name], new[name], strict=True))
        before = after
    assert [path.stat().st_mtime_ns for path in servers.paths] == times
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in servers.paths}


def test_two_disks_of_different_sessions_say_nothing(tmp_path):
    """The old share of one and the new one of the other are off by a number that is uniform in every bit."""
    servers = Servers(tmp_path, "SEMI2K")
    old = servers.stored(0)
    servers.session(0)
    found = (old["first"][0] + servers.stored(1)["first"][0] - servers.arrays["first"]).astype(np.uint64)
    for bit in range(RING_BITS):
        ones = (found >> np.uint64(bit)) & np.uint64(1)
        assert abs(ones.mean() - 0.5) < 5 * 0.5 / np.sqrt(ones.size)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dies", [0, 1])
def test_who_dies_before_the_new_age_is_in_place_goes_on_with_it(tmp_path, protocol, dies):
    servers = Servers(tmp_path, protocol)
    servers.session(0)
    servers.session(1, dies=dies)
    assert servers.paths[dies].with_name(servers.paths[dies].name + ".next").exists()
    servers.check(servers.session(2))
    servers.check([servers.stored(rank) for rank in range(servers.parties)])


def test_a_new_age_that_one_party_alone_has_is_forgotten(tmp_path):
    servers = Servers(tmp_path, "SEMI2K")
    kept = tmp_path / "kept"
    shutil.copy2(servers.paths[1], kept)
    servers.session(0, dies=0)
    os.replace(kept, servers.paths[1])
    servers.check(servers.session(1))


def test_ages_that_have_nothing_in_common_are_refused(tmp_path):
    servers = Servers(tmp_path, "SEMI2K")
    kept = tmp_path / "kept"
    shutil.copy2(servers.paths[1], kept)
    servers.session(0)
    os.replace(kept, servers.paths[1])
    with pytest.raises(RuntimeError, match="of different ages: publish it again"):
        servers.session(1)


def test_a_damaged_file_is_refused(tmp_path):
    servers = Servers(tmp_path, "SEMI2K")
    for path in servers.paths:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        servers.session(0)
