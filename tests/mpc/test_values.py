"""Shares to and from SPU's runtime: it reads ours and we read its, on every protocol."""

import numpy as np
import pytest

pytest.importorskip("spu")

import spu
from spu import libspu

from secformer_jax.mpc.runtime import config, shares, values

PROTOCOLS = ["1pc_ref2k", "2pc_semi2k", "3pc_aby3", "2pc_cheetah"]
SECRETS = np.random.default_rng(0).integers(-(2**62), 2**62, (3, 5))


@pytest.fixture(params=PROTOCOLS)
def protocol(request):
    return config.load(request.param)


def split(protocol) -> list[np.ndarray]:
    return [np.stack(s.rings()) for s in shares.share(SECRETS, "int64", protocol.protocol, protocol.world_size)]


def test_shares_join_to_the_secret_and_only_together(protocol):
    found = split(protocol)
    np.testing.assert_array_equal(shares.join([share[0] for share in found]), SECRETS)
    if protocol.world_size > 1:
        assert not any((one == other).any() for one, other in zip(found, split(protocol), strict=True))


@pytest.mark.parametrize("secret", [True, False])
def test_the_runtime_reads_our_shares_and_we_its(protocol, secret):
    io = spu.Io(protocol.world_size, protocol.runtime_config())
    ours = split(protocol) if secret else [SECRETS] * protocol.world_size
    written = [values.to_spu(array, protocol.protocol, secret=secret) for array in ours]
    np.testing.assert_array_equal(io.reconstruct(written), SECRETS)
    kind = libspu.Visibility.VIS_SECRET if secret else libspu.Visibility.VIS_PUBLIC
    theirs = [values.from_spu(s, protocol.protocol, secret=secret) for s in io.make_shares(SECRETS, kind)]
    assert {dtype for dtype, _ in theirs} == {"int64"}
    rings = [ring for _, ring in theirs]
    np.testing.assert_array_equal(shares.join([ring[0] for ring in rings]) if secret else rings[0], SECRETS)


def test_large_arrays_come_in_several_chunks(monkeypatch):
    monkeypatch.setattr(values, "_CHUNK_BYTES", 16)
    written = values.to_spu(SECRETS[None], "SEMI2K")
    assert len(written.share_chunks) == SECRETS.size / 2 + 0.5
    np.testing.assert_array_equal(values.from_spu(written, "SEMI2K")[1], SECRETS[None])


def test_a_value_that_is_no_share_is_refused():
    io = spu.Io(2, config.load("2pc_semi2k").runtime_config())
    public = io.make_shares(SECRETS, libspu.Visibility.VIS_PUBLIC)[0]
    with pytest.raises(ValueError, match="expected"):
        values.from_spu(public, "SEMI2K")
