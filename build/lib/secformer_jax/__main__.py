"""`python -m secformer_jax`: the command `secformer`."""

from secformer_jax.cli.app import main

main()
