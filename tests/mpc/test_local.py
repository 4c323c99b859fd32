"""Work on a party's own shares: the same numbers as SPU's own, on every protocol, and nothing but what is linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import enable_x64

pytest.importorskip("spu")

import spu
from spu import libspu

from secformer_jax.mpc.material import Dealer, Material
from secformer_jax.mpc.primitives.fixed import open_together
from secformer_jax.mpc.runtime import config, shares, values
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.local import check_linear, local
from secformer_jax.mpc.runtime.program import LocalStage

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


class Masks(Material):
    """A mask and its double."""

    mask: jax.Array
    double: jax.Array

    def deal(self, randomness, resident):
        mask = randomness.bits(self.mask.shape)
        return self.replace(mask=mask, double=2 * mask)


def function(weights, material, x):
    """Opens x - mask, and gets 3 x back from that: 2 mask + mask + 3 (x - mask) by a local stage and an addition."""
    with jax.named_scope("gelu"):
        [e] = open_together([x - material.mask])
        rest = local(lambda e, mask, double: (double + mask) * ((e << 1) - 2 * e + 1) + mask - mask)
        return rest(e, material.mask, material.double) + 3 * e


def test_a_local_stage_on_every_protocol(protocol):
    with enable_x64():
        spec = Masks(*[jax.ShapeDtypeStruct(SECRETS.shape, np.int64)] * 2)
    with Engine(protocol) as engine:
        engine.publish({})
        program = engine.compile(function, spec, SECRETS)
        result = engine.run(program, Dealer().deal(spec), SECRETS)
    np.testing.assert_array_equal(result.value, 3 * SECRETS)
    assert [isinstance(stage, LocalStage) for stage in program.stages] == [False, True, False]
    assert program.local_only() == {"material1"}
    assert result.profile.by_operation["local"].seconds > 0 == result.profile.by_operation["local"].send_bytes


NOT_LINEAR = {
    "product": lambda x, p: x * x,
    "constant": lambda x, p: x + 1,
    "public": lambda x, p: x + p,
    "shift right": lambda x, p: x >> 2,
    "secret shift": lambda x, p: p << x,
    "comparison": lambda x, p: x < p,
    "nested": lambda x, p: jax.jit(lambda y: y * y)(x),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_is_refused(name):
    with enable_x64():
        spec = jax.ShapeDtypeStruct((3,), np.int64)
        jaxpr = jax.make_jaxpr(NOT_LINEAR[name])(spec, spec).jaxpr
        with pytest.raises(ValueError, match="not linear"):
            check_linear(jaxpr, (True, False))
        check_linear(jaxpr, (False, False))


def test_secrecy_of_results():
    with enable_x64():
        spec = jax.ShapeDtypeStruct((3,), np.int64)
        jaxpr = jax.make_jaxpr(lambda x, p: (jnp.sum(x) - x[0], (p >> 1) * p, -(x * p)))(spec, spec).jaxpr
    assert check_linear(jaxpr, (True, False)) == [True, False, True]
