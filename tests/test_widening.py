import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import math

import pytest

from widening import curve_weights


def test_curve_is_linear_in_log_cost():
    costs, top1 = [100, 200, 800], [[60, 61], [62, 65], [70, 69]]  # two seeds
    assert curve_weights(costs, math.sqrt(100 * 200)) @ top1 == pytest.approx([61, 63])
    assert curve_weights(costs, 400) @ top1 == pytest.approx([66, 67])
    assert curve_weights(costs, 100) @ top1 == pytest.approx([60, 61])
    assert curve_weights(costs, 800) @ top1 == pytest.approx([70, 69])
    assert curve_weights(costs, 99) is None
    assert curve_weights(costs, 801) is None
