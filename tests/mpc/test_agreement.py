"""Parties that run another program, or get other last bits of what is public, say so before anything is computed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("spu")
from spu import libspu

from secformer_jax.mpc.runtime import config, party, waves
from secformer_jax.mpc.runtime.program import ONLINE, OpeningStage, Program, Stage

WITH_OPENINGS = Program((OpeningStage("softmax", ONLINE, (), (), (), b"", (8,)),), (), (), None)
BY_SPU = Program((Stage("softmax", ONLINE, (), (), (), b""),), (), (), None)


def agree(program: Program, *digests: str) -> list[str]:
    """What each of two parties says."""
    description = libspu.link.Desc()
    description.id = f"agreement {id(digests)}"
    for rank in range(2):
        description.add_party(f"party {rank}", f"memory {rank}")

    def one(rank: int) -> str:
        own = party.Party(config.load("2pc_semi2k"), libspu.link.create_mem(description, rank), profiled=False)
        try:
            own.agree(program, digests[rank])
            return ""
        except RuntimeError as error:
            return str(error)
        finally:
            own.close()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


def test_equal_parties_agree():
    assert agree(WITH_OPENINGS, "a", "a") == ["", ""]


def test_another_program():
    for found, other in zip(agree(BY_SPU, "a", "b"), (1, 0), strict=True):
        assert found.startswith(f"rank {other} compiled another program")


def test_other_last_bits(monkeypatch):
    """They matter where something is opened."""
    monkeypatch.setattr(party, "last_bits", iter("ab").__next__)
    assert agree(BY_SPU, "a", "a") == ["", ""]
    for found, other in zip(agree(WITH_OPENINGS, "a", "a"), (1, 0), strict=True):
        assert found.startswith(f"rank {other} gets other last bits of a cosine")


def test_last_bits_are_of_numpy_and_of_xla(monkeypatch):
    """A difference in the 48th bit of either is seen."""
    before = waves.last_bits()
    for changed in ("__call__", "by_xla"):
        with monkeypatch.context() as patched:
            plain = getattr(waves.LocalFunction, changed)
            patched.setattr(waves.LocalFunction, changed, lambda *a, plain=plain: [x + 1 for x in plain(*a)])
            waves.last_bits.cache_clear()
            assert waves.last_bits() != before
    waves.last_bits.cache_clear()
    assert waves.last_bits() == before
