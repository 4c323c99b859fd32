"""What the commands share: the choice of functions, and the way to a running private model."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secformer_jax.errors import UserError
from secformer_jax.functions.calibration import Calibration

if TYPE_CHECKING:
    from secformer_jax.functions.presets import Approximations
    from secformer_jax.inference.private import PrivateModel
    from secformer_jax.models.checkpoint import Checkpoint

PRESET_FILE = "preset.json"
DEFAULT_PRESET = "drop-in"
"""For a model that says nothing of how it was trained."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A preset, with any of its three parts replaced, by name; no preset stands for the model's own."""

    preset: str = ""
    gelu: str | None = None
    softmax: str | None = None
    layer_norm: str | None = None

    def approximations(self) -> Approximations:
        """The functions themselves; those of the preset exact where none is named."""
        # A cluster's client makes none, and has no JAX.
        from secformer_jax.functions import presets

        return presets.preset(self.preset or "exact", gelu=self.gelu, softmax=self.softmax, layer_norm=self.layer_norm)

    def entry(self) -> dict[str, Any]:
        """The preset and the three variants, for JSON."""
        return {"preset": self.preset, **self.approximations().names()}

    def save(self, folder: Path) -> None:
        """Write it beside a model that was trained for it."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / PRESET_FILE).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        parts = (("GeLU", self.gelu), ("softmax", self.softmax), ("LayerNorm", self.layer_norm))
        replaced = ", ".join(f"{part} {name}" for part, name in parts if name is not None)
        return f"{self.preset} with {replaced}" if replaced else self.preset


def choice_for(model: Checkpoint, given: Choice, default: str = DEFAULT_PRESET) -> Choice:
    """The choice given, or where it names no preset the one that the model was trained for, or else the default.

    Parts that the given choice replaces are replaced in the model's own as well.
    """
    if given.preset:
        return given
    own, path = Choice(default), model.path / PRESET_FILE
    if path.is_file():
        try:
            own = Choice(**json.loads(path.read_text(encoding="utf-8")))
            own.approximations()
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}): pass --preset") from None
    return dataclasses.replace(own, **{name: part for name, part in dataclasses.asdict(given).items() if part})


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the private model runs: a configuration's name or path, and two choices of `PrivateModel`."""

    config: str = "2pc_semi2k"
    embedding: str = "client"
    keep_weights: bool = True

    def check(self) -> None:
        """Refuse a bad configuration before a model is read."""
        _spu()
        from secformer_jax.mpc.runtime import config

        config.load(self.config)

    def start(
        self, model: Checkpoint, choice: Choice, calibration: Calibration | None, head: str | None = None
    ) -> PrivateModel:
        """Start the computing parties and share the weights among them."""
        _spu()
        from secformer_jax.inference.private import PrivateModel

        return PrivateModel(
            model,
            choice.approximations(),
            self.config,
            calibration=calibration,
            embedding=self.embedding,
            keep_weights=self.keep_weights,
            head=head,
        )


def _spu() -> None:
    if importlib.util.find_spec("spu") is None:
        raise UserError("spu is not installed, and private runs need it: pip install 'secformer_jax[mpc]'")


def checked_length(max_length: int | None, model: Checkpoint) -> None:
    """Refuse a padded length that the model has no positions for."""
    positions = model.config.positions
    if max_length is not None and not 3 <= max_length <= positions:
        raise UserError(f"--max-length {max_length}, and this model takes 3 to {positions} tokens: pass one of those")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path} can't be read ({reason}): pass a text file with one sentence a line") from None
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty: one sentence a line was expected")
    return lines
