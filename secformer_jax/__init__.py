"""Private BERT inference: Flax models whose nonlinear functions compile to MPC programs on SecretFlow-SPU."""

__version__ = "0.1.0"
