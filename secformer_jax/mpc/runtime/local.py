"""Work on a party's own shares, outside SPU: equations of `linear`, by NumPy where arrays are small, and else by XLA.

SPU takes 3 to 8 nanoseconds an element for each elementary operation on a large array; XLA makes one loop of them all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from secformer_jax.mpc.runtime.kernel import Kernels
from secformer_jax.mpc.runtime.linear import CALLS, SUMS, secret_results
from secformer_jax.mpc.runtime.small import SmallFunction


class LocalFunction:
    """Compiled linear equations: from shares and public arrays to shares and public arrays.

    A share is int64 (components, *shape): see `values`. A public array has its own shape.

    Args:
        jaxpr: closed; its constants are public.
        secret: of its inputs.
        kernels: of functions that may be the same but for their constants.
    """

    def __init__(self, jaxpr: core.ClosedJaxpr, secret: Sequence[bool], kernels: Kernels | None = None) -> None:
        fits = SmallFunction.fits(jaxpr.jaxpr, CALLS)
        self.small = SmallFunction(jaxpr, secret, sums=SUMS, calls=CALLS) if fits else None
        self.secret_outputs = tuple(secret_results(jaxpr.jaxpr, secret))
        self._jaxpr, self._secret, self._kernels = jaxpr, tuple(secret), kernels or Kernels()

    def __call__(self, first: np.ndarray, arguments: Sequence[Any]) -> Sequence[np.ndarray | jax.Array]:
        """Run it on one party's shares.

        Args:
            first: int64 (components,), 1 for the component that takes what is public and 0 for every other.
            arguments: shares and public arrays; a share of one component may come packed, as `shares.pieces`, unless
                the function is small.
        """
        if isinstance(first, jax.core.Tracer):
            # Inside another function that XLA compiles.
            return self._by_kernel.traced(first, arguments)
        return self.by_xla(first, arguments) if self.small is None else self.small(first, arguments)

    def by_xla(self, first: np.ndarray, arguments: Sequence[Any]) -> list[jax.Array]:
        """The same, compiled whatever its size."""
        return self._by_kernel(first, arguments)

    @functools.cached_property
    def _by_kernel(self) -> Any:
        return self._kernels.find(self._jaxpr, self._secret)
