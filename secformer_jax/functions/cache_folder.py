"""Where is kept what can be made again: compiled stages, fitted series, ranges of models in read-only folders."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`SECFORMER_CACHE`, or secformer_jax in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secformer_jax"
    return Path(os.environ.get("SECFORMER_CACHE") or default)


def key(*parts: object) -> str:
    """A name for what these parts give."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read(name: str) -> bytes | None:
    """What is kept under a name, if it is there and whole."""
    try:
        digest, _, data = (cache_folder() / name).read_bytes().partition(b"\n")
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest().encode() == digest else None


def write(name: str, data: bytes) -> None:
    """Keep something under a name, whole or not at all; a folder that can't be written is no error."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_folder(), delete=False) as file:
            file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        os.replace(file.name, cache_folder() / name)
    except OSError:
        return
