"""The widening curve: what a plain backbone reaches at other widths, for judging a method at equal cost."""

import math
from dataclasses import dataclass

import numpy as np

FASTER = 0.1  # part of its time by which a width must undercut a wider one to stay on the curve, as times are measured


@dataclass
class Gap:
    """A method's distance from the widening curve at equal cost: mean ± half, or why there is none."""

    mean: float = math.nan
    half: float = math.nan
    why: str = ""

    @property
    def above(self):
        return self.mean - self.half > 0

    @property
    def below(self):
        return self.mean + self.half < 0


def widening_curve(nets, baseline):
    """The widths of a backbone that were trained with all of the baseline's seeds, narrowest first."""
    widths = [net for net in nets if net.on_curve and net.backbone == baseline.backbone]
    return sorted(
        (net for net in widths if set(baseline.seeds) <= set(net.seeds)), key=lambda net: net.costs["parameters"]
    )


def not_undercut(curve, cost):
    """The points of the curve but for those that cost as much as a wider one, or nearly its time."""
    points, limit = [], 1 - FASTER if cost == "training time" else 1
    for net in reversed(curve):
        if not points or net.costs[cost] < limit * points[0].costs[cost]:
            points.insert(0, net)
    return points


def curve_weights(costs, cost):
    """The weight of each point, costs ascending, in the curve's top-1 at `cost`: (n_points,).

    Linear in log(cost) between the two neighbouring points; None outside the points, as nothing is extrapolated.
    """
    if not costs[0] <= cost <= costs[-1]:
        return None
    return np.array([np.interp(np.log(cost), np.log(costs), of_point) for of_point in np.eye(len(costs))])


def gap_to_curve(net, curve, cost, noise):
    """A method's Gap: its top-1 minus the curve's at its cost, so that both vary, with the noise of the seeds."""
    if len(curve) < 2:
        return Gap(why="no widening curve")
    if not net.can_compare(cost):
        return Gap(why="not timed by the cost pass")
    curve = [point for point in curve if point.can_compare(cost)]
    if len(curve) < 2:
        return Gap(why="the cost pass timed no second width")
    points = not_undercut(curve, cost)
    weights = curve_weights([point.costs[cost] for point in points], net.costs[cost])
    if weights is None:
        return Gap(why="outside the curve")
    distance = noise.estimate((net, 1), *zip(points, -weights, strict=True))
    return Gap(distance.mean, distance.half)
