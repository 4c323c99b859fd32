"""SPU's operations with our dealer against SPU's own: the same results within fixed point, and a wrong key refused."""

import concurrent.futures
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
import tls_cases
from dealer_threads import running

pytest.importorskip("gmssl_pyx")
pytest.importorskip("spu")

import spu

from secformer_jax.cluster import certs
from secformer_jax.cluster import config as cluster_config
from secformer_jax.cluster.dealer.beaver import sm2
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine

_links = itertools.count()
X = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
Y = np.linspace(0.5, 2, 24, dtype=np.float32).reshape(6, 4)[::-1].copy()
FUNCTIONS = {
    "multiply": lambda x, y: x * y.T,
    "square": lambda x, y: jnp.square(x),
    "matmul": lambda x, y: x @ y,
    "matmul, transposed": lambda x, y: y.T @ x.T,
    "compare": lambda x, y: (x < y.T - 1).astype(jnp.float32),
    "equal": lambda x, y: (jnp.round(x) == 2).astype(jnp.float32),
    "and": lambda x, y: jnp.logical_and(x > 0, y.T > 1).astype(jnp.float32),
    "truncate": lambda x, y: x * 0.37,
    "maximum": lambda x, y: jnp.max(x, axis=-1),
    "rsqrt": lambda x, y: jax.lax.rsqrt(y),
    "reciprocal": lambda x, y: 1 / y,
    "exp": lambda x, y: jnp.exp(x),
    "softmax": lambda x, y: jax.nn.softmax(x, axis=-1),
    "sort": lambda x, y: jnp.sort(x.reshape(-1) * -1),
    "shuffled sort": lambda x, y: jax.lax.sort((y.reshape(-1), x.reshape(-1)), num_keys=1)[1],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    return tls_cases.folder(tmp_path_factory.mktemp("certs"), cluster_config.load("2pc_semi2k_dealer"))


@pytest.fixture(scope="module")
def dealer(cluster):
    key = sm2.load(certs.sm2_private(cluster.tls("dealer")))
    with running(cluster, key, with_tls=True) as found:
        yield found


def at(cluster, dealer, **changes):
    """The parties' configuration with a dealer at some address."""
    cluster = dataclasses.replace(cluster, dealer=dealer.address)
    public = certs.sm2_public(cluster.tls("S0")).read_text()
    runtime = cluster.party_runtime("S0", public)
    runtime.update(changes)
    return dataclasses.replace(config.load(cluster.path), runtime=runtime)


@pytest.fixture(scope="module")
def engines(cluster, dealer):
    with Engine(at(cluster, dealer)) as ours, Engine(config.load("2pc_semi2k")) as spus:
        ours.publish({})
        spus.publish({})
        yield ours, spus


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(engines, name):
    ours, spus = (programs.run(e, lambda _, x, y: FUNCTIONS[name](x, y), {}, X, Y).value for e in engines)
    expected = np.asarray(FUNCTIONS[name](X, Y))
    spread = np.abs(spus - expected).max()
    assert spread < 0.02
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2 * spread + 2**-14)


def test_every_operation_of_the_service_was_used(engines, dealer):
    for name in FUNCTIONS:
        programs.run(engines[0], lambda _, x, y, name=name: FUNCTIONS[name](x, y), {}, X, Y)
    two_parties = {"Mul", "MulPriv", "Square", "Dot", "And", "RandBit", "Eqz", "Perm"}
    assert {f"Adjust{name}" for name in two_parties} <= served(dealer)


def served(dealer) -> set[str]:
    """The operations that a dealer has answered."""
    return {
        sample.labels["operation"]
        for metric in dealer.dealer.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "secformer_dealer_requests_total" and sample.labels["outcome"] == "served"
    }


@pytest.mark.parametrize(("allow_error", "operation"), [(False, "AdjustTruncPr"), (True, "AdjustTrunc")])
def test_truncations_of_more_parties(cluster, allow_error, operation):
    """Two parties truncate in other ways, so that three show these operations."""
    control = {f"S{i}": cluster_config.Address("127.0.0.1", 1 + i) for i in range(3)}
    cluster = dataclasses.replace(cluster, control=control)
    with running(cluster, sm2.load(certs.sm2_private(cluster.tls("dealer")))) as found:
        three = at(cluster, found, trunc_allow_msb_error=allow_error)
        del three.runtime["ttp_beaver_config"]["ssl_config"]
        with Engine(dataclasses.replace(three, addresses=("a", "b", "c"))) as engine:
            engine.publish({})
            value = programs.run(engine, lambda _, x, y: x * y.T, {}, X, Y).value
        assert operation in served(found)
    np.testing.assert_allclose(value, X * Y.T, atol=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_that_stay_are_served_again_and_their_masks_are_never_another_s(cluster, dealer, transposed):
    def function(weights, material, x):
        w = weights["w"]
        return x @ (w.T if transposed else w) + (x[..., :1] * weights["b"] if not transposed else 0)

    weights = {"w": Y.T.copy() if transposed else Y, "b": Y[0]}
    with Engine(at(cluster, dealer)) as engine:
        engine.publish(weights)
        program = engine.compile(function, {}, X)
        results = [engine.run(program, programs.Dealer().deal({}), X) for _ in range(3)]
    expected = X @ Y + (0 if transposed else X[:, :1] * Y[0])
    for result in results:
        np.testing.assert_allclose(result.value, expected, atol=1e-3)
    assert results[1].profile.total.send_bytes == results[2].profile.total.send_bytes


def test_a_wrong_key_ends_in_one_clear_error(cluster, dealer):
    cluster = dataclasses.replace(cluster, dealer=dealer.address)
    first, second = square(cluster.party_runtime("S0", sm2.generate().public_pem().decode()))
    with pytest.raises(RuntimeError, match=r"SeedDecryptError.*not encrypted for this dealer"):
        first.result(60)
    with pytest.raises(RuntimeError):
        second.result(60)


@pytest.mark.parametrize("impostor", ["S1", "dealer of another CA", "plaintext"])
def test_spu_refuses_who_is_not_the_dealer(cluster, tmp_path, impostor):
    key = sm2.load(certs.sm2_private(cluster.tls("dealer")))
    other = {
        "S1": dataclasses.replace(cluster, tls_paths={**cluster.tls_paths, **as_role(cluster, "S1")}),
        "dealer of another CA": tls_cases.folder(tmp_path, cluster),
        "plaintext": cluster,
    }[impostor]
    with running(other, key, with_tls=impostor != "plaintext") as found:
        at_impostor = dataclasses.replace(cluster, dealer=found.address)
        public = certs.sm2_public(cluster.tls("S0")).read_text()
        first, second = square(at_impostor.party_runtime("S0", public))
        for party in (first, second):
            with pytest.raises(RuntimeError):
                party.result(60)
        assert not served(found)


def as_role(cluster, role) -> dict[str, str]:
    """Path templates that give everybody one role's certificate."""
    return {kind: cluster.tls_paths[kind].replace("{name}", role) for kind in ("certificate", "key")}


def square(runtime) -> list[concurrent.futures.Future]:
    """Two parties square a secret, with a link that gives up soon."""
    libspu = spu.libspu
    settings = libspu.RuntimeConfig()
    assert settings.ParseFromJsonString(json.dumps(runtime))
    description = libspu.link.Desc()
    description.id = f"square-{next(_links)}"
    description.recv_timeout_ms = 2_000
    for rank in range(2):
        description.add_party(f"party-{rank}", f"{description.id}-{rank}")
    io = spu.Io(2, settings)
    shares = io.make_shares(X, libspu.Visibility.VIS_SECRET)
    program = _square()

    def party(rank):
        runtime = spu.Runtime(libspu.link.create_mem(description, rank), settings)
        runtime.set_var("in0", shares[rank])
        runtime.run(program)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [pool.submit(party, rank) for rank in range(2)]


def _square():
    from spu.utils import frontend

    secret = spu.libspu.Visibility.VIS_SECRET
    found, _ = frontend.compile(
        frontend.Kind.JAX, lambda x: x * x, [X], {}, ["in0"], [secret], lambda out: ["out0" for _ in out]
    )
    return found
