"""Protocols without a model: opened products, opened series, truncations."""
