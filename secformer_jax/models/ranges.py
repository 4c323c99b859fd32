"""Where a model's ranges are kept: beside it, or in the cache where its folder can't be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from secformer_jax.errors import UserError
from secformer_jax.functions import calibration as calibrations
from secformer_jax.functions import presets
from secformer_jax.functions.cache_folder import cache_folder
from secformer_jax.functions.calibration import Calibration
from secformer_jax.models.checkpoint import Checkpoint


class Model(Protocol):
    """What ranges are kept for."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def fingerprint(self) -> str:
        """Of its configuration and weights."""


def load_calibration(
    model: Checkpoint, approximations: presets.Approximations, path: str | Path | None = None
) -> Calibration | None:
    """The model's ranges for these functions, or None where they need none; from where they are kept by default.

    Raises:
        UserError: there are none, or they were made for another model.
    """
    if not presets.needs_calibration(approximations):
        return None
    family = presets.family(approximations)
    for kept in [] if path else _places(model):
        if kept.is_file() and family in calibrations.load_all(kept, fingerprint=model.fingerprint):
            path = kept
            break
    path = path or model.path / calibrations.FILE_NAME
    return calibrations.load(path, fingerprint=model.fingerprint, family=family)


def kept_for(model: Model, family: str, length: int) -> Calibration | None:
    """The ranges kept for a family of functions and texts of this length, or None where there are none yet.

    Raises:
        UserError: a file that was made for another model, or is damaged.
    """
    found = None
    for kept in _places(model):
        if kept.is_file():
            each = calibrations.load_all(kept, fingerprint=model.fingerprint).get(family)
            found = each if each is not None and each.max_length >= length else found
    return found


def keep(model: Model, measured: Sequence[Calibration]) -> Path:
    """Write ranges beside the model, or else into the cache; returns where."""
    beside, cached = _places(model)
    if os.access(model.path, os.W_OK):
        return calibrations.save(measured, beside)
    cached.parent.mkdir(parents=True, exist_ok=True)
    return calibrations.save(measured, cached)


def _places(model: Model) -> tuple[Path, Path]:
    if not (model.path / "config.json").is_file():
        raise UserError("this model has no folder, and so no ranges: pass a calibration")
    cached = cache_folder() / "calibrations" / f"{model.fingerprint}.json"
    return model.path / calibrations.FILE_NAME, cached
