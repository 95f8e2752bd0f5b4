"""Intervals, tests and detectable differences over seeds."""

import math
from functools import cache

import numpy as np
from scipy import optimize, stats

ALPHA = 0.05  # of the corrected tests; intervals cover 1 - ALPHA
POWER = 0.8  # chance to find the smallest detectable difference


def no_spread(values):
    """Whether values say nothing about their noise: fewer than two of them, or all the same."""
    return len(values) < 2 or np.ptp(values) < 1e-9


def t_interval(values):
    """(mean, half width) of the 95% t-interval: mean ± t(0.975, n-1) · s / √n; nan for the half where there is no spread."""
    mean, n = float(np.mean(values)), len(values)
    if no_spread(values):
        return mean, math.nan
    return mean, float(stats.t.ppf(1 - ALPHA / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def paired_p(differences):
    """Two-sided p of the paired t-test, t = mean / (s / √n) with n-1 degrees of freedom; 1 where there is no spread."""
    return 1.0 if no_spread(differences) else float(stats.ttest_1samp(differences, 0).pvalue)


def holm(ps):
    """Holm's (1979) adjusted p-values: the i-th smallest of m is multiplied by m-i+1, then made non-decreasing, at most 1."""
    order = np.argsort(ps)
    stepped = np.asarray(ps)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.maximum.accumulate(stepped).clip(max=1)
    return adjusted


@cache
def detectable_in_sds(n, level):
    """The smallest δ/σ that a two-sided paired t-test of n differences at `level` finds, with its sign, with probability POWER.

    Solves P(T > t(1 - level/2, n-1)) = POWER for T noncentral t with n-1 degrees of freedom and noncentrality √n · δ/σ.
    """
    critical = stats.t.ppf(1 - level / 2, n - 1)

    def shortfall(effect):
        return stats.nct.sf(critical, n - 1, math.sqrt(n) * effect) - POWER

    return optimize.brentq(shortfall, 0, 10 * critical)


def top1_on_curve(costs, top1, cost):
    """Top-1 of the widening curve at `cost`, each seed on its own: (n_points, n_seeds) -> (n_seeds,).

    Linear in log(cost) between the two neighbouring points; None outside the points, as nothing is extrapolated.
    """
    if not costs[0] <= cost <= costs[-1]:
        return None
    return np.array([np.interp(np.log(cost), np.log(costs), of_seed) for of_seed in np.transpose(top1)])
