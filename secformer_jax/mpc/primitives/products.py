"""Products of two secrets by opened differences (Beaver 1991), for whole layers at once.

With e = x - a opened and a known to the dealer, x y = e y + a (y - b) + a b for any bilinear product: local work once
both differences are open. A weight is masked once and stays; a value that serves several products is opened once.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from secformer_jax.mpc.material import Material, Randomness
from secformer_jax.mpc.primitives.ring import ring_matmul

Bilinear = Callable[[jax.Array, jax.Array], jax.Array]


class Weight(flax.struct.PyTreeNode):
    """A weight that stays between requests: its mask's shares, and the masked weight in clear."""

    mask: jax.Array
    opened: jax.Array

    @property
    def ring(self) -> jax.Array:
        """Shares of the weight itself."""
        return self.mask + self.opened


class WeightProducts(Material):
    """A mask a for a value (..., n, d), and its products with the masks of the weights that the value meets."""

    a: jax.Array
    products: dict[str, jax.Array]
    kinds: tuple[tuple[str, str], ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, shape: tuple[int, ...], **weights: tuple[str, str, tuple[int, ...]]) -> WeightProducts:
        """Shapes: for each weight its kind ("matmul" or "scale"), the dealer's name of its mask, and its shape."""
        products = {
            key: jnp.zeros(shape if kind == "scale" else (*shape[:-1], of[-1]), jnp.int64)
            for key, (kind, _, of) in weights.items()
        }
        kinds = tuple((kind, name) for _, (kind, name, _) in sorted(weights.items()))
        return cls(jnp.zeros(shape, jnp.int64), products, kinds)

    def deal(self, randomness: Randomness, resident) -> WeightProducts:
        """Fresh masks; see Material."""
        a = randomness.bits(self.a.shape)
        multiply: dict[str, Callable] = {"matmul": ring_matmul, "scale": np.multiply}
        products = {
            key: multiply[kind](a, resident[name])
            for key, (kind, name) in zip(sorted(self.products), self.kinds, strict=True)
        }
        return self.replace(a=a, products=products)

    def times(self, key: str, opening: jax.Array, weight: Weight) -> jax.Array:
        """The product of the opened value with a weight, untruncated; the part of the mask can run ahead of time."""
        multiply = (
            jnp.multiply if dict(zip(sorted(self.products), self.kinds, strict=True))[key][0] == "scale" else matmul
        )
        return multiply(opening, weight.ring) + (multiply(self.a, weight.opened) + self.products[key])


class ProductMasks(Material):
    """Masks a, b for two secrets and the product of the masks."""

    a: jax.Array
    b: jax.Array
    ab: jax.Array
    product: str = flax.struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, product: str, a: tuple[int, ...], b: tuple[int, ...]) -> ProductMasks:
        """Shapes for a product in `PRODUCTS`."""
        x, y = jnp.zeros(a, jnp.int64), jnp.zeros(b, jnp.int64)
        return cls(x, y, jnp.zeros(jax.eval_shape(PRODUCTS[product], x, y).shape, jnp.int64), product)

    def deal(self, randomness: Randomness, resident) -> ProductMasks:
        """Fresh masks; see Material."""
        a, b = randomness.bits(self.a.shape), randomness.bits(self.b.shape)
        return self.replace(a=a, b=b, ab=NUMPY_PRODUCTS[self.product](a, b))

    def times(self, x_opening: jax.Array, y: jax.Array, y_opening: jax.Array) -> jax.Array:
        """x y from both openings and the shares of y; untruncated."""
        multiply = PRODUCTS[self.product]
        return multiply(x_opening, y) + multiply(self.a, y_opening) + self.ab


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """x (..., n, d) times a matrix y (d, k), as one product of two matrices."""
    return (x.reshape(-1, x.shape[-1]) @ y).reshape(*x.shape[:-1], y.shape[-1])


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", q, k)


def _context(p: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.einsum("bhqk,bhkd->bhqd", p, v)


PRODUCTS: dict[str, Bilinear] = {"scores": _scores, "context": _context, "elementwise": jnp.multiply}
NUMPY_PRODUCTS: dict[str, Callable] = {
    "scores": lambda q, k: ring_matmul(q, np.swapaxes(k, -1, -2)),
    "context": lambda p, v: ring_matmul(p, v),
    "elementwise": np.multiply,
}
