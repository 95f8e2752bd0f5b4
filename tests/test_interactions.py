import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math

import numpy as np
import pytest
from scipy import stats

from interactions import find_interactions
from tables import interaction_table
from tests.report_rows import rows_of
from verdicts import analyse

SEEDS = (0, 1, 2, 3)


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


@pytest.mark.parametrize(("together", "word"), [(-1, "no evidence against adding up"), (2, "more than the sum")])
def test_its_word_follows_its_test(together, word):
    (found,) = analyse(two_modules(together)).interactions
    assert found.word == word


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
