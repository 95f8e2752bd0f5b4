import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math

import numpy as np
import pytest
from scipy import special, stats

from noise import (
    ALPHA,
    SeedNoise,
    benjamini_hochberg,
    curve_weights,
    detectable_effect,
    find_interactions,
    fit_prior,
    holm,
    inverse_trigamma,
    moderate,
    t_interval,
    t_test,
)
from rows import group
from tables import interaction_table
from tests.report_rows import JITTER, NOISE, rows_of
from tests.simulate_verdicts import against_first
from verdicts import analyse


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


def test_effects_to_show_by_hand():
    """Of five sorted p-values the i-th may be i · 0.01, and all before the last that is small enough are shown with it."""
    assert benjamini_hochberg([0.2, 0.001, 0.021, 0.029, 0.6]).tolist() == [False, True, True, True, False]
    assert benjamini_hochberg([0.2, 0.001, 0.021, 0.031, 0.6]).tolist() == [False, True, False, False, False]
    assert benjamini_hochberg([0.05]).tolist() == [True]
    assert not benjamini_hochberg([0.051, 0.9]).any()


def test_detectable_difference_is_found_at_the_stated_power():
    """Draws differences whose true mean is the detectable one and counts how often the test finds it."""
    n, level = 4, 0.05 / 3
    effect = detectable_effect(n - 1, level) / math.sqrt(n)
    draws = np.random.default_rng(0).normal(effect, 1, (20_000, n))
    test = stats.ttest_1samp(draws, 0, axis=1)
    assert np.mean((test.pvalue < level) & (test.statistic > 0)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("df", [1, 2, 4, 19, 36.5])
def test_detectable_difference_grows_with_the_family(df):
    sizes = [detectable_effect(df, 0.05 / m) for m in (1, 2, 15, 100)]
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
    # one that is noisier loses the prior by degrees: at a tail probability of 0.06, the part that 0.06 is of 0.15
    left = d0 * np.minimum(noise.tail / 0.15, 1)
    assert (left[~usual] < 0.9 * d0.max()).any()
    assert noise.variance == pytest.approx((left * s0 + 2 * sample) / (left + 2))
    assert noise.df == pytest.approx(np.minimum(left + 2, 15 * 2))


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


def test_one_noisy_network_does_not_hide_what_seeds_do_to_all():
    top1 = np.random.default_rng(0).normal(60, 0.5, (10, 3)) + np.array([5.0, -2.0, 0.0])
    top1[3] = [30, 60, 90]
    assert moderate(top1).block_variance == pytest.approx(13, rel=0.2)
    nets = nets_of(*top1)
    estimate = SeedNoise(nets, (0, 1, 2)).estimate
    assert estimate((nets[1], 1)).df == pytest.approx(2, abs=0.3)  # known from three seeds, whatever the others show
    assert estimate((nets[1], 1), (nets[0], -1)).df > 4


def test_seeds_that_agree_to_the_last_image_give_no_nan():
    top1 = np.random.default_rng(0).normal(60, 0.5, (10, 3))
    top1[2] = 60
    assert np.isfinite(against_first(top1)[1]).all()


A, B = np.array([70.1, 70.9, 69.8]), np.array([69.9, 70.2, 69.7])


def nets_of(*top1):
    """A Net for each array of top-1, one value per seed."""
    rows = []
    for i, values in enumerate(top1):
        rows += rows_of(f"net{i}", 0, seeds=range(len(values)), jitter=values - NOISE[: len(values)])
    return list(group(rows).values())


def many(n_nets=9, n_seeds=3, seed=0):
    return nets_of(*np.random.default_rng(seed).normal(60, 0.5, (n_nets, n_seeds)).round(2))


def test_of_few_networks_a_difference_has_the_noise_of_its_own_seeds():
    """The paired t-test and its interval, as scipy computes them."""
    first, second = nets = nets_of(A, B)
    found = SeedNoise(nets, (0, 1, 2)).estimate((first, 1), (second, -1))
    test = stats.ttest_rel(A, B)
    low, high = test.confidence_interval()
    assert (found.mean, found.p, found.df) == pytest.approx(((A - B).mean(), test.pvalue, 2))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


@pytest.mark.parametrize(("n_nets", "n_seeds", "moderated"), [(7, 3, False), (8, 3, True), (9, 2, False), (8, 4, True)])
def test_noise_is_moderated_where_networks_and_seeds_are_enough(n_nets, n_seeds, moderated):
    nets = many(n_nets, n_seeds)
    noise = SeedNoise(nets, range(n_seeds))
    assert (noise.moderated is not None) == moderated
    assert (noise.estimate((nets[1], 1), (nets[0], -1)).df > n_seeds - 1) == moderated
    assert math.isnan(noise.usual) != moderated


def test_many_networks_against_the_first_are_as_many_differences():
    nets = many()
    noise = SeedNoise(nets, (0, 1, 2))
    expected = [noise.estimate((net, 1), (nets[0], -1)) for net in nets[1:]]
    differences, squared_errors, df = against_first(np.array([net.values("top1") for net in nets]))
    ps = t_test(differences, squared_errors, df)[0]
    assert differences == pytest.approx([each.mean for each in expected])
    assert ps == pytest.approx([each.p for each in expected])


def test_a_sum_adds_the_squares_of_its_weights():
    nets = many()
    noise, moderated = SeedNoise(nets, (0, 1, 2)), moderate(np.array([net.values("top1") for net in nets]))
    found = noise.estimate((nets[0], 1), (nets[1], -0.25), (nets[2], -0.75), (nets[3], 0))
    variance = moderated.variance[0] + moderated.variance[1] / 16 + moderated.variance[2] * 9 / 16
    assert found.error == pytest.approx(math.sqrt(variance / 3))
    assert found.df == moderated.df[:3].min()
    assert found.half == pytest.approx(stats.t.ppf(0.975, found.df) * found.error)
    alone = noise.estimate((nets[0], 1))
    assert alone.error == pytest.approx(math.sqrt((moderated.variance[0] + moderated.block_variance) / 3))


def test_a_network_at_chance_has_no_part_in_the_others_noise():
    nets = many()
    lost = nets_of(np.array([60.0, 10.0, 60.0]))[0]
    with_lost, without = SeedNoise([*nets, lost], (0, 1, 2)), SeedNoise(nets, (0, 1, 2))
    assert with_lost.estimate((nets[1], 1), (nets[0], -1)) == without.estimate((nets[1], 1), (nets[0], -1))
    own = stats.ttest_rel(lost.values("top1"), nets[0].values("top1"))
    assert with_lost.estimate((lost, 1), (nets[0], -1)).p == pytest.approx(own.pvalue)


def test_only_a_far_noisier_network_is_named():
    noisy = nets_of(np.array([50.0, 60.0, 70.0]))[0]
    nets = [*many(), noisy]
    noise = SeedNoise(nets, (0, 1, 2))
    assert noise.deviation(noisy) == pytest.approx(10, rel=0.1)
    assert not any(noise.deviation(net) for net in nets[:-1])
    assert 0.2 < noise.usual < 1
    somewhat = nets_of(np.array([58.9, 60.0, 61.1]))[0]  # one of ten networks is so noisy by chance
    noise = SeedNoise([*many(), somewhat], (0, 1, 2))
    assert ALPHA / 10 < noise.moderated.tail[-1] < ALPHA and noise.deviation(somewhat) is None


def test_one_seed_and_equal_seeds_tell_nothing():
    (one,) = nets_of(np.array([60.0]))
    found = SeedNoise([one], (0,)).estimate((one, 1))
    assert found.mean == 60 and math.isnan(found.half) and math.isnan(found.p)
    first, second = nets = nets_of(A, A + 1)
    found = SeedNoise(nets, (0, 1, 2)).estimate((second, 1), (first, -1))
    assert (found.mean, found.p) == pytest.approx((1, 1)) and math.isnan(found.half)


def test_most_networks_without_noise_say_nothing_of_the_others():
    """Twenty test images, of which one decides: no certainty comes of seeds that agree."""
    nets = nets_of(*(np.full(3, 95.0) for _ in range(8)), np.full(3, 100.0))
    noise = SeedNoise(nets, (0, 1, 2))
    assert noise.moderated is None and noise.estimate((nets[-1], 1), (nets[0], -1)).p == 1


def test_networks_without_all_seeds_have_no_part():
    nets = many()
    lacking = rows_of("lacking", 60, seeds=(0, 1), jitter=JITTER)
    noise = SeedNoise([*nets, *group(lacking).values()], (0, 1, 2))
    assert noise.nets == nets


def test_curve_is_linear_in_log_cost():
    costs, top1 = [100, 200, 800], [[60, 61], [62, 65], [70, 69]]  # two seeds
    assert curve_weights(costs, math.sqrt(100 * 200)) @ top1 == pytest.approx([61, 63])
    assert curve_weights(costs, 400) @ top1 == pytest.approx([66, 67])
    assert curve_weights(costs, 100) @ top1 == pytest.approx([60, 61])
    assert curve_weights(costs, 800) @ top1 == pytest.approx([70, 69])
    assert curve_weights(costs, 99) is None
    assert curve_weights(costs, 801) is None


def two_modules(together, seed=0, **other):
    """ECA gains 1 point, GhostNet loses 2; both together gain `together` over the baseline of 60."""
    rng, rows = np.random.default_rng(seed), []
    for arch, mean in (
        ("resnet", 60),
        ("eca_resnet", 61),
        ("ghostnet_resnet", 58),
        ("eca_ghostnet_resnet", 60 + together),
    ):
        rows += rows_of(arch, mean, jitter=rng.normal(0, 0.05, 4).round(2), **other)
    return rows


def test_an_interaction_is_what_the_sum_lacks():
    results = analyse(two_modules(-4))
    (found,) = results.interactions
    assert found.estimate.mean == pytest.approx(-3, abs=0.15)
    assert [alone.mean for alone in found.alone] == pytest.approx([1, -2], abs=0.1)
    top1 = {net.arch: net.values("top1") for net in results.nets}
    of_seeds = top1["eca_ghostnet_resnet"] - top1["eca_resnet"] - top1["ghostnet_resnet"] + top1["resnet"]
    test = stats.ttest_1samp(of_seeds, 0)  # of four networks, too few to share their noise
    assert (found.estimate.p, found.p_holm) == pytest.approx((test.pvalue, test.pvalue))
    assert found.word == "less than the sum"
    table = interaction_table(results)
    assert table[1][0] == "eca_ghostnet_resnet" and table[1][-1] == found.word and table[1][5].startswith("-3.")


@pytest.mark.parametrize(("together", "word"), [(-1, "may add up"), (2, "more than the sum")])
def test_its_word_follows_its_test(together, word):
    (found,) = analyse(two_modules(together)).interactions
    assert found.word == word


def test_an_interaction_that_is_the_same_for_all_seeds_has_no_word():
    means = {"resnet": 60, "eca_resnet": 61, "ghostnet_resnet": 58, "eca_ghostnet_resnet": 56}
    results = analyse([row for arch, mean in means.items() for row in rows_of(arch, mean)])
    assert results.interactions[0].word == "" and interaction_table(results)[1][5:] == ["-3.00", "-", "-"]


def test_all_four_networks_are_needed_with_all_seeds_and_none_at_chance():
    rows = two_modules(-4)
    assert not analyse([row for row in rows if row["arch"] != "eca_resnet"]).interactions
    assert not analyse([row for row in rows if row["arch"] != "eca_resnet" or row["seed"]]).interactions
    lost = [row | {"top1": 10.0} if (row["arch"], row["seed"]) == ("eca_resnet", 1) else row for row in rows]
    assert not analyse(lost).interactions


def test_one_seed_gives_a_number_and_no_word():
    results = analyse([row for row in two_modules(-4) if row["seed"] == 0])
    (found,) = find_interactions(results.nets, {"resnet": results.nets[0]}, results.noise_of)
    assert math.isnan(found.p_holm) and found.word == "" and found.estimate.mean == pytest.approx(-3, abs=0.4)
