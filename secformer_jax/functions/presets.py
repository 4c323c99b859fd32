"""Which variant of each nonlinear function a model runs with: named variants, presets of three, and the functions
themselves.

`preset("secformer", softmax="puma")` chooses; `build` turns the choice into one function for each place in a model
of a given depth and length, with the constants that calibration gives. To add a variant: one more entry in GELU,
SOFTMAX or LAYER_NORM.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax

from secformer_jax.errors import UserError
from secformer_jax.functions import calibration as calibrate
from secformer_jax.functions import fitting, gelu, goldschmidt, preset_names, softmax
from secformer_jax.functions.calibration import Calibration
from secformer_jax.functions.deflation import choose_reciprocal, choose_rsqrt
from secformer_jax.functions.fits import Fits
from secformer_jax.functions.layer_norm import layer_norm, variance_unit
from secformer_jax.functions.series import Series

Gelu = Callable[[jax.Array], jax.Array]
Softmax = Callable[[jax.Array, jax.Array], jax.Array]
LayerNorm = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
SERIES_MARGIN = 1.25
"""A series' domain is its calibrated range widened by this factor: beyond it the result is wrong, not just coarser."""

GELU_MARGIN = 1.125
"""GeLU's series may have less: beyond its domain it saturates gently (see `fit_gelu_tail`), and twice the period is
twice the cost."""

Shape = tuple[int, ...]
Masking = Callable[[Callable, Series, Callable[..., Shape]], Callable]


def unmasked(function: Callable, series: Series, shape_of: Callable[..., Shape]) -> Callable:
    """Leave a function that evaluates a series as it is: plaintext. Under MPC, `Masking` has it opened under masks."""
    return function


@dataclass(frozen=True)
class LayerFunctions:
    """The functions of one layer: softmax(scores, mask), gelu(x), layer_norm(x, gamma, beta) twice."""

    softmax: Softmax
    attention_layer_norm: LayerNorm
    gelu: Gelu
    output_layer_norm: LayerNorm


@dataclass(frozen=True)
class ModelFunctions:
    """The functions of a whole encoder."""

    embeddings_layer_norm: LayerNorm
    layers: tuple[LayerFunctions, ...]


@dataclass(frozen=True)
class Place:
    """Where in a model a function goes, and all that its constants may depend on."""

    name: str
    length: int
    epsilon: float
    calibration: Calibration | None
    masking: Masking
    activation: str = "gelu"
    openings: bool = False

    def range(self, quantity: str) -> calibrate.Range:
        """The calibrated range of a quantity here."""
        return self._ranges().range(self.name, quantity)

    @property
    def fits(self) -> Fits:
        """What gives series on such ranges."""
        return self._ranges().fits

    def _ranges(self) -> Calibration:
        if self.calibration is None:
            raise UserError(f"{self.name} needs calibration: run `secformer calibrate --model DIR`")
        return self.calibration


@dataclass(frozen=True)
class Variant:
    """One way to compute a nonlinear function.

    Attributes:
        name: as on the command line.
        build: the function for a place.
        needs_calibration: whether `build` asks the place for ranges.
        family: the variant without constants that computes the same, up to its error: ranges are measured with it.
    """

    name: str
    build: Callable[[Place], Callable]
    needs_calibration: bool = False
    family: str = "exact"


@dataclass(frozen=True)
class Approximations:
    """One variant of each of the three functions.

    Attributes:
        openings: whether under MPC the whole model is computed by masked openings (package `openings`), and not
            function by function.
    """

    gelu: Variant
    softmax: Variant
    layer_norm: Variant
    openings: bool = False

    def names(self) -> dict[str, str]:
        """The variants' names by part: "gelu", "softmax", "layer_norm"."""
        return {part: getattr(self, part).name for part in ("gelu", "softmax", "layer_norm")}


def _two_quad_goldschmidt(place: Place) -> Softmax:
    """2Quad divided by Goldschmidt: its y is g mean/deflation with g at least 0.63 (softmax.count_deflation)."""
    means = place.range("two_quad_mean").widened()
    deflation, steps = choose_reciprocal(calibrate.Range(0.63 * means.low, means.high))
    reciprocal = partial(goldschmidt.reciprocal, deflation=1.0, steps=steps)
    return partial(softmax.softmax_two_quad, deflation=deflation, reciprocal=reciprocal)


def _layer_norm_goldschmidt(place: Place) -> LayerNorm:
    """LayerNorm with Goldschmidt's rsqrt, whose argument is variance_unit times the variance."""
    deflation, steps = choose_rsqrt(place.range("variance").widened())

    def layer_norm_goldschmidt(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        rsqrt = partial(goldschmidt.rsqrt, deflation=deflation * variance_unit(x.shape[-1]), steps=steps)
        return layer_norm(x, gamma, beta, epsilon=place.epsilon, rsqrt=rsqrt)

    return layer_norm_goldschmidt


def _same(shape: Shape, *_: Shape) -> Shape:
    return shape


def calibrated_gelu_tail(inputs: calibrate.Range, activation: str, fits: Fits, *, any_period: bool) -> Series:
    """gelu(x) - x/2 for the inputs of one layer; see `fitting.fit_gelu_tail`."""
    reach = max(-inputs.low, inputs.high) * GELU_MARGIN
    return fits(fitting.fit_gelu_tail, reach, activation=activation, any_period=any_period)


def _gelu_fourier(place: Place) -> Gelu:
    # SPU reduces modulo a power of two; the opened model scales the input until the shortest period is one.
    inputs = place.range("input")
    tail = calibrated_gelu_tail(inputs, place.activation, place.fits, any_period=place.openings)
    return place.masking(partial(gelu.gelu_fourier, tail=tail), tail, _same)


def _registry(*variants: Variant) -> Mapping[str, Variant]:
    return {variant.name: variant for variant in variants}


GELU = _registry(
    Variant("exact", lambda place: gelu.EXACT[place.activation]),
    Variant("quad", lambda place: gelu.gelu_quad, family="quad"),
    Variant("puma", lambda place: gelu.gelu_puma),
    Variant("fourier_segmented", lambda place: place.masking(gelu.gelu_fourier_segmented, gelu.SEGMENT_SERIES, _same)),
    Variant("fourier", _gelu_fourier, needs_calibration=True),
)
SOFTMAX = _registry(
    Variant("exact", lambda place: softmax.softmax_exact),
    Variant("puma", lambda place: softmax.softmax_puma),
    Variant("two_relu", lambda place: softmax.softmax_two_relu, family="two_relu"),
    Variant("two_quad", lambda place: softmax.softmax_two_quad, family="two_quad"),
    Variant("two_quad_goldschmidt", _two_quad_goldschmidt, needs_calibration=True, family="two_quad"),
)
LAYER_NORM = _registry(
    Variant("exact", lambda place: partial(layer_norm, epsilon=place.epsilon)),
    Variant("goldschmidt", _layer_norm_goldschmidt, needs_calibration=True),
)

PRESETS: Mapping[str, Approximations] = {
    name: Approximations(GELU[names.gelu], SOFTMAX[names.softmax], LAYER_NORM[names.layer_norm], names.openings)
    for name, names in preset_names.PRESETS.items()
}


def preset(
    name: str, *, gelu: str | None = None, softmax: str | None = None, layer_norm: str | None = None
) -> Approximations:
    """A preset by name, with any of its three parts replaced by the variant of that name.

    Raises:
        UserError: a name that there is not; a part replaced in a preset that computes all parts together.
    """
    chosen = _named(PRESETS, name, "preset")
    given = {"gelu": (GELU, gelu, "GeLU"), "softmax": (SOFTMAX, softmax, "softmax")}
    given["layer_norm"] = (LAYER_NORM, layer_norm, "LayerNorm")
    parts = {part: _named(variants, name, kind) for part, (variants, name, kind) in given.items() if name is not None}
    changed = replace(chosen, **parts)
    if chosen.openings and changed != chosen:
        raise UserError(
            f"{name} computes all three functions together, by masked openings, and none can be replaced: leave out "
            "--gelu, --softmax and --layer-norm, or replace them in another preset (puma computes each by itself)"
        )
    return changed


def from_names(names: Mapping[str, str], openings: bool) -> Approximations:
    """The inverse of `Approximations.names`.

    Raises:
        UserError: a name that there is not, or variants that can't be computed together by masked openings.
    """
    chosen = replace(preset("exact", **names), openings=openings)
    if openings and chosen not in PRESETS.values():
        raise UserError(f"no masked openings for the functions {', '.join(names.values())}")
    return chosen


def family(approximations: Approximations) -> str:
    """The family of functions whose ranges these need, as calibration.json names it: "exact/two_quad", GeLU first."""
    return f"{approximations.gelu.family}/{approximations.softmax.family}"


def families() -> dict[str, Approximations]:
    """Every family, and the functions to measure its ranges with: no constants, and exact LayerNorm."""
    gelus = dict.fromkeys(variant.family for variant in GELU.values())
    softmaxes = dict.fromkeys(variant.family for variant in SOFTMAX.values())
    pairs = ((GELU[one], SOFTMAX[other]) for one in gelus for other in softmaxes)
    return {family(chosen): chosen for chosen in (Approximations(*pair, LAYER_NORM["exact"]) for pair in pairs)}


def needs_calibration(approximations: Approximations) -> bool:
    """Whether `build` needs the ranges of the model."""
    return bool(_calibrated(approximations))


def build(
    approximations: Approximations,
    *,
    num_layers: int,
    epsilon: float,
    length: int,
    activation: str = "gelu",
    calibration: Calibration | None = None,
    masking: Masking = unmasked,
) -> ModelFunctions:
    """The functions for an encoder of this depth, epsilon and activation at this padded length.

    `masking(function, series, shape_of)` wraps a function that evaluates a series by its argument `evaluate`: MPC's
    masked opening comes in here.
    """
    calibrated = _calibrated(approximations)
    if calibrated and calibration is None:
        raise UserError(
            f"{' and '.join(calibrated)}: needs this model's ranges, and there is no {calibrate.FILE_NAME} beside it; "
            "run `secformer calibrate --model DIR`"
        )

    if calibrated and calibration is not None:
        calibration.check(family(approximations), length)

    def at(variant: Variant, name: str) -> Callable:
        return variant.build(Place(name, length, epsilon, calibration, masking, activation, approximations.openings))

    return ModelFunctions(
        embeddings_layer_norm=at(approximations.layer_norm, "embeddings.layer_norm"),
        layers=tuple(
            LayerFunctions(
                softmax=at(approximations.softmax, f"layer.{i}.softmax"),
                attention_layer_norm=at(approximations.layer_norm, f"layer.{i}.attention.layer_norm"),
                gelu=at(approximations.gelu, f"layer.{i}.gelu"),
                output_layer_norm=at(approximations.layer_norm, f"layer.{i}.output.layer_norm"),
            )
            for i in range(num_layers)
        ),
    )


def _calibrated(approximations: Approximations) -> list[str]:
    parts = {
        "GeLU": approximations.gelu,
        "softmax": approximations.softmax,
        "LayerNorm": approximations.layer_norm,
    }
    return [f"{part} {variant.name}" for part, variant in parts.items() if variant.needs_calibration]


def _named(registry: Mapping, name: str, kind: str):
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r}: choose one of {', '.join(registry)}")
    return registry[name]
