"""The ranges of a model's values, place by place, and the file that keeps them.

Places have the names of the model's parts: "embeddings.layer_norm", "layer.0.query", "layer.0.softmax",
"layer.0.attention.layer_norm", "layer.0.gelu", "layer.0.output.layer_norm". `measure` finds the ranges, `presets` and
the openings build on them.
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.functions.fits import Fits, fit_here

FILE_NAME = "calibration.json"
FORMAT = 3
MARGIN = 1.5
"""Ranges are widened by this factor at both ends before constants are chosen: unseen sentences go somewhat beyond."""


ROUNDED_BITS = 5
"""Of the ends of ranges that others than the model's owner see: exact ones would be a fingerprint of the weights."""


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

    def rounded(self) -> "Range":
        """A range that holds this one, its ends with `ROUNDED_BITS` significant bits."""
        return Range(_rounded(self.low, math.floor), _rounded(self.high, math.ceil))

    def widened(self, margin: float = MARGIN) -> "Range":
        """A range of positive values with a margin at both ends."""
        return Range(self.low / margin, self.high * margin)


def _rounded(value: float, whole: Callable[[float], int]) -> float:
    fraction, exponent = math.frexp(value)
    return math.ldexp(whole(fraction * 2**ROUNDED_BITS), exponent - ROUNDED_BITS)


@dataclass(frozen=True)
class Calibration:
    """Ranges by place and quantity, and what they were measured on.

    Quantities: query, key and value "output" (the queries divided by the root of the head's width); gelu "input";
    softmax "score", "centred_score" (less the mean over the row's real keys, before any bias is added) and
    "two_quad_mean" (mean over these keys of (score + 5)^2), and where attention has a bias "bias_mean" (its own mean
    over them); layer_norm "variance". A row sum of 2Quad with n real keys is n times a two_quad_mean, so ranges for any
    length follow. They hold for the family of functions that they were measured with (`presets.family`): the ranges of
    exact functions say nothing about a model under 2Quad.

    `fits` gives the series on these ranges.
    """

    fingerprint: str
    family: str = ""
    sentences: int = 0
    max_length: int = 0
    places: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    fits: Fits = field(default=fit_here, compare=False, repr=False)

    def range(self, place: str, quantity: str) -> Range:
        """One range; a UserError names what is missing."""
        try:
            return self.places[place][quantity]
        except KeyError:
            raise UserError(
                f"calibration has no range of {quantity} at {place}: run `secformer calibrate --model DIR` again"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without the fingerprint."""
        places = {
            place: {quantity: asdict(found) for quantity, found in ranges.items()}
            for place, ranges in self.places.items()
        }
        return {"family": self.family, "sentences": self.sentences, "max_length": self.max_length, "places": places}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], fingerprint: str = "") -> "Calibration":
        """The inverse of `to_json`; a KeyError, TypeError or ValueError where the values are none."""
        places = {
            str(place): {
                str(quantity): Range(float(ends["low"]), float(ends["high"])) for quantity, ends in ranges.items()
            }
            for place, ranges in values["places"].items()
        }
        return cls(fingerprint, str(values["family"]), int(values["sentences"]), int(values["max_length"]), places)

    def published(self) -> "Calibration":
        """What others than the owner see: rounded outward, and without the fingerprint, a hash of the weights."""
        places = {
            place: {quantity: found.rounded() for quantity, found in ranges.items()}
            for place, ranges in self.places.items()
        }
        return replace(self, fingerprint="", places=places)

    def check(self, family: str, length: int) -> None:
        """Refuse functions of another family, and a padded length beyond what was measured."""
        if self.family and self.family != family:
            raise UserError(f"calibration of {self.family} functions, and these are {family}: load that family")
        if length > self.max_length:
            raise UserError(
                f"calibration up to {self.max_length} tokens, and this request is padded to {length}: run `secformer "
                f"calibrate --model DIR --max-length {length}`"
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
        families[name] = each.to_json()
        del families[name]["family"]
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
            str(family): Calibration.from_json({**values, "family": family}, found)
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


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path
