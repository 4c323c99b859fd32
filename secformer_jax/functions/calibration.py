"""What a plaintext pass over real sentences says about a model's ranges, and the Goldschmidt constants that follow
from it.

Places have the names of the model's parts: "embeddings.layer_norm", "layer.0.softmax", "layer.0.attention.layer_norm",
"layer.0.gelu", "layer.0.output.layer_norm". Padded keys don't count, but padded query rows and padded positions do:
under MPC they are computed like the others, and a value out of range there wraps just as well.
"""

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from secformer_jax.errors import UserError

FILE_NAME = "calibration.json"
FORMAT = 2
MARGIN = 1.5
"""Ranges are widened by this factor at both ends before constants are chosen: unseen sentences go somewhat beyond."""
TOLERANCE = 2.0**-10
TWO_QUAD_SHIFT = 5.0

_FRACTION_UNIT = 2.0**-18
_MAX_STEPS = 40


@dataclass(frozen=True)
class Range:
    """A closed interval that holds every value seen."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"range from {self.low} to {self.high}")

    def union(self, other: "Range") -> "Range":
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    def scaled(self, factor: float) -> "Range":
        """The range of the values times a positive factor."""
        return Range(self.low * factor, self.high * factor)

    def widened(self, margin: float = MARGIN) -> "Range":
        """A range of positive values with a margin at both ends."""
        return Range(self.low / margin, self.high * margin)


@dataclass(frozen=True)
class Calibration:
    """Ranges by place and quantity, and what they were measured on.

    Quantities: gelu "input"; softmax "score", "centred_score" (less the mean over the row's real keys, before any
    bias is added) and "two_quad_mean" (mean over these keys of (score + 5)^2), and where attention has a bias
    "bias_mean" (its own mean over them); layer_norm "variance". A row sum of 2Quad with n real keys is n times a
    two_quad_mean, so ranges for any length follow. They hold for the family of functions that they were measured with
    (`presets.family`): the ranges of exact functions say nothing about a model under 2Quad.
    """

    fingerprint: str
    family: str = ""
    sentences: int = 0
    max_length: int = 0
    places: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)

    def range(self, place: str, quantity: str) -> Range:
        """One range; a UserError names what is missing."""
        try:
            return self.places[place][quantity]
        except KeyError:
            raise UserError(
                f"calibration has no range of {quantity} at {place}: run `secformer calibrate --model DIR` again"
            ) from None

    def check(self, family: str, length: int) -> None:
        """Refuse functions of another family, and a padded length beyond what was measured."""
        if self.family and self.family != family:
            raise UserError(f"calibration of {self.family} functions, and these are {family}: load that family")
        if length > self.max_length:
            raise UserError(
                f"calibration up to {self.max_length} tokens, and this request is padded to {length}: run `secformer "
                f"calibrate --model DIR --max-length {length}`"
            )


def update(
    calibration: Calibration | None,
    intermediates: Mapping[str, np.ndarray],
    mask: np.ndarray,
    *,
    fingerprint: str = "",
    family: str = "",
) -> Calibration:
    """The calibration with one more batch in it; None starts one for the model with this fingerprint.

    intermediates: the model's named intermediates (others than those listed in _MEASURES are passed over);
    mask (batch, length): 1 for real tokens.
    """
    old = calibration or Calibration(fingerprint, family)
    mask = np.asarray(mask) != 0
    if not mask.any(axis=1).all():
        raise ValueError("a sentence without a real token")
    places = {place: dict(ranges) for place, ranges in old.places.items()}
    bias = intermediates.get("attention_bias")
    for name, value in intermediates.items():
        for pattern, place, measure in _MEASURES:
            match = re.fullmatch(pattern, name)
            if match is None:
                continue
            ranges = places.setdefault(match.expand(place), {})
            for quantity, new in measure(np.asarray(value, np.float64), mask, bias).items():
                ranges[quantity] = ranges[quantity].union(new) if quantity in ranges else new
    return Calibration(
        fingerprint=old.fingerprint,
        family=old.family,
        sentences=old.sentences + mask.shape[0],
        max_length=max(old.max_length, mask.shape[1]),
        places=places,
    )


def save(calibrations: Iterable[Calibration], path: str | os.PathLike[str]) -> Path:
    """Writes calibration.json (into `path` if that is a folder), whole or not at all.

    It holds one set of ranges for each family of functions of one model; other families of the same model that are in
    the file already stay.
    """
    path = _file(path)
    calibrations = list(calibrations)
    by_family = {each.family: each for each in calibrations}
    fingerprints = {each.fingerprint for each in calibrations}
    if len(fingerprints) != 1 or "" in by_family:
        raise ValueError("calibrations of one model, each with its family, are needed")
    with contextlib.suppress(UserError):
        by_family = load_all(path, fingerprint=min(fingerprints)) | by_family
    families = {}
    for name, each in sorted(by_family.items()):
        families[name] = asdict(each)
        del families[name]["fingerprint"], families[name]["family"]
    text = json.dumps({"format": FORMAT, "fingerprint": min(fingerprints), "families": families}, indent=1)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}): pass --calibration FILE") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def load_all(path: str | os.PathLike[str], *, fingerprint: str | None = None) -> dict[str, Calibration]:
    """Every family in a calibration.json; with a fingerprint, refuses one that was made for another model."""
    path = _file(path)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no calibration at {path}: run `secformer calibrate --model {path.parent}`") from None
    except (OSError, ValueError) as error:
        raise UserError(f"calibration {path} can't be read ({error}): run `secformer calibrate` again") from None
    try:
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']}, expected {FORMAT}")
        found = str(stored["fingerprint"])
        calibrations = {
            str(family): Calibration(
                found, str(family), int(values["sentences"]), int(values["max_length"]), _places(values["places"])
            )
            for family, values in stored["families"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"calibration {path} is not valid ({error!r}): run `secformer calibrate` again") from None
    if fingerprint is not None and found != fingerprint:
        raise UserError(
            f"calibration made for another model: {path} has fingerprint {found[:12]}, "
            f"this model {fingerprint[:12]}; run `secformer calibrate --model {path.parent}`"
        )
    return calibrations


def load(path: str | os.PathLike[str], *, fingerprint: str | None = None, family: str) -> Calibration:
    """The ranges of one family of functions in a calibration.json; see `load_all`."""
    calibrations = load_all(path, fingerprint=fingerprint)
    if family not in calibrations:
        raise UserError(
            f"calibration {_file(path)} has no ranges of {family} functions, only {', '.join(calibrations) or 'none'}: "
            f"run `secformer calibrate --model {_file(path).parent}`"
        )
    return calibrations[family]


def _places(stored: Mapping) -> dict[str, dict[str, Range]]:
    return {
        str(place): {str(quantity): Range(float(ends["low"]), float(ends["high"])) for quantity, ends in ranges.items()}
        for place, ranges in stored.items()
    }


def choose_reciprocal(q_range: Range, tolerance: float = TOLERANCE) -> tuple[float, int]:
    """(deflation, steps) for goldschmidt.reciprocal on this range, which should include a margin already.

    Deflation: the middle of the range, where both ends converge alike, but at least high/1.8: 2 - y near 0 costs
    precision.
    Steps: the fewest with a relative error within the tolerance at both ends, rounding of the tracked y included.
    """
    low, high = _positive(q_range)
    deflation = max((low + high) / 2, high / 1.8)
    ends = (low / deflation, high / deflation)
    for steps in range(1, _MAX_STEPS):
        if all(_reciprocal_error(y, steps) <= tolerance for y in ends):
            return deflation, steps
    raise ValueError(f"no number of steps reaches {tolerance} on {q_range}")


def choose_rsqrt(q_range: Range, tolerance: float = TOLERANCE) -> tuple[float, int]:
    """(deflation, steps) for goldschmidt.rsqrt on this range, which should include a margin already.

    Both from a search over deflations that put the high end at y from 1.2 to 2.5: the fewest steps, then the largest
    deflation (furthest from divergence at y = 3).
    """
    low, high = _positive(q_range)
    best: tuple[int, float] | None = None
    for y_high in np.linspace(1.2, 2.5, 27):
        deflation = high / float(y_high)
        for steps in range(1, _MAX_STEPS if best is None else best[0]):
            if all(_rsqrt_error(q / deflation, steps) <= tolerance for q in (low, high)):
                best = (steps, deflation)
                break
    if best is None:
        raise ValueError(f"no number of steps reaches {tolerance} on {q_range}")
    return best[1], best[0]


def _reciprocal_error(y: float, steps: int) -> float:
    """Relative error after the steps; the last squares both what is left and the rounding gathered by then."""
    left, drift = 1.0 - y, 0.0
    for _ in range(steps - 1):
        drift += _FRACTION_UNIT / max(1.0 - abs(left), _FRACTION_UNIT)
        left = left * left
    return (abs(left) + drift) ** 2


def _rsqrt_error(y: float, steps: int) -> float:
    drift = 0.0
    for _ in range(steps - 1):
        drift += _FRACTION_UNIT / max(y, _FRACTION_UNIT)
        y = y * (3.0 - y) ** 2 / 4.0
    root = math.sqrt(y) * (1.0 - drift)
    return abs(1.0 - root * (3.0 - root * root) / 2.0)


def _positive(q_range: Range) -> tuple[float, float]:
    if q_range.high <= 0:
        raise ValueError(f"a range of positive values is needed, not {q_range}")
    return max(q_range.low, q_range.high * 2.0**-12), q_range.high


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path


def _span(values: np.ndarray) -> Range:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("calibration met a value that is not a finite number: check the model's weights")
    return Range(low, high)


def _measure_scores(scores: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    keys = np.broadcast_to(mask[:, None, None, :], scores.shape)
    means = np.mean(np.square(scores + TWO_QUAD_SHIFT), axis=-1, where=keys)
    found = {"score": _span(scores[keys]), "two_quad_mean": _span(means)}
    centre = np.mean(scores, axis=-1, where=keys, keepdims=True)
    if bias is not None:
        own = np.mean(np.broadcast_to(bias, scores.shape), axis=-1, where=keys, keepdims=True)
        found["bias_mean"], centre = _span(own), centre - own
    return {**found, "centred_score": _span((scores - centre)[keys])}


def _measure_input(values: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    return {"input": _span(values)}


def _measure_variance(values: np.ndarray, mask: np.ndarray, bias: np.ndarray | None) -> dict[str, Range]:
    return {"variance": _span(values.var(axis=-1))}


_Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], dict[str, Range]]
_MEASURES: tuple[tuple[str, str, _Measure], ...] = (
    (r"(layer\.\d+)\.attention_scores", r"\1.softmax", _measure_scores),
    (r"(layer\.\d+)\.pre_gelu", r"\1.gelu", _measure_input),
    (r"embeddings\.pre_layer_norm", "embeddings.layer_norm", _measure_variance),
    (r"(layer\.\d+\.(?:attention|output))\.pre_layer_norm", r"\1.layer_norm", _measure_variance),
)
