import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math

import numpy as np
import pytest
from scipy import stats

from contrasts import SeedNoise
from nets import group
from noise import moderate
from tests.report_rows import JITTER, NOISE, rows_of

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


def test_one_seed_and_equal_seeds_tell_nothing():
    (one,) = nets_of(np.array([60.0]))
    found = SeedNoise([one], (0,)).estimate((one, 1))
    assert found.mean == 60 and math.isnan(found.half) and math.isnan(found.p)
    first, second = nets = nets_of(A, A + 1)
    found = SeedNoise(nets, (0, 1, 2)).estimate((second, 1), (first, -1))
    assert (found.mean, found.p) == pytest.approx((1, 1)) and math.isnan(found.half)


def test_networks_without_all_seeds_have_no_part():
    nets = many()
    lacking = rows_of("lacking", 60, seeds=(0, 1), jitter=JITTER)
    noise = SeedNoise([*nets, *group(lacking).values()], (0, 1, 2))
    assert noise.nets == nets
