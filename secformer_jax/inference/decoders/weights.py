"""What the owner of a decoder publishes: its weights as ring elements, and the keys and values of its fixed prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from secformer_jax.models.decoders.checkpoint import DecoderCheckpoint
from secformer_jax.models.decoders.plaintext import PlaintextDecoder
from secformer_jax.openings.decoder.fold import prepare


def prepared(model: DecoderCheckpoint, prefix: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Ring elements, one array after the other, with the names that `OpenedDecoder` declares.

    Args:
        model: the checkpoint.
        prefix: ids of the tokens that come before every request's.
    """
    if not prefix:
        return prepare(model.params, model.config, None)
    plaintext = PlaintextDecoder(model, len(prefix))
    plaintext.extend(np.asarray(prefix))
    return prepare(model.params, model.config, plaintext.rows())
