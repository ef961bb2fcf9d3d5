"""Intervals for paired comparisons, and what may be concluded from them.

Two sources of variation are kept apart. Training again with another seed moves a metric:
`paired_t_interval`. Testing on other users, patients or chips moves it too: `bootstrap_units`,
`bootstrap_mean`. Over a handful of seeds Student's t is used, because a percentile bootstrap of
five values covers about 84 % where it says 95 %.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.data.checks import DataError

# Resampled values held at a time; more of them leave the cache and take twice as long.
_BLOCK_VALUES = 2**18


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: the observed mean, in the unit of the values.
        low: lower end, -inf where the values say nothing about their spread.
        high: upper end, inf likewise.
        confidence: nominal coverage, e.g. 0.95.
        n: how many values the spread was taken from.
        covers: which variation the interval is about, and what it holds fixed.
    """

    mean: float
    low: float
    high: float
    confidence: float
    n: int
    covers: str


def paired_t_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of paired differences, one for each training seed.

    Covers the variation between trainings (initialisation, order of the data) and holds the test
    units fixed. One seed shows no spread: the interval is infinite. Equal differences give an
    interval of width exactly 0.

    Args:
        differences: (seeds,) method minus baseline of the same seed.
        confidence: nominal coverage, in (0, 1).

    Raises:
        DataError: no differences, NaN or infinite ones, or a confidence outside (0, 1).
    """
    values = _finite(differences, "differences", ndim=1)
    half = _half_width(values, np.array([len(values)]), _fraction(confidence))[0]
    mean = _mean(values)
    covers = "training seeds; test units fixed"
    return Interval(mean, mean - half, mean + half, confidence, len(values), covers)


def seeds_to_decide(
    differences: ArrayLike, confidence: float = 0.95, limit: int = 10_000
) -> int | None:
    """Smallest number of seeds whose t interval excludes 0 at the mean and spread seen so far.

    An estimate to plan with, as uncertain as the mean and the spread it is made of.

    Args:
        differences: (seeds,) as for `paired_t_interval`.
        confidence: nominal coverage, in (0, 1).
        limit: the largest number worth naming.

    Returns:
        At least 2; None when the mean is 0, when one seed shows no spread, or above `limit`.

    Raises:
        DataError: as for `paired_t_interval`.
    """
    values = _finite(differences, "differences", ndim=1)
    if len(values) < 2:
        return None
    n_seeds = np.arange(2, limit + 1)
    decided = np.abs(_mean(values)) > _half_width(values, n_seeds, _fraction(confidence))
    return int(n_seeds[decided.argmax()]) if decided.any() else None


def bootstrap_units(
    per_unit_a: ArrayLike,
    per_unit_b: ArrayLike,
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap of the mean of a - b over test units, paired.

    Covers the variation between test units (users, patients, chips, subjects) and holds the
    trained models fixed. Each draw takes the same units for both arms and for all seeds, so a
    unit is represented by the mean of its differences over the seeds.

    Args:
        per_unit_a: (seeds, units) metric of the method; rows and columns as in `per_unit_b`.
        per_unit_b: (seeds, units) metric of the baseline.
        draws: number of resamples.
        seed: of the resampling; equal seeds give equal intervals.
        confidence: nominal coverage, in (0, 1).

    Raises:
        DataError: different shapes, no values, NaN or infinite ones.
    """
    a, b = _finite(per_unit_a, "per_unit_a", ndim=2), _finite(per_unit_b, "per_unit_b", ndim=2)
    if a.shape != b.shape:
        raise DataError(
            f"the arms were measured on {a.shape} and {b.shape} (seeds, units)",
            expected="the same seeds and the same test units for both, in the same order",
            fix="evaluate both arms on one split, with equal seeds",
        )
    return _bootstrap((a - b).mean(0), draws, seed, confidence)


def bootstrap_mean(
    per_unit: ArrayLike, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap of a mean over test units.

    Covers the variation between test units and holds the trained model fixed.

    Args:
        per_unit: (units,) metric of one model.
        draws: number of resamples.
        seed: of the resampling; equal seeds give equal intervals.
        confidence: nominal coverage, in (0, 1).

    Raises:
        DataError: no values, NaN or infinite ones.
    """
    return _bootstrap(_finite(per_unit, "per_unit", ndim=1), draws, seed, confidence)


def verdict(
    interval: Interval, higher_is_better: bool = True
) -> Literal["better", "worse", "undecided"]:
    """What an interval of the difference method - baseline allows to say of the method.

    Undecided whenever the interval holds 0, its ends included.
    """
    if interval.low <= 0 <= interval.high:
        return "undecided"
    return "better" if (interval.low > 0) == higher_is_better else "worse"


def _half_width(
    values: NDArray[np.float64], n: NDArray[np.int64], confidence: float
) -> NDArray[np.float64]:
    """Half width of the t interval if n values had the spread of `values`."""
    from scipy import stats

    if len(values) < 2:
        return np.full(len(n), np.inf)
    spread = values.std(ddof=1) if np.ptp(values) > 0 else 0.0
    quantiles: NDArray[np.float64] = stats.t.ppf((1 + confidence) / 2, n - 1)
    return quantiles * spread / np.sqrt(n)


def _bootstrap(values: NDArray[np.float64], draws: int, seed: int, confidence: float) -> Interval:
    """Percentile interval of the mean of (units,) values; infinite for a single one."""
    tail = (1 - _fraction(confidence)) / 2
    units, mean = len(values), _mean(values)
    covers = "test units; trained models fixed"
    if units == 1:
        return Interval(mean, -np.inf, np.inf, confidence, units, covers)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, confidence, units, covers)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    rows = max(1, _BLOCK_VALUES // units)
    for start in range(0, draws, rows):
        block = means[start : start + rows]
        chosen = generator.integers(0, units, (len(block), units))
        block[:] = values[chosen].mean(1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), confidence, units, covers)


def _mean(values: NDArray[np.float64]) -> float:
    """The mean, exact where all values are equal."""
    return float(values[0] if np.ptp(values) == 0 else values.mean())


def _finite(values: ArrayLike, name: str, ndim: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise DataError(
            f"{name} has shape {array.shape}",
            expected="(seeds, units)" if ndim == 2 else "a row of at least one value",
        )
    if not np.isfinite(array).all():
        raise DataError(
            f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite",
            expected="a finite metric for every seed and test unit",
            fix="leave out units on which the metric is undefined, in both arms alike",
        )
    return array


def _fraction(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}", expected="a fraction, e.g. 0.95")
    return confidence
