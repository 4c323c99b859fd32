"""Compiled stages kept on disk: SPU's compiler takes a third of a second for each, and they are the same every time.

What is kept is SPU's code for a shape of model: it holds public constants and no weight, input or mask.
"""

from __future__ import annotations

import hashlib
import os
import tempfile

import jax
import spu

from secformer_jax.functions.cache_folder import cache_folder


def key(*parts: object) -> str:
    """A name for what these parts compile to with the installed versions."""
    text = repr((spu.__version__, jax.__version__, *parts))
    return hashlib.sha256(text.encode()).hexdigest()


def read(name: str) -> bytes | None:
    """The code kept under a name, if it is there and whole."""
    try:
        digest, _, code = (cache_folder() / name).read_bytes().partition(b"\n")
    except OSError:
        return None
    return code if hashlib.sha256(code).hexdigest().encode() == digest else None


def write(name: str, code: bytes) -> None:
    """Keep code under a name, whole or not at all; a folder that can't be written is no error."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_folder(), delete=False) as file:
            file.write(hashlib.sha256(code).hexdigest().encode() + b"\n" + code)
        os.replace(file.name, cache_folder() / name)
    except OSError:
        return
