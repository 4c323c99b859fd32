"""64-bit numbers in JAX, whose default is 32 bits: ring elements are int64.

`with enable_x64():` holds for what is traced, lowered or run inside it. JAX 0.8 moved it, JAX 0.9 has no other.
"""

from __future__ import annotations

import jax

if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:
    from jax.experimental import enable_x64 as enable_x64

__all__ = ["enable_x64"]
