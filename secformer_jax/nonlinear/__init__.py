"""Plain, differentiable JAX functions: every published approximation, once."""
