"""Series as their owner fitted them: found by name, checked, and none fitted again."""

import json
import math

import pytest

from secformer_jax.errors import UserError
from secformer_jax.functions.fits import OwnFits, PublishedFits
from secformer_jax.functions.fitting import fit_exponential, fit_gelu_tail, fit_reciprocal, fit_tanh
from secformer_jax.functions.series import MOST_HARMONICS, Series

WANTED = (
    (fit_reciprocal, (0.5, 7.25), {"tolerance": 0.03}),
    (fit_exponential, (-3.25, 2.5), {}),
    (fit_gelu_tail, (6.125,), {"activation": "gelu", "any_period": True}),
    (fit_tanh, (), {}),
)


def test_what_is_published_is_what_was_fitted():
    own = OwnFits()
    fitted = [own(fit, *arguments, **more) for fit, arguments, more in WANTED]
    assert fitted == [fit(*arguments, **more) for fit, arguments, more in WANTED]
    text = json.dumps({name: series.to_json() for name, series in own.made.items()})
    published = PublishedFits({name: Series.from_json(values) for name, values in json.loads(text).items()})
    assert [published(fit, *arguments, **more) for fit, arguments, more in WANTED] == fitted
    # An argument may differ in its last bits, and a change that is meant is another series.
    assert published(fit_reciprocal, math.nextafter(0.5, 1), 7.25, tolerance=0.03) == fitted[0]
    for other in ((0.5001, 7.25), (0.5, 7.2501), (0.5, 7.25, 0.02)):
        with pytest.raises(UserError, match=r"without the series fit_reciprocal\(0.5"):
            published(fit_reciprocal, *other)


def test_a_period_that_can_not_be_opened_is_refused():
    own = OwnFits()
    own(fit_reciprocal, 0.5, 7.25)
    [(name, series)] = own.made.items()
    published = PublishedFits({name: series.stretched(1.1)})
    with pytest.raises(UserError, match="no power of two"):
        published(fit_reciprocal, 0.5, 7.25)


@pytest.mark.parametrize(
    "change",
    [
        {"period": 0.0},
        {"period": -8.0},
        {"period": math.inf},
        {"constant": math.nan},
        {"low": 9.0},
        {"error": -1.0},
        {"cos": [0.1]},
        {"sin": [0.1, math.inf]},
        {"cos": 1.0},
        {"harmonics": [1, 2.0]},
        {"harmonics": [0, 1]},
        {"harmonics": [True, 2]},
        {"harmonics": [2, 1]},
        {"harmonics": [1, 1]},
        {"harmonics": [1, 10**9]},
        {"harmonics": "12"},
        {"cos": "12"},
        {"constant": True},
        {"constant": 10**400},
        {"constant": 2.0**41},
        {"period": 2.0**-41},
        {"cos": [0.0, 0.0], "sin": [0.0, 0.0]},
        {"harmonics": [], "cos": [], "sin": []},
        {
            "harmonics": [*range(1, MOST_HARMONICS + 2)],
            **{name: [1.0] * (MOST_HARMONICS + 1) for name in ("cos", "sin")},
        },
    ],
)
def test_what_is_no_series_is_refused(change):
    good = Series(8.0, 0.5, (1, 2), (0.1, 0.2), (0.3, 0.4), -1.0, 1.0, 0.001).to_json()
    assert Series.from_json(good).to_json() == good == json.loads(json.dumps(good))
    with pytest.raises((KeyError, TypeError, ValueError)):
        Series.from_json({**good, **change})
    with pytest.raises(KeyError):
        Series.from_json({name: value for name, value in good.items() if name not in change})
