"""Products of two secrets by opened differences (Beaver 1991), for whole layers at once.

With e = x - a opened and a known to the dealer, x y = e y + a (y - b) + a b for any bilinear product: local work once
both differences are open. A weight is masked once and stays; a value that serves several products is opened once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.mpc.material import Leaf, Material, Randomness, WeightMasks
from secformer_jax.mpc.ring import ring_matmul
from secformer_jax.mpc.runtime.operations import product
from secformer_jax.mpc.runtime.shares import RING_BITS

Product = Callable[..., jax.Array]
"""(x, y, bits) -> their product."""


class Weight(flax.struct.PyTreeNode):
    """A weight that stays between requests: its shares, and in clear the weight less its mask."""

    ring: jax.Array
    opened: jax.Array


class WeightProducts(Material):
    """A mask a for a value (..., n, d), and its products with the masks of the weights that the value meets.

    With e = x - a open and F the weight less its mask M, x W = e W + a F + a M: e W online, a F ahead of it.
    """

    of_weights: ClassVar[bool] = True

    a: Leaf
    products: dict[str, Leaf]
    kinds: tuple[tuple[str, str], ...] = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(
        cls, shape: tuple[int, ...], width: int = RING_BITS, **weights: tuple[str, str, tuple[int, ...]]
    ) -> WeightProducts:
        """Shapes: for each weight its kind ("scale", or one of `PRODUCTS`), its mask's name, and its shape."""
        products = {
            key: jnp.zeros(shape if kind == "scale" else _shape(kind, shape, of), jnp.int64)
            for key, (kind, _, of) in weights.items()
        }
        kinds = tuple((kind, name) for _, (kind, name, _) in sorted(weights.items()))
        return cls(jnp.zeros(shape, jnp.int64), products, kinds, width)

    def deal(self, randomness: Randomness, masks: WeightMasks) -> WeightProducts:
        """Fresh masks; see Material."""
        a = randomness.uniform(self.a.shape, self.width)
        products = {}
        for key, (kind, name) in zip(sorted(self.products), self.kinds, strict=True):
            if kind == "scale":
                ring = a.ring * masks.array(name)
            else:
                factor = masks.factor(name, self.width) if kind == "matmul" else masks.array(name)
                ring = NUMPY_PRODUCTS[kind](a.ring, factor, self.width)
            products[key] = randomness.derived_from_weights(ring, self.width)
        return self.replace(a=a, products=products)

    def times(self, key: str, opening: jax.Array, weight: Weight) -> jax.Array:
        """The product of the opened value with a weight, untruncated; the part of the mask can run ahead of time."""
        kind = dict(zip(sorted(self.products), self.kinds, strict=True))[key][0]
        multiply = jnp.multiply if kind == "scale" else functools.partial(PRODUCTS[kind], bits=self.width)
        return multiply(opening, weight.ring) + (multiply(self.a, weight.opened) + self.products[key])


class ProductMasks(Material):
    """Masks a, b for two secrets and the product of the masks.

    With e = x - a and f = y - b open, x y = e y + a f + a b.
    """

    a: Leaf
    b: Leaf
    ab: Leaf
    kind: str = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, kind: str, a: tuple[int, ...], b: tuple[int, ...], width: int = RING_BITS) -> ProductMasks:
        """Shapes for one of `PRODUCTS`, modulo 2^width."""
        x, y = jnp.zeros(a, jnp.int64), jnp.zeros(b, jnp.int64)
        return cls(x, y, jnp.zeros(_shape(kind, a, b), jnp.int64), kind, width)

    def deal(self, randomness: Randomness, masks) -> ProductMasks:
        """Fresh masks; see Material."""
        a, b = (randomness.uniform(x.shape, self.width) for x in (self.a, self.b))
        return self.replace(
            a=a, b=b, ab=randomness.derived(NUMPY_PRODUCTS[self.kind](a.ring, b.ring, self.width), self.width)
        )

    def times(self, x_opening: jax.Array, y: jax.Array, y_opening: jax.Array) -> jax.Array:
        """x y from both openings and the shares of y; untruncated."""
        multiply = PRODUCTS[self.kind]
        return multiply(x_opening, y, self.width) + multiply(self.a, y_opening, self.width) + self.ab


def _shape(kind: str, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    factors = (jax.ShapeDtypeStruct(shape, jnp.int64) for shape in (x, y))
    return jax.eval_shape(lambda x, y: PRODUCTS[kind](x, y, RING_BITS), *factors).shape


PRODUCTS: dict[str, Product] = {
    "matmul": product,
    "scores": lambda q, k, bits: product(q, jnp.swapaxes(k, -1, -2), bits),
    "context": product,
    "elementwise": lambda x, y, bits: x * y,
}
"""Bilinear products modulo 2^bits of which one factor is public."""

NUMPY_PRODUCTS: dict[str, Callable[..., np.ndarray]] = {
    "matmul": ring_matmul,
    "scores": lambda q, k, bits: ring_matmul(q, np.swapaxes(k, -1, -2), bits),
    "context": ring_matmul,
    "elementwise": lambda x, y, bits: x * y,
}
"""The same of two masks."""
