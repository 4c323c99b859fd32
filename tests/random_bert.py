"""Small BERT with random weights, and requests for it."""

from pathlib import Path

import jax
import numpy as np

from secformer_jax.functions import calibration, presets
from secformer_jax.functions.measure import update
from secformer_jax.models import transformer as bert
from secformer_jax.models.checkpoint import Checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.models.text import Encoded


def random_checkpoint(config: bert.Architecture, head: str = "classification", seed: int = 0) -> Checkpoint:
    """A model without a tokenizer. For logits that spread, take an initializer_range well over BERT's 0.02."""
    params = bert.init_params(config, head, jax.random.key(seed))
    return Checkpoint(config, params, head, tokenizer_dir=Path(), path=Path())


def random_request(config: bert.Architecture, seed: int, texts: int = 2, length: int = 16) -> Encoded:
    """Texts of random tokens, of different lengths, padded."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(4, length + 1, (texts, 1))).astype(np.float32)
    ids, types = rng.integers(1, config.vocab_size, (texts, length)), rng.integers(0, 2, (texts, length))
    return Encoded((ids * mask).astype(np.int32), (types * mask).astype(np.int32), mask)


def calibrate(model: Checkpoint, approximations: presets.Approximations, length: int = 16) -> calibration.Calibration:
    """The model's ranges on random tokens, under functions of the same family and no constants."""
    plain = Plaintext(model, presets.families()[presets.family(approximations)])
    seen = None
    for seed in range(8):
        request = random_request(model.config, 1000 + seed, 8, length)
        seen = update(seen, plain.intermediates(request)[1], request.attention_mask)
    assert seen is not None
    return seen
