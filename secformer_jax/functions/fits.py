"""Where the series of a model come from: fitted here, or as the model's owner fitted and published them.

A fit ends with LAPACK's rounding, which depends on the processor and on the number of its cores, and reweighting makes
it larger. All who compute one program need the same constants: so the owner fits, and the others read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ParamSpec, Protocol

from secformer_jax.errors import UserError

if TYPE_CHECKING:  # A client reads descriptions without JAX.
    from secformer_jax.functions.series import Series

P = ParamSpec("P")


class Fits(Protocol):
    """Gives `fit(*arguments, **more)`, one of `fitting`'s."""

    def __call__(self, fit: Callable[P, Series], *arguments: P.args, **more: P.kwargs) -> Series:
        """The series; a UserError where there is none."""


def fit_here(fit: Callable[P, Series], *arguments: P.args, **more: P.kwargs) -> Series:
    """See `Fits`."""
    return fit(*arguments, **more)


class OwnFits:
    """Fits here, and remembers what.

    Attributes:
        made: the series by their names, which others find them by.
    """

    def __init__(self) -> None:
        self.made: dict[str, Series] = {}

    def __call__(self, fit: Callable[P, Series], *arguments: P.args, **more: P.kwargs) -> Series:
        """See `Fits`."""
        series = fit(*arguments, **more)
        self.made[_name(fit, arguments, more)] = series
        return series


class PublishedFits:
    """What another has made; nothing is fitted.

    Args:
        made: as `OwnFits.made`.
    """

    def __init__(self, made: Mapping[str, Series]) -> None:
        self._made = made

    def __call__(self, fit: Callable[P, Series], *arguments: P.args, **more: P.kwargs) -> Series:
        """See `Fits`.

        Raises:
            UserError: there is none, or one whose period is no power of two and can't be opened.
        """
        name = _name(fit, arguments, more)
        if name not in self._made:
            raise UserError(f"a description without the series {name}: publish the model again")
        series = self._made[name]
        if not more.get("any_period") and math.frexp(series.period)[0] != 0.5:
            raise UserError(f"a description whose series {name} has the period {series.period}, no power of two")
        return series


def _name(fit: Callable, arguments: tuple, more: Mapping[str, object]) -> str:
    """Numbers with twelve digits: the last bits of an exponential depend on the processor, too."""
    parts = [_text(each) for each in arguments] + [f"{key}={_text(value)}" for key, value in sorted(more.items())]
    return f"{fit.__name__}({', '.join(parts)})"


def _text(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
