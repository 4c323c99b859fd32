"""Decoders by masked openings, with a cache of keys and values that are opened once: the answer token by token."""
