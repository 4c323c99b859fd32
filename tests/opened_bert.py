"""Small BERT for the opened model, and requests with chosen numbers of real tokens."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from random_bert import random_checkpoint

from secformer_jax.functions import presets
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.measure import update
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Encoded

LENGTH = 16
COUNTS = (2, 3, LENGTH // 2, LENGTH)
# Of one layer and of two: a third of a second of compilation for each stage is most of what these tests cost.
TINY = dataclasses.replace(bert.SHAPES["tiny"], num_hidden_layers=1, initializer_range=0.3)
WIDER = dataclasses.replace(TINY, num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=256)


def opened_checkpoint(config: bert.Architecture, head: str = "classification") -> Checkpoint:
    """Random weights. Small queries, so that scores keep clear of -5, as those of models distilled for 2Quad do."""
    model = random_checkpoint(config, head)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.15 * leaf if path[-2].key == "query" else leaf, model.params
    )
    return dataclasses.replace(model, params=params)


def request(config: bert.Architecture, seed: int, counts: Sequence[int] = COUNTS, length: int = LENGTH) -> Encoded:
    """Random texts with these numbers of real tokens, at one padded length."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < np.array(counts)[:, None]).astype(np.float32)
    ids, types = rng.integers(1, config.vocab_size, mask.shape), rng.integers(0, 2, mask.shape)
    return Encoded((ids * mask).astype(np.int32), (types * mask).astype(np.int32), mask)


def calibrate(model: Checkpoint, preset: str, length: int = LENGTH) -> Calibration:
    """Ranges on texts of 2 tokens up to the whole length."""
    approximations, seen = presets.preset(preset), None
    family = presets.family(approximations)
    plain = Plaintext(model, presets.families()[family])
    for seed in range(8):
        texts = request(model.config, 1000 + seed, 2 * COUNTS, length)
        seen = update(seen, plain.intermediates(texts)[1], texts.attention_mask, family=family)
    assert seen is not None
    return seen
