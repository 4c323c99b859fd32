"""Where each variant is swept and what it may err by: one table for plaintext and for SPU.

A new variant gets an entry in ERRORS; the tests fail while it has none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from secformer_jax.functions import presets
from secformer_jax.functions.measure import update
from secformer_jax.functions.series import Series

VARIANTS = {"gelu": presets.GELU, "softmax": presets.SOFTMAX, "layer_norm": presets.LAYER_NORM}
LENGTH = 32


@dataclass(frozen=True)
class Error:
    """Max error against `truth`.

    For GeLU: it holds for arguments within `limit` of 0 and is reached at `at`; on SPU `domain` is swept.
    """

    bound: float
    truth: Callable
    limit: float = 0.0
    at: float | None = None
    domain: float = 64.0


def gelu_truth(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + erf(x / 2**0.5))


def _distribution(numerator: Callable[[np.ndarray], np.ndarray]) -> Callable:
    def truth(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        numerators = numerator(scores.astype(np.float64)) * mask
        return numerators / numerators.sum(-1, keepdims=True)

    return truth


softmax_truth = _distribution(np.exp)
two_relu_truth = _distribution(lambda scores: np.maximum(scores, 0) + 0.01)
two_quad_truth = _distribution(lambda scores: np.square(scores + 5))


def layer_norm_truth(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * gamma + beta


ERRORS: dict[str, dict[str, Error]] = {
    "gelu": {
        "exact": Error(1e-12, gelu_truth, 64.0),
        "quad": Error(0.561, gelu_truth, 2.0),
        "puma": Error(0.01992, gelu_truth, 64.0, at=3.0),
        "fourier_segmented": Error(0.01949, gelu_truth, 64.0, at=2.404),
        "fourier": Error(0.001, gelu_truth, 28.0, domain=28.0),
    },
    "softmax": {
        "exact": Error(1e-6, softmax_truth),
        "puma": Error(0.1, softmax_truth),
        "two_relu": Error(1e-6, two_relu_truth),
        "two_quad": Error(1e-6, two_quad_truth),
        "two_quad_goldschmidt": Error(2.0**-10, two_quad_truth),
    },
    "layer_norm": {
        "exact": Error(1e-5, layer_norm_truth),
        "goldschmidt": Error(2.0**-9, layer_norm_truth),
    },
}


def in_float64(series: Series, x: np.ndarray) -> np.ndarray:
    """A series by NumPy, at any real x (n,)."""
    angle = np.outer(x, 2 * np.pi / series.period * np.asarray(series.harmonics))
    return series.constant + np.cos(angle) @ np.asarray(series.cos) + np.sin(angle) @ np.asarray(series.sin)


def coefficient_sum(series: Series) -> float:
    """Sum of the coefficients' sizes: a rounding of the public sines is multiplied by that at most."""
    return float(np.abs(series.cos).sum() + np.abs(series.sin).sum())


def masked_scores(keys: int, deviation: float, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores (rows, queries, keys), one row for each number of real keys, and their mask."""
    scores = np.random.default_rng(keys).normal(size=(len(counts), 4, keys)) * deviation
    mask = np.arange(keys) < np.array(counts)[:, None, None]
    return scores.clip(-31, 31).astype(np.float32), mask.astype(np.float32)


def rows_of_variance(low: float, high: float, hidden_size: int, rows: int = 24) -> np.ndarray:
    """Rows whose variances go from low to high, with a mean of 0.3 deviations."""
    deviations = np.sqrt(np.geomspace(low, high, rows))[:, None]
    noise = np.random.default_rng(0).normal(size=(rows, hidden_size))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True)
    return ((noise + 0.3) * deviations).astype(np.float32)


def arguments(function: str, variant: str) -> Iterator[tuple[np.ndarray, ...]]:
    """Inputs over the whole domain of a variant.

    GeLU: |x| up to its domain, on the grid of 18 fraction bits. Softmax: 32 to 512 keys, 2 of them real up to all.
    LayerNorm: the variances of real models, the small ones of embeddings and the wide ones of layers.
    """
    if function == "gelu":
        x = np.linspace(-1, 1, 100_001) * ERRORS[function][variant].domain
        yield ((np.rint(x * 2**18) / 2**18).astype(np.float32),)
    elif function == "softmax":
        for keys in (32, 128, 512):
            for deviation in (2.0, 8.0):
                yield masked_scores(keys, deviation, [2, keys // 4, keys])
    else:
        for low, high in ((0.0038, 0.029), (0.14, 130.0)):
            for hidden_size in (384, 768):
                x = rows_of_variance(low, high, hidden_size)
                yield x, np.ones(hidden_size, np.float32), np.zeros(hidden_size, np.float32)


def place(
    function: str,
    arguments: tuple[np.ndarray, ...] = (),
    masking: presets.Masking = presets.unmasked,
) -> presets.Place:
    """A place in a model, calibrated on these arguments."""
    name, seen = {"gelu": "layer.0.gelu", "softmax": "layer.0.softmax", "layer_norm": "embeddings.layer_norm"}, None
    if arguments and function == "softmax":
        scores, mask = arguments
        seen = update(None, {"layer.0.softmax": scores[:, None]}, mask[:, 0])
    elif arguments and function == "layer_norm":
        x = arguments[0]
        seen = update(None, {"embeddings.layer_norm": x[None]}, np.ones((1, len(x))))
    elif arguments:
        x = arguments[0].reshape(1, 1, -1)
        seen = update(None, {"layer.0.gelu": x}, np.ones((1, 1)))
    return presets.Place(name[function], LENGTH, 1e-12, seen, masking)


def build(function: str, variant: str, arguments: tuple[np.ndarray, ...] = (), **options) -> Callable:
    """A variant by name, calibrated on these arguments."""
    return VARIANTS[function][variant].build(place(function, arguments, **options))
