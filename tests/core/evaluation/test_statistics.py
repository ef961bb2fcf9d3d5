import math

import numpy as np
import pytest
from scipy import stats

from core.data.checks import DataError
from core.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_units,
    paired_t_interval,
    seeds_to_decide,
    verdict,
)


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 5, "training seeds")


def test_t_interval_equals_the_textbook_number():
    # t with 4 degrees of freedom at 97.5 % is 2.776; the standard deviation of 1..5 is sqrt(2.5).
    found = paired_t_interval([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.high - 3 == pytest.approx(2.7764451 * math.sqrt(2.5 / 5), rel=1e-7)
    assert 3 - found.low == pytest.approx(found.high - 3, rel=1e-12)
    assert found.n == 5


def test_t_interval_equals_scipys_paired_test():
    generator = np.random.default_rng(0)
    method, baseline = generator.normal(size=(2, 7))
    expected = stats.ttest_rel(method, baseline).confidence_interval(0.9)
    found = paired_t_interval(method - baseline, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_one_seed_shows_no_spread():
    found = paired_t_interval([0.3])
    assert (found.mean, found.low, found.high) == (0.3, -math.inf, math.inf)
    assert verdict(found) == "undecided"
    assert seeds_to_decide([0.3]) is None


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3])
def test_equal_differences_give_an_interval_of_width_zero(value):
    found = paired_t_interval([value] * 7)
    assert found.low == found.mean == found.high == value
    units = bootstrap_units(np.full((3, 11), value), np.zeros((3, 11)))
    assert units.low == units.mean == units.high == pytest.approx(value, abs=1e-15)


def test_an_arm_against_itself_differs_by_zero_and_is_undecided():
    arm = np.random.default_rng(0).random((3, 50))
    over_units, over_seeds = bootstrap_units(arm, arm), paired_t_interval((arm - arm).mean(1))
    for found in (over_units, over_seeds):
        assert found.low == found.mean == found.high == 0
        assert verdict(found) == "undecided"


def test_seeds_to_decide_is_the_first_number_that_decides():
    # Differences with mean exactly 0.2 and standard deviation exactly 1.
    differences = 0.2 + np.array([-1, 0, 1])
    needed = seeds_to_decide(differences)

    def half_width(n):
        return stats.t.ppf(0.975, n - 1) / math.sqrt(n)

    assert half_width(needed) < 0.2 <= half_width(needed - 1)
    assert 90 < needed < 110  # (1.96 / 0.2)^2 = 96 for a normal quantile
    assert seeds_to_decide(-differences) == needed
    assert seeds_to_decide(differences, confidence=0.5) < needed
    assert seeds_to_decide(differences, limit=needed) == needed
    assert seeds_to_decide(differences, limit=needed - 1) is None


def test_seeds_to_decide_agrees_with_the_interval_that_has_decided():
    differences = [1.0, 1.1, 0.9, 1.05]
    assert verdict(paired_t_interval(differences)) == "better"
    assert seeds_to_decide(differences) <= 4
    assert seeds_to_decide([0.5, 0.5]) == 2


def test_no_number_of_seeds_decides_a_difference_of_zero():
    assert seeds_to_decide([-1, 1]) is None
    assert seeds_to_decide([0, 0, 0]) is None


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [
        (0.1, 0.2, True, "better"),
        (-0.2, -0.1, True, "worse"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.1, True, "undecided"),
        (0.0, 0.1, True, "undecided"),
        (-0.1, 0.0, False, "undecided"),
        (-math.inf, math.inf, True, "undecided"),
    ],
)
def test_verdict(low, high, higher, expected):
    assert verdict(interval(low, high), higher_is_better=higher) == expected


def test_bootstrap_equals_the_normal_approximation_on_many_units():
    values = np.random.default_rng(1).exponential(size=2000)
    found = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)
    narrower = bootstrap_mean(values, confidence=0.8)
    assert found.low < narrower.low < narrower.high < found.high


def test_bootstrap_equals_the_enumeration_of_all_resamples():
    # Of 27 resamples of (0, 0, 3) the means are 0, 1, 2, 3 with probability 8, 12, 6, 1 in 27.
    found = bootstrap_mean([0, 0, 3], confidence=0.9)
    assert (found.low, found.high) == (0, 2)
    found = bootstrap_mean([0, 0, 3], confidence=0.94)
    assert (found.low, found.high) == (0, 3)


def test_bootstrap_is_a_function_of_its_seed(monkeypatch):
    values = np.random.default_rng(2).random(300)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)
    whole = bootstrap_mean(values, draws=501)
    monkeypatch.setattr("core.evaluation.statistics._BLOCK_VALUES", 7 * 300)
    assert bootstrap_mean(values, draws=501) == whole


def test_pairing_removes_what_the_units_have_in_common():
    generator = np.random.default_rng(3)
    difficulty = generator.normal(size=400)
    b = difficulty + 0.01 * generator.normal(size=(3, 400))
    a = 0.05 + difficulty + 0.01 * generator.normal(size=(3, 400))
    paired = bootstrap_units(a, b)
    assert verdict(paired) == "better"
    assert paired.high - paired.low < 0.003
    shuffled = bootstrap_units(a, generator.permuted(b, axis=1))
    assert verdict(shuffled) == "undecided"


def test_units_interval_does_not_shrink_with_the_number_of_seeds():
    per_unit = np.random.default_rng(4).normal(size=(1, 200))
    zeros = np.zeros_like(per_unit)
    one, five = (bootstrap_units(np.repeat(per_unit, n, 0), np.repeat(zeros, n, 0)) for n in (1, 5))
    assert (five.low, five.high) == pytest.approx((one.low, one.high), rel=1e-9)
    assert one.n == five.n == 200


def test_one_unit_shows_no_spread():
    assert bootstrap_mean([0.7]).low == -math.inf
    assert verdict(bootstrap_units([[0.7], [0.8]], [[0.1], [0.1]])) == "undecided"


def test_over_five_seeds_t_covers_what_it_says_and_the_bootstrap_does_not():
    experiments = np.random.default_rng(5).normal(0.3, size=(1500, 5))

    def coverage(intervals):
        return np.mean([found.low <= 0.3 <= found.high for found in intervals])

    assert 0.93 < coverage(map(paired_t_interval, experiments)) < 0.97
    assert 0.80 < coverage(bootstrap_mean(x, draws=500) for x in experiments) < 0.88


def test_bootstrap_over_two_hundred_units_covers_what_it_says():
    experiments = np.random.default_rng(6).exponential(size=(400, 200))
    found = [bootstrap_mean(x, draws=400) for x in experiments]
    assert 0.91 < np.mean([f.low <= 1 <= f.high for f in found]) < 0.98


def test_each_interval_says_what_it_covers():
    assert paired_t_interval([1, 2]).covers == "training seeds; test units fixed"
    assert bootstrap_mean([1, 2]).covers == "test units; trained models fixed"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_t_interval([]), r"differences has shape \(0,\)"),
        (lambda: paired_t_interval([[1, 2]]), "a row of at least one value"),
        (lambda: paired_t_interval([1, math.nan]), "1 values that are not finite"),
        (lambda: paired_t_interval([1, 2], confidence=95), "confidence is 95"),
        (lambda: seeds_to_decide([1, math.inf]), "differences holds 1"),
        (lambda: bootstrap_mean([1, 2], confidence=1), "expected: a fraction"),
        (lambda: bootstrap_units([[1, 2]], [[1, 2, 3]]), r"\(1, 2\) and \(1, 3\)"),
        (lambda: bootstrap_units([[1, math.nan]], [[1, 2]]), "per_unit_a holds 1"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(DataError, match=message):
        call()
