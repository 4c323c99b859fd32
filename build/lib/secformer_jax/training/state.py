"""Training state on disk: one safetensors file, whole or not at all, from which a run goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from secformer_jax.errors import UserError


def save(path: Path, tree: Any, about: Mapping[str, Any]) -> None:
    """Write the leaves of a tree in order, and what there is to say about them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = {f"{i:05d}": np.asarray(leaf, order="C") for i, leaf in enumerate(jax.tree.leaves(tree))}
    partial = path.with_name(f"{path.name}.partial")
    safetensors.numpy.save_file(leaves, partial, metadata={"about": json.dumps(about)})
    partial.replace(path)


def load(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """A tree of the same structure and shapes as `like`, and what was said about it.

    Raises:
        UserError: the file can't be read or holds another tree.
    """
    leaves, structure = jax.tree.flatten(like)
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            about = json.loads((opened.metadata() or {})["about"])
            found = [opened.get_tensor(name) for name in sorted(opened.keys())]
    except Exception as error:  # safetensors raises its own type, and others on a damaged file
        raise UserError(f"{path} can't be read ({str(error)[:120]}): remove it to train from the start") from None
    if [leaf.shape for leaf in found] != [np.shape(leaf) for leaf in leaves]:
        raise UserError(f"{path} holds another model's training: remove it, or choose another --out")
    return jax.tree.unflatten(structure, found), about
