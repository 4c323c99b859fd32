"""Where is kept what can be made again: compiled stages, and the ranges of models in folders that can't be written."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`SECFORMER_CACHE`, or secformer_jax in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secformer_jax"
    return Path(os.environ.get("SECFORMER_CACHE") or default)
