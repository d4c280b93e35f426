"""Intervals of means, paired differences, and significance of many comparisons."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from paper_figures import intervals
from paper_figures.intervals import Comparison, Interval, compare, holm, interval, randomization_test


def drawn(seed: int, size: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, size)


def test_an_interval_is_that_of_the_normal_distribution_where_it_applies():
    values = drawn(0, 200, 3)
    found = interval(values)
    half = 1.96 * values.std(ddof=1) / 200**0.5
    assert found.mean == pytest.approx(values.mean()) and found.count == 200
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)
    assert found.holds(3) and not found.holds(4)


def test_an_interval_leans_as_skewed_values_do_and_stays_inside_their_range():
    values = [1.0] * 18 + [0.5, 0.0]
    found = interval(values)
    assert 0 < found.low < found.mean < found.high <= 1
    assert found.mean - found.low > 1.3 * (found.high - found.mean)


def test_an_interval_is_the_same_each_time_and_in_any_order():
    values = drawn(1, 30)
    assert interval(values) == interval(list(values))
    low, high = interval(values[::-1]).low, interval(values[::-1]).high
    assert (low, high) == pytest.approx((interval(values).low, interval(values).high), abs=0.05)


def test_what_has_no_spread_has_an_interval_of_one_point_and_one_value_has_none():
    assert interval([0.1 + 0.2, 0.3, 0.3]) == Interval(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3), 3)
    assert interval([1.0]) is None and interval([]) is None
    with pytest.raises(ValueError, match="not finite"):
        interval([1.0, float("nan")])


def test_intervals_hold_the_mean_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    held = [interval(drawn(seed, 24)).holds(0) for seed in range(200)]
    assert 0.90 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (1.0, -2.0, 3.0, 0.5), (0.1, 0.1, -0.1)])
def test_few_differences_are_tested_with_all_patterns_of_signs(values):
    patterns = itertools.product((1, -1), repeat=len(values))
    totals = [sum(sign * value for sign, value in zip(signs, values, strict=True)) for signs in patterns]
    expected = np.mean([abs(total) >= abs(sum(values)) - 1e-9 for total in totals])
    assert randomization_test([values]) == [pytest.approx(expected)]


def test_random_patterns_come_near_all_patterns_as_scipy_tries_them(monkeypatch):
    monkeypatch.setattr(intervals, "EXACT", 0)
    lists = [drawn(seed, 11, mean) for seed, mean in ((2, 0.3), (3, 0.5), (4, 0.0))]
    for found, values in zip(randomization_test(lists), lists, strict=True):
        told = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert found == pytest.approx(told.pvalue, abs=0.005)


def test_p_is_two_sided_never_zero_and_one_where_nothing_differs():
    strong = drawn(5, 40, 5)
    assert randomization_test([strong]) == randomization_test([-strong]) == [1 / (intervals.FLIPS + 1)]
    assert randomization_test([[0.0] * 40, [0.0] * 5]) == [1.0, 1.0]
    assert randomization_test([]) == []
    with pytest.raises(ValueError, match="at least one is needed"):
        randomization_test([[]])


def test_lists_of_several_lengths_keep_their_places():
    lists = [drawn(6, 20, 1), drawn(7, 6, 1), drawn(8, 20, 0)]
    assert randomization_test(lists) == [randomization_test([values])[0] for values in lists]


def test_without_a_difference_p_is_below_a_twentieth_in_a_twentieth_of_the_cases():
    rng = np.random.default_rng(9)
    found = np.array(randomization_test(list(rng.normal(size=(400, 12)))))
    assert 0.02 <= (found < 0.05).mean() <= 0.09


def test_holm_as_in_a_worked_example():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03; 0.04 may not come out below its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_pairs_tell_a_difference_that_single_intervals_do_not():
    prompts = drawn(10, 20) * 10
    ours, theirs = prompts + 0.5 + 0.2 * drawn(11, 20), prompts
    found = compare({"pair": (ours, theirs)})["pair"]
    assert found.significant and found.sign == 1
    assert found.difference.mean == pytest.approx(np.mean(ours - theirs)) and found.difference.low > 0
    assert interval(ours).low < interval(theirs).high
    assert compare({"pair": (theirs, ours)})["pair"].sign == -1


def test_a_comparison_among_many_needs_more_than_one_alone():
    weak = (drawn(12, 15, 0.75), np.zeros(15))
    alone = compare({"weak": weak})["weak"]
    many = compare({"weak": weak} | {n: (drawn(n, 15), np.zeros(15)) for n in range(20, 50)})
    assert alone.significant and not many["weak"].significant and many["weak"].sign == 0
    assert many["weak"].difference == alone.difference
    assert many["weak"].p == pytest.approx(min(1, 31 * alone.p))


def test_comparisons_that_cannot_be():
    assert compare({"one clip": ([1.0], [2.0])}) == {}
    with pytest.raises(ValueError, match="2 values and 1; one of each clip"):
        compare({"a": ([1.0, 2.0], [1.0])})
    assert Comparison(Interval(-1, -2, 0, 3), 0.01).sign == -1
