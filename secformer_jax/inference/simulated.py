"""The engine in this process as one who answers batches of texts."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from secformer_jax.errors import UserError
from secformer_jax.functions.presets import Approximations, preset
from secformer_jax.inference.private import PrivateModel
from secformer_jax.models.architecture import Architecture
from secformer_jax.models.checkpoint import Checkpoint, load
from secformer_jax.models.heads import HEADS
from secformer_jax.models.text import Encoded, Tokenizer

TOKENS = 512
"""In a batch, padding included."""


class Simulated:
    """See `texts.Answering`.

    Args:
        private: who computes.
        config: its model's architecture.
        head: what it answers with.
    """

    labels_alone = False

    def __init__(self, private: PrivateModel, config: Architecture, head: str) -> None:
        self._private, self.config, self.head = private, config, head

    def most(self, length: int) -> int:
        """Fewer of longer texts."""
        return max(HEADS[self.head].rows, 1 << (max(1, TOKENS // length).bit_length() - 1))

    async def logits(self, encoded: Encoded) -> np.ndarray:
        """See `texts.Answering`."""
        return self._private(encoded).logits


@contextlib.contextmanager
def simulated(
    model: str | os.PathLike[str], functions: str | Approximations, config: str, heads: Sequence[str]
) -> Iterator[tuple[Simulated, Tokenizer]]:
    """A model whose private computation runs in this process.

    Args:
        model: its folder or name.
        functions: a preset, or its name; "" for the one that the model was trained for, or else drop-in.
        config: the protocol's configuration.
        heads: one of these answers.

    Raises:
        UserError: no such model, preset or configuration, or the model has none of these heads.
    """
    loaded = load(model)
    if loaded.head not in heads:
        raise UserError(f"the model answers with {loaded.head}, and {', '.join(heads)} was asked for")
    chosen = (preset(functions) if functions else _own(loaded)) if isinstance(functions, str) else functions
    with PrivateModel(loaded, chosen, config, head=loaded.head) as private:
        yield Simulated(private, loaded.config, loaded.head), Tokenizer(loaded.tokenizer_dir, loaded.config)


def _own(model: Checkpoint) -> Approximations:
    """Those that its folder names: a model that was distilled for other functions answers wrongly with any others."""
    path = model.path / "preset.json"
    if not path.is_file():
        return preset("drop-in")
    try:
        named = json.loads(path.read_text(encoding="utf-8"))
        return preset(named.pop("preset"), **named)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} can't be read ({error}): name a preset") from None
