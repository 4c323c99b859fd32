"""What one request's programs leave to each other, and to nobody else's."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from rings import elements

pytest.importorskip("spu")

from secformer_jax.mpc.material import Array, Dealt, WeightMasks
from secformer_jax.mpc.primitives.fixed import Masked, open_together
from secformer_jax.mpc.runtime import config
from secformer_jax.mpc.runtime.engine import Engine
from secformer_jax.mpc.runtime.shares import fresh_seeds, split


class Rows(NamedTuple):
    """One of each kind."""

    ring: Any
    opened: Any
    kept: Any


class Masks(Dealt):
    """Masks of 7, for a test that looks at what is opened."""

    def __init__(self) -> None:
        super().__init__({}, WeightMasks.fresh({}))

    def batches(self, parties, order=()):
        """One array."""
        sevens = np.full((2, 3), 7)
        yield {0: Array((2, 3), 64, tuple(split(sevens, fresh_seeds(parties - 1))))}


@pytest.mark.parametrize("name", ("2pc_semi2k", "3pc_aby3", "1pc_ref2k"))
def test_a_state_goes_from_program_to_program(name):
    """Two requests by turns, each with its own: what is shared, what is in clear, and what stays as it is."""

    def function(weights, material, x, known, state):
        [opened] = open_together([Masked(x - material["mask"] + state.kept, 64)])
        return state.ring + x * known, Rows(state.ring + x, state.opened + opened, state.kept)

    x, kept = np.arange(6).reshape(2, 3), elements(2, 3)
    spec = jax.ShapeDtypeStruct(x.shape, np.int64)
    material = {"mask": spec}
    with Engine(config.load(name)) as engine:
        engine.publish({})
        program = engine.compile(function, material, x, known=np.int64(0), state=Rows(spec, spec, spec))
        parties, zeros = engine.config.world_size, np.zeros((2, 3), np.int64)
        states = []
        for _ in range(2):
            shared = [split(value, fresh_seeds(parties - 1)) for value in (zeros, kept)]
            leaves = [Array((2, 3), 64, tuple(components)) for components in shared]
            states.append(engine.state([leaves[0], zeros, leaves[1]]))
        expected = [0, 0]
        for step, which in enumerate((0, 1, 1, 0, 1)):
            found = engine.run(program, Masks(), x, known=np.int64(10 + step), state=states[which]).value
            np.testing.assert_array_equal(found, expected[which] + x * (10 + step))
            expected[which] = expected[which] + x
        _, opened, last = zip(*(values for values in states[1].values), strict=True)
        np.testing.assert_array_equal(opened[0].array, 3 * (x - 7 + kept))
        assert all(held.secret for held in last) and not any(held.secret for held in opened)
