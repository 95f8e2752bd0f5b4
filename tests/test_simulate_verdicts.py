"""The rule for verdicts keeps its promises, and the report's table of them is what the simulation prints."""

import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math
import re

import pytest

from noise import POWER
from notes import SIMULATED
from tests.simulate_verdicts import NOISES, RULES, find_detectable, simulate, table

N_REPORTS = 1500


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("noise", ["equal", "one of 7 times", "log-normal"])
def test_few_reports_hold_a_false_word(noise, n_seeds):
    false, _, _ = simulate(RULES["robust moderation"], NOISES[noise], n_seeds, N_REPORTS)
    assert false <= 0.06


@pytest.mark.parametrize(("n_seeds", "at_least"), [(3, 0.5), (5, 0.8)])
def test_two_points_are_found(n_seeds, at_least):
    _, _, (_, two_points, _) = simulate(RULES["robust moderation"], NOISES["equal"], n_seeds, N_REPORTS)
    _, _, (_, alone, _) = simulate(RULES["paired t-tests"], NOISES["equal"], n_seeds, N_REPORTS)
    assert two_points >= at_least > alone


@pytest.mark.parametrize("rule", RULES)
def test_the_detectable_difference_is_found_less_often_than_if_the_noise_were_known(rule):
    assert 0.6 < find_detectable(RULES[rule], NOISES["equal"], 3, N_REPORTS) < POWER


def test_the_reports_table_is_the_simulations():
    """Each percentage is within four standard errors, and rounding, of a shorter simulation's."""
    printed, again = SIMULATED.splitlines(), table(N_REPORTS).splitlines()
    assert len(printed) == len(again) == 2 + 2 * (len(RULES) + 1) * len(NOISES)
    assert printed[:2] == again[:2]
    for line, shorter in zip(printed[2:], again[2:], strict=True):
        assert line.split("|")[1:5] == shorter.split("|")[1:5]
        for percent, other in zip(percentages(line), percentages(shorter), strict=True):
            part = min(max(percent, 1), 99) / 100
            assert abs(percent - other) < 100 * 4 * math.sqrt(part * (1 - part) / N_REPORTS) + 0.5


def percentages(line):
    """The numbers in the last five cells of a row: three rates, three effects found and the detectable one."""
    return [float(number) for cell in line.split("|")[5:] for number in re.findall(r"[\d.]+", cell)]
