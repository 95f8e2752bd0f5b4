"""The rule for verdicts keeps its promises, and the report's table of them is what the simulation prints."""

import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math
import re

from noise import POWER
from notes import SIMULATED
from tests.simulate_verdicts import NOISES, RULES, table

N_REPORTS = 1500


def test_the_rule_keeps_its_promises():
    """By the report's table, which the next test compares with a simulation."""
    two_points = {}
    for line in SIMULATED.splitlines()[2:]:
        n_networks, noise, n_seeds, rule = (cell.strip() for cell in line.split("|")[1:5])
        false, _, _, _, two, _, detectable = percentages(line)
        two_points[n_networks, noise, n_seeds, rule] = two
        assert detectable < 100 * POWER  # as the noise is not known
        if rule == "robust moderation":
            assert false <= (6 if noise not in ("7 times for two", "3 times for the baseline") else 8)
    for n_seeds, at_least in (("3", 50), ("5", 80)):
        assert two_points["16", "equal", n_seeds, "robust moderation"] >= at_least
        assert two_points["16", "equal", n_seeds, "paired t-tests"] < at_least


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
