import math

import numpy as np
import pytest
from scipy import stats

import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
from noise import detectable_in_sds, holm, paired_p, t_interval, top1_on_curve


def test_interval_is_the_t_interval():
    values = np.array([70.1, 70.9, 69.8])
    mean, half = t_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert half == pytest.approx(4.302653 * values.std(ddof=1) / math.sqrt(3), rel=1e-6)  # a table's t(0.975, 2)


def test_paired_test_is_scipys():
    a, b = np.array([70.1, 70.9, 69.8]), np.array([69.9, 70.2, 69.7])
    assert paired_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 is 0.04 0.06 0.06 0.04, which must not fall
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.01]) == pytest.approx([0.01])


def test_detectable_difference_is_found_at_the_stated_power():
    """Draws differences whose true mean is the detectable one and counts how often the test finds it."""
    n, level = 4, 0.05 / 3
    effect = detectable_in_sds(n, level)
    draws = np.random.default_rng(0).normal(effect, 1, (20_000, n))
    test = stats.ttest_1samp(draws, 0, axis=1)
    assert np.mean((test.pvalue < level) & (test.statistic > 0)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_detectable_difference_grows_with_the_family(n):
    sizes = [detectable_in_sds(n, 0.05 / m) for m in (1, 2, 15, 100)]
    assert np.isfinite(sizes).all() and (np.diff(sizes) > 0).all()


def test_no_spread_allows_no_inference():
    assert paired_p(np.array([1.0, 1.0, 1.0])) == 1
    assert math.isnan(t_interval(np.array([1.0, 1.0]))[1])
    assert math.isnan(t_interval(np.array([1.0]))[1])


def test_curve_is_linear_in_log_cost():
    costs, top1 = [100, 200, 800], [[60, 61], [62, 65], [70, 69]]  # two seeds
    assert top1_on_curve(costs, top1, math.sqrt(100 * 200)) == pytest.approx([61, 63])
    assert top1_on_curve(costs, top1, 400) == pytest.approx([66, 67])
    assert top1_on_curve(costs, top1, 100) == pytest.approx([60, 61])
    assert top1_on_curve(costs, top1, 800) == pytest.approx([70, 69])
    assert top1_on_curve(costs, top1, 99) is None
    assert top1_on_curve(costs, top1, 801) is None
