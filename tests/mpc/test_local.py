"""What a party does to its own shares: all that is linear in secrets, nothing else, and the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import abstract
from rings import RNG, elements, signed

from secformer_jax.functions.series import Series
from secformer_jax.mpc.int64 import enable_x64
from secformer_jax.mpc.primitives.series import OpenedSeries
from secformer_jax.mpc.runtime.equations import Kind, kinds_of
from secformer_jax.mpc.runtime.kernel import Kernels
from secformer_jax.mpc.runtime.linear import is_linear
from secformer_jax.mpc.runtime.local import LocalFunction
from secformer_jax.mpc.runtime.operations import dropped, opened, product
from secformer_jax.mpc.runtime.shares import HELD, share
from secformer_jax.mpc.runtime.small import ELEMENTS

PARTIES = {"REF2K": 1, "SEMI2K": 2, "ABY3": 3, "CHEETAH": 2}
SHAPE = (3, 4)

LINEAR = {
    "sum and difference": lambda x, y, p: x + y - 3 * x,
    "public constant": lambda x, y, p: (7 - x) + 5,
    "public constant twice": lambda x, y, p: (x + 5) * 3 + (y - 2) * 2,
    "public array": lambda x, y, p: (x + p) * p - (p - y),
    "public shift": lambda x, y, p: (x << 3) + (x << (p & 7)),
    "negative": lambda x, y, p: -x,
    "sums": lambda x, y, p: jnp.sum(x, axis=-1, keepdims=True) + jnp.sum(y) + jnp.sum(x + 1),
    "shapes": lambda x, y, p: x.reshape(4, 3).T[1:, ::-1] + jnp.broadcast_to(y[:1], SHAPE)[1:3, :3].sum(),
    "joined": lambda x, y, p: jnp.concatenate([x, p, y + 1, p[:1]], axis=0),
    "nested": lambda x, y, p: jax.jit(lambda x, p: (x + 1) * (p >> 2))(x, p) + y,
    "public nested": lambda x, y, p: x + jax.jit(lambda p: p * p // 3)(p),
    "anything of what is public": lambda x, y, p: x * jnp.where(p > 0, p >> 1, p * p % 7) + jnp.max(p),
}

NOT_LINEAR = {
    "product": lambda x, y, p: x * y,
    "square": lambda x, y, p: x**2,
    "shift right": lambda x, y, p: x >> 2,
    "secret shift": lambda x, y, p: p << x,
    "comparison": lambda x, y, p: x < p,
    "and": lambda x, y, p: x & 255,
    "maximum": lambda x, y, p: jnp.maximum(x, p),
    "matrices": lambda x, y, p: x @ p.T,
    "real": lambda x, y, p: x.astype(jnp.float32),
    "narrow": lambda x, y, p: x.astype(jnp.int32) + 1,
    "nested": lambda x, y, p: jax.jit(lambda x: x + x * x)(x),
    "secret index": lambda x, y, p: p[0][x[0]],
}


def traced(function, shapes=(SHAPE,) * 3):
    with enable_x64():
        return jax.make_jaxpr(function)(*[jax.ShapeDtypeStruct(shape, np.int64) for shape in shapes])


def kinds(function, secret=(True, True, False)) -> list[Kind]:
    jaxpr = traced(function).jaxpr
    return kinds_of(jaxpr.eqns, dict(zip(jaxpr.invars, secret, strict=True)))


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_is_local(name):
    assert set(kinds(LINEAR[name])) == {Kind.LOCAL}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_is_spus(name):
    assert Kind.SPU in kinds(NOT_LINEAR[name])


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_anything_of_public_values_is_local(name):
    assert set(kinds(NOT_LINEAR[name], (False,) * 3)) == {Kind.LOCAL}


def test_what_is_opened_is_public():
    def function(x, y, p):
        [e] = opened([x - y], [40])
        return e * e * x + (e >> 3)

    jaxpr = traced(function).jaxpr
    secret = dict(zip(jaxpr.invars, (True, True, False), strict=True))
    found = kinds_of(jaxpr.eqns, secret)
    assert found[:2] == [Kind.LOCAL, Kind.OPENING] and set(found[2:]) == {Kind.LOCAL}
    square = next(eqn for eqn in jaxpr.eqns[2:] if eqn.primitive.name in ("mul", "integer_pow"))
    assert not secret[square.outvars[0]] and secret[jaxpr.outvars[0]]


@pytest.mark.parametrize("secret", [(True, False), (False, True), (False, False)])
def test_a_product_of_matrices_is_a_step_of_its_own(secret):
    jaxpr = traced(lambda x, y: product(x, y, 40), [(3, 4), (4, 2)]).jaxpr
    known = dict(zip(jaxpr.invars, secret, strict=True))
    assert kinds_of(jaxpr.eqns, known) == [Kind.PRODUCT]
    assert known[jaxpr.outvars[0]] == any(secret)


def test_a_product_of_two_secrets_is_refused():
    jaxpr = traced(lambda x, y: product(x, y, 40), [(3, 4), (4, 2)]).jaxpr
    with pytest.raises(ValueError, match="product of two secrets is not linear"):
        kinds_of(jaxpr.eqns, dict.fromkeys(jaxpr.invars, True))


def test_matrices_that_do_not_fit_are_refused():
    for shapes in ([(3, 4), (3, 4)], [(2, 3, 4), (5, 4, 2)]):
        with pytest.raises(ValueError, match="no product of matrices"):
            traced(lambda x, y: product(x, y, 40), shapes)


def on_shares(protocol: str, function, secrets, public, *, small: bool) -> np.ndarray:
    """A function of two secrets and a public array, done to every party's shares and joined; by XLA unless small."""
    parties = PARTIES[protocol]
    local = LocalFunction(traced(function), (True, True, False))
    if not small:
        local.small = None
    elif local.small is None:
        pytest.skip("an equation that XLA alone knows")
    held = [share(x, "int64", protocol, parties) for x in secrets]
    found = []
    for rank in range(parties):
        first = np.array([component == 0 for component in HELD[protocol](rank)], np.int64)
        [result] = local(first, [*(each[rank].stacked() for each in held), public])
        found.append(np.asarray(result))
    assert local.secret_outputs == (True,)
    if protocol == "ABY3":
        for rank in range(3):  # whoever holds a component has the same of it
            np.testing.assert_array_equal(found[rank][1], found[(rank + 1) % 3][0])
    return sum(own[0] for own in found)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("protocol", PARTIES)
@pytest.mark.parametrize("name", LINEAR)
def test_shares_of_the_same_numbers(protocol, name, small):
    x, y, p = elements(*SHAPE), elements(*SHAPE), RNG.integers(-(2**20), 2**20, SHAPE)
    with enable_x64():
        expected = np.asarray(LINEAR[name](jnp.asarray(x), jnp.asarray(y), jnp.asarray(p)))
    np.testing.assert_array_equal(on_shares(protocol, LINEAR[name], (x, y), p, small=small), expected)


def test_many_elements_are_none_for_numpy():
    function = traced(LINEAR["public array"], [(ELEMENTS,)] * 3)
    assert LocalFunction(function, (True, True, False)).small is not None
    function = traced(LINEAR["public array"], [(ELEMENTS + 1,)] * 3)
    assert LocalFunction(function, (True, True, False)).small is None


@pytest.mark.parametrize("harmonics", [(1, 2, 5), tuple(range(1, 60))])
def test_what_is_public_is_the_same_by_xla_and_by_numpy(harmonics):
    """A series' finish, with waves one from the other and each on its own: all that stages compute of openings."""
    count = len(harmonics)
    series = Series(8.0, 0.5, harmonics, (0.1,) * count, (0.2,) * count, -1.0, 1.0, 0.0)
    masks = abstract(lambda: OpenedSeries.abstract(series, (5,), bits=20, mask_bits=16, public_bits=16, coarse=True))
    opening, leaves = RNG.integers(-(2**22), 2**22, 5), [elements(*leaf.shape) for leaf in jax.tree.leaves(masks)]

    def finish(opening, *leaves):
        return jax.tree.unflatten(jax.tree.structure(masks), leaves).finish(opening).ring

    jaxpr = traced(finish, [(5,), *(leaf.shape for leaf in leaves)])
    local = LocalFunction(jaxpr, (False, *(True for _ in leaves)))
    arguments = [opening, *(leaf[None] for leaf in leaves)]
    [by_numpy] = local(np.ones(1, np.int64), arguments)
    local.small = None
    [by_xla] = local(np.ones(1, np.int64), arguments)
    np.testing.assert_array_equal(by_numpy, by_xla)


UNITS = {"REF2K": 0.5, "SEMI2K": 1, "CHEETAH": 1, "ABY3": 1.5}


@pytest.mark.parametrize("protocol", PARTIES)
@pytest.mark.parametrize(("bits", "count"), [(64, 1), (64, 20), (64, 63), (40, 7), (40, 16), (24, 23), (33, 0)])
def test_dropped_is_within_a_unit(protocol, bits, count):
    """Modulo 2^(bits - count), of anything at all: no element is too large."""
    x = np.concatenate([elements(40_000 - 4), [0, 1, -1, 2**62]]).reshape(1, -1)

    def function(x, y, p):
        return dropped(x + 0 * y, bits, count) + 0 * p

    jaxpr = traced(function, [x.shape] * 3)
    local, parties = LocalFunction(jaxpr, (True, True, False)), PARTIES[protocol]
    held = [share(each, "int64", protocol, parties) for each in (x, 0 * x)]
    total = np.zeros_like(x)
    for rank in range(parties):
        first = np.array([component == 0 for component in HELD[protocol](rank)], np.int64)
        [result] = local(first, [*(each[rank].stacked() for each in held), 0 * x])
        total += np.asarray(result)[0]
    error = signed((total << count) - x, bits)
    # At the largest count all that is left is one bit, and an error of a unit is any number.
    if bits - count > 1:
        assert np.abs(error / 2.0**count).max() <= UNITS[protocol] * (count > 0)


def test_a_packed_share_is_read_where_it_is_needed():
    """A party with one component gives its pieces, and gets what an array would give."""
    from secformer_jax.mpc.runtime.shares import pack, pieces

    function = LocalFunction(traced(LINEAR["public array"]), (True, True, False))
    function.small = None
    x, y, p = elements(*SHAPE), elements(*SHAPE), RNG.integers(-(2**20), 2**20, SHAPE)
    one = np.ones(1, np.int64)
    for bits in (1, 24, 40, 57, 64):
        [packed] = function(one, [pieces(pack(x, bits), bits), y[None], p])
        [plain] = function(one, [x[None], y[None], p])
        np.testing.assert_array_equal(signed(np.asarray(packed), bits), signed(np.asarray(plain), bits))


def test_one_kernel_serves_functions_that_differ_in_numbers():
    """Of sums and products, and in constants; what differs in a shift, a shape or a secret has its own."""

    def scaled(factor, offset, shift, table):
        return lambda x, y, p: (x * factor + offset) * jnp.asarray(table) + (p >> shift) * y

    tables = np.arange(12, dtype=np.int64).reshape(SHAPE), 7 - np.arange(12, dtype=np.int64).reshape(SHAPE)
    kernels, secret = Kernels(), (True, True, False)
    x, y, p = elements(*SHAPE), elements(*SHAPE), RNG.integers(0, 9, SHAPE)
    one = np.ones(1, np.int64)
    found = []
    for factor, offset, shift, table in [(3, 5, 0, tables[0]), (-4, 9, 0, tables[1]), (3, 5, 1, tables[0])]:
        with enable_x64():
            jaxpr = traced(scaled(factor, offset, shift, table), [SHAPE] * 3)
        function = LocalFunction(jaxpr, secret, kernels)
        function.small = None
        if shift == 0:
            [result] = function(one, [x[None], y[None], p])
            np.testing.assert_array_equal(np.asarray(result)[0], (x * factor + offset) * table + p * y)
        found.append(kernels.find(jaxpr, secret).kernel)
    assert found[0] is found[1] and found[0] is not found[2]
    less, more = (traced(function) for function in (lambda x, y, p: x - y, lambda x, y, p: y - x))
    assert kernels.find(less, secret).kernel is not kernels.find(more, secret).kernel
    assert kernels.find(jaxpr, (True, True, True)).kernel is not found[2]
    assert kernels.find(traced(scaled(3, 5, 1, tables[0]), [SHAPE, SHAPE, (1, SHAPE[1])]), secret).kernel not in found


def test_secrecy_of_results():
    function = LocalFunction(traced(lambda x, y, p: (jnp.sum(x) - x[0], (p >> 1) * p, -(x * p))), (True, False, False))
    assert function.secret_outputs == (True, False, True)


def test_a_nested_function_is_as_linear_as_what_is_in_it():
    jaxpr = traced(lambda x, y, p: jax.jit(lambda x, p: (x * p, p * p))(x, p)).jaxpr
    [eqn] = jaxpr.eqns
    _, _, p = jaxpr.invars
    assert is_linear(eqn, dict(zip(jaxpr.invars, (True, True, False), strict=True)))
    assert not is_linear(eqn, {**dict.fromkeys(jaxpr.invars, True), p: True})
