"""Secure execution on SecretFlow-SPU: the only part of the package that imports spu."""
