import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math

import numpy as np
import pytest
from scipy import special, stats

from noise import against_first, detectable_in_errors, fit_prior, holm, inverse_trigamma, moderate, t_interval, t_test


def test_interval_is_the_t_interval():
    values = np.array([70.1, 70.9, 69.8])
    mean, half = t_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert half == pytest.approx(4.302653 * values.std(ddof=1) / math.sqrt(3), rel=1e-6)  # a table's t(0.975, 2)


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 is 0.04 0.06 0.06 0.04, which must not fall
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.01]) == pytest.approx([0.01])


def test_holm_takes_each_family_of_an_array_alone():
    ps = np.random.default_rng(0).uniform(size=(5, 4))
    assert holm(ps) == pytest.approx(np.array([holm(family) for family in ps]))


def test_detectable_difference_is_found_at_the_stated_power():
    """Draws differences whose true mean is the detectable one and counts how often the test finds it."""
    n, level = 4, 0.05 / 3
    effect = detectable_in_errors(n - 1, level) / math.sqrt(n)
    draws = np.random.default_rng(0).normal(effect, 1, (20_000, n))
    test = stats.ttest_1samp(draws, 0, axis=1)
    assert np.mean((test.pvalue < level) & (test.statistic > 0)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("df", [1, 2, 4, 19, 36.5])
def test_detectable_difference_grows_with_the_family(df):
    sizes = [detectable_in_errors(df, 0.05 / m) for m in (1, 2, 15, 100)]
    assert np.isfinite(sizes).all() and (np.diff(sizes) > 0).all()


def test_no_spread_allows_no_interval():
    assert math.isnan(t_interval(np.array([1.0, 1.0]))[1])
    assert math.isnan(t_interval(np.array([1.0]))[1])


def test_t_test_is_scipys():
    values = np.array([0.2, 0.7, 0.1])
    p, half = t_test(values.mean(), values.var(ddof=1) / 3, 2)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert half == pytest.approx(t_interval(values)[1])


# ------------------------------------------------------------------------------------------------- moderated variances


def test_trigamma_is_inverted():
    x = np.geomspace(0.01, 100, 30)
    assert special.polygamma(1, inverse_trigamma(x)) == pytest.approx(x)


@pytest.mark.parametrize(("prior_df", "variance"), [(4.0, 0.5), (12.0, 3.0)])
def test_the_prior_is_recovered_from_many_networks(prior_df, variance):
    rng, n_nets, df = np.random.default_rng(0), 200_000, 2
    true = prior_df * variance / rng.chisquare(prior_df, n_nets)
    fitted, fitted_df = fit_prior(np.log(true * rng.chisquare(df, n_nets) / df), df)
    assert fitted_df[0] == pytest.approx(prior_df, rel=0.1)
    assert fitted[0] == pytest.approx(variance, rel=0.03)


def test_networks_of_equal_noise_share_it():
    """Each variance is Smyth's mean of prior and sample, close to the true one, and has more degrees of freedom."""
    top1 = np.random.default_rng(0).normal(60, 0.5, (400, 16, 3))
    noise = moderate(top1)
    assert np.median(noise.variance) == pytest.approx(0.25, rel=0.1)
    usual = noise.tail > 0.15
    assert (noise.df[usual] > 2.5).all() and np.median(noise.df) == 2 + 16
    assert (noise.df <= 15 * 2).all()
    residuals = top1 - top1.mean(-1, keepdims=True)
    block = stats.trim_mean(residuals, 0.2, axis=1)
    sample = ((residuals - block[:, None]) ** 2).sum(-1) / 2 * 16 / 15
    d0, s0 = noise.prior_df, noise.prior_variance
    assert noise.variance[usual] == pytest.approx(((d0 * s0 + 2 * sample) / (d0 + 2))[usual])


def test_a_far_noisier_network_keeps_its_own_noise_and_changes_the_others_little():
    top1 = np.random.default_rng(0).normal(60, 0.5, (16, 3))
    before = moderate(top1)
    top1[3] = [50, 60, 70]
    noise = moderate(top1)
    assert noise.variance[3] == pytest.approx(100, rel=0.1) and noise.df[3] == pytest.approx(2, abs=0.01)
    others = np.arange(16) != 3
    assert (noise.variance[others] < 2 * before.variance[others]).all()


def test_what_a_seed_does_to_all_networks_changes_no_test():
    top1 = np.random.default_rng(0).normal(60, 0.5, (10, 3))
    shifted = top1 + np.array([5.0, -2.0, 0.0])
    assert against_first(shifted)[1] == pytest.approx(against_first(top1)[1])
    assert moderate(shifted).block_variance == pytest.approx(13, rel=0.2)
    assert moderate(top1).block_variance < 0.2


def test_seeds_that_agree_to_the_last_image_give_no_nan():
    top1 = np.random.default_rng(0).normal(60, 0.5, (10, 3))
    top1[2] = 60
    assert np.isfinite(against_first(top1)[1]).all()
