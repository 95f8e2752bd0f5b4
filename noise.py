"""How much results vary over seeds, and what can be said in spite of it: tests, intervals, differences, the widening curve.

A network trained with three seeds says little about its own noise: it has two degrees of freedom. But the networks of one
comparison have similar noise, so each network's variance is moderated by the others', as is usual for thousands of genes
measured on a few arrays:

    Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential Expression, 2004
    Phipson, Lee, Majewski, Alexander and Smyth, Robust Hyperparameter Estimation Protects against Hypervariable Genes
    and Improves Power to Detect Differential Expression, 2016

The model: the top-1 of network a with seed s is mean_a + block_s + noise. The noise is normal, with a variance of its own
for each network; the variances come from a scaled inverse chi-squared prior. tests/simulate_verdicts.py measures how often
the tests err and what they find. Departures from the papers, chosen by that simulation:

- the prior is fitted to quantiles of the log variances instead of moments, because a few noisy networks hardly move them;
- its degrees of freedom are at most the number of networks, because few variances say little about how much they differ;
- a sum over several networks has the degrees of freedom of the network with the fewest;
- a network noisier than expected loses the prior gradually, as its tail probability falls below 0.15.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, special, stats

from rows import Net, at_chance

ALPHA = 0.05  # of the corrected tests; intervals cover 1 - ALPHA
POWER = 0.8  # chance of finding the smallest detectable difference
FEWEST_NETWORKS, FEWEST_SEEDS = 8, 3  # below these each comparison keeps its own noise
FITTED = 0.15  # the prior is fitted to this quantile of the log variances and to its mirror image, 1 - FITTED
LOSES_PRIOR = 0.15  # tail probability below which a network's noise begins to count as its own
NEAR = 2.5  # factor: between widths whose costs differ by more, a straight line is too far from the curve
AT_A_WIDTH = 0.05  # a width with less weight than this is too far along the line to bend it
FASTER = 0.1  # a width stays on the curve if it takes less time than a wider one by this fraction, as times are noisy
OUTSIDE = "outside the curve"  # why a method has no gap to it
TRIMMED = 0.2  # fraction of the networks left out at either end when a seed's effect is estimated


def no_spread(values):
    """Whether values say nothing about their noise: fewer than two, or all the same."""
    return len(values) < 2 or np.ptp(values) < 1e-9


def t_interval(values):
    """(mean, half width) of the 95% t-interval: mean ± t(0.975, n-1) · s / √n; the half is nan without a spread."""
    mean, n = float(np.mean(values)), len(values)
    if no_spread(values):
        return mean, math.nan
    return mean, float(stats.t.ppf(1 - ALPHA / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


@dataclass
class Moderated:
    """Noise variances of K networks, each with its degrees of freedom; arrays (..., K), of the prior (..., 1)."""

    variance: np.ndarray
    df: np.ndarray
    tail: np.ndarray  # probability under the prior of a sample variance at least as large as the network's
    prior_variance: np.ndarray
    prior_df: np.ndarray
    block_variance: np.ndarray  # of the effect that a seed has on all networks


def moderate(top1):
    """Top-1 of K networks with n seeds each, (..., K, n) -> Moderated.

    For K >= 4 and n >= 3: then df is never above what all residuals have, (K - 1)(n - 1).
    """
    n_nets, n_seeds = top1.shape[-2:]
    centred = top1 - top1.mean(-1, keepdims=True)
    block = stats.trim_mean(centred, TRIMMED, axis=-2)  # (..., n)
    residuals = centred - block[..., None, :]
    df = n_seeds - 1
    sample = (residuals**2).sum(-1) / df * n_nets / (n_nets - 1)  # the block absorbs a share of each network's noise
    sample = np.maximum(sample, 1e-12)  # seeds that agree to the last image
    prior_variance, prior_df = fit_prior(np.log(sample), df)
    tail = stats.f.sf(sample / prior_variance, df, prior_df)
    weight = prior_df * np.minimum(1, tail / LOSES_PRIOR)
    variance = (weight * prior_variance + df * sample) / (weight + df)
    usual = stats.trim_mean(variance, TRIMMED, axis=-1)  # trimmed as the block is, which one noisy network hardly moves
    block_variance = np.maximum(0, block.var(-1, ddof=1) - usual / n_nets)
    return Moderated(variance, weight + df, tail, prior_variance, prior_df, block_variance)


def fit_prior(log_variances, df):
    """(s0², d0) of the prior, a scaled inverse chi-squared: σ² ~ d0 · s0² / χ²(d0); log variances (..., K) -> (..., 1) each.

    Var(log s²) = ψ'(df/2) + ψ'(d0/2) (Smyth 2004, section 6.2), with the variance taken from two quantiles. s0² makes
    the median that of an F distribution with df and d0.
    """
    n_nets = log_variances.shape[-1]
    low, high = np.quantile(log_variances, [FITTED, 1 - FITTED], axis=-1, keepdims=True)
    expected = np.log(stats.chi2.ppf([FITTED, 1 - FITTED], df))  # if all networks had the same variance
    sampling = special.polygamma(1, df / 2)
    of_prior = (((high - low) / (expected[1] - expected[0])) ** 2 - 1) * sampling  # ψ'(d0/2)
    prior_df = 2 * inverse_trigamma(np.maximum(of_prior, special.polygamma(1, n_nets / 2)))  # n_nets at most
    median = np.median(log_variances, axis=-1, keepdims=True)
    return np.exp(median) / stats.f.ppf(0.5, df, prior_df), prior_df


def inverse_trigamma(x):
    """y with ψ'(y) = x > 0, by Newton's method (Smyth 2004, appendix)."""
    y = 0.5 + 1 / np.asarray(x, dtype=float)
    for _ in range(20):
        trigamma = special.polygamma(1, y)
        y = y + trigamma * (1 - trigamma / x) / special.polygamma(2, y)
    return y


def t_test(estimate, squared_error, df):
    """(two-sided p, half width of the 95% interval) of an estimate with that squared standard error and df."""
    error = np.sqrt(squared_error)
    return 2 * stats.t.sf(np.abs(estimate) / error, df), stats.t.ppf(1 - ALPHA / 2, df) * error


def holm(ps):
    """Holm's (1979) adjusted p-values along the last axis: the i-th smallest of m is multiplied by m-i+1, then made
    non-decreasing, at most 1."""
    ps = np.asarray(ps, dtype=float)
    order = np.argsort(ps, axis=-1)
    stepped = np.take_along_axis(ps, order, -1) * np.arange(ps.shape[-1], 0, -1)
    adjusted = np.empty_like(ps)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(stepped, axis=-1).clip(max=1), -1)
    return adjusted


def benjamini_hochberg(ps):
    """Which of many effects to show so that about ALPHA of those shown are noise (Benjamini and Hochberg 1995): booleans."""
    return stats.false_discovery_control(ps) <= ALPHA


@cache
def detectable_effect(df, level):
    """The smallest difference, in standard errors, that a two-sided t-test at `level` finds, with the right sign,
    with probability POWER.

    Solves P(T > t(1 - level/2, df)) = POWER where T is noncentral t with df degrees of freedom and the
    difference as noncentrality.
    """
    critical = stats.t.ppf(1 - level / 2, df)
    return optimize.brentq(lambda effect: stats.nct.sf(critical, df, effect) - POWER, 0, 20 * critical)


# ---------------------------------------------------------------------------------------------------------- differences


@dataclass
class Estimate:
    """mean ± half (95%), the two-sided p of no effect, and the standard error with its df.

    nan where the seeds cannot tell; p is 1 if they all agree.
    """

    mean: float = math.nan
    half: float = math.nan
    p: float = math.nan
    error: float = math.nan
    df: float = math.nan


def top1_of(net, seeds):
    return net.values("top1", seeds)


class SeedNoise:
    """The noise of the networks trained with all of `seeds`, moderated by moderate() if there are enough of them.

    With fewer than FEWEST_NETWORKS networks or FEWEST_SEEDS seeds, or if most networks show no noise, each sum is judged by
    the noise of its own seeds alone, as in the paired t-test. So is a sum with a network that ended at chance, whose scatter
    is of another kind; such networks have no part in the moderation.
    """

    def __init__(self, nets, seeds, measure=top1_of):
        """measure: (net, seeds) -> one entry per seed, in points."""
        self.seeds, self.measure = list(seeds), measure
        trained = [net for net in nets if set(self.seeds) <= set(net.seeds)]
        self.nets = [net for net in trained if learned(net, self.seeds)]
        enough = len(self.nets) >= FEWEST_NETWORKS and len(self.seeds) >= FEWEST_SEEDS
        values = np.array([measure(net, self.seeds) for net in self.nets])
        if enough and np.median(np.ptp(values, axis=-1)) < 1e-9:
            enough = False  # few test images, on which most seeds agree: the rest says nothing of their noise
        self.moderated = moderate(values) if enough else None

    @property
    def usual(self):
        """The standard deviation over seeds, in points, that the prior expects of a network; nan without a prior."""
        return math.sqrt(self.moderated.prior_variance[0]) if self.moderated else math.nan

    def deviation(self, net):
        """A network's standard deviation over seeds, in points, if it is far noisier than the others; else None.

        Far means a tail probability below ALPHA after Bonferroni's correction for the number of networks.
        """
        if self.moderated is None or net not in self.nets:
            return None
        i = self.nets.index(net)
        far = self.moderated.tail[i] < ALPHA / len(self.nets)
        return float(self.measure(net, self.seeds).std(ddof=1)) if far else None

    def estimate(self, *terms):
        """The sum of weight · measure over terms (net, weight), all trained with self.seeds -> Estimate.

        If the weights add up to 0, what a seed does to all networks alike cancels out.
        """
        terms = [(net, weight) for net, weight in terms if weight]
        of_seeds = sum(weight * self.measure(net, self.seeds) for net, weight in terms)
        mean, n_seeds = float(of_seeds.mean()), len(self.seeds)
        if self.moderated is None or any(net not in self.nets for net, _ in terms):
            if no_spread(of_seeds):
                return Estimate(mean, p=1.0 if n_seeds > 1 else math.nan)
            squared_error, df = of_seeds.var(ddof=1) / n_seeds, n_seeds - 1
        else:
            at, weights = [self.nets.index(net) for net, _ in terms], np.array([weight for _, weight in terms])
            own, shared = weights**2 @ self.moderated.variance[at], weights.sum() ** 2 * self.moderated.block_variance
            squared_error, df = (own + shared) / n_seeds, self.moderated.df[at].min()
            if shared:  # known from these few seeds alone; the sum's df as in Satterthwaite 1946
                df = (own + shared) ** 2 / (own**2 / df + shared**2 / (n_seeds - 1))
        p, half = t_test(mean, squared_error, df)
        return Estimate(mean, float(half), float(p), math.sqrt(squared_error), float(df))


# ------------------------------------------------------------------------------------------------------- widening curve


@dataclass
class Gap:
    """A method's distance from the widening curve at equal cost: mean ± half, or why there is none."""

    mean: float = math.nan
    half: float = math.nan
    p: float = math.nan  # two-sided, of no distance
    why: str = ""
    p_holm: float = math.nan  # among all methods and costs of a report

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


def learned(net, seeds):
    """Whether a net ended above chance with all these seeds."""
    return not any(at_chance(net.runs[seed]) for seed in seeds)


def not_undercut(curve, cost):
    """The points of the curve, without those that cost as much as a wider one, or take nearly its time."""
    points, limit = [], 1 - FASTER if cost == "training time" else 1
    for net in reversed(curve):
        if not points or net.costs[cost] < limit * points[0].costs[cost]:
            points.insert(0, net)
    return points


def curve_weights(costs, cost):
    """The weight of each point, costs ascending, in the curve's top-1 at `cost`: (n_points,).

    Linear in log(cost) between the two neighbouring points; None outside the points, because nothing is extrapolated.
    """
    if not costs[0] <= cost <= costs[-1]:
        return None
    # a curve that is 1 at one point and 0 at the others gives that point's weight
    return np.array([np.interp(np.log(cost), np.log(costs), of_point) for of_point in np.eye(len(costs))])


def gap_to_curve(net, curve, cost, noise):
    """A method's Gap: its top-1 minus the curve's at the same cost. The interval covers the noise of both.

    Between widths whose costs differ by more than a factor of NEAR, and not near either, the straight line lies too far below
    the true curve: there it can only show that a method is below.
    """
    curve = [point for point in curve if learned(point, noise.seeds)]
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
        return Gap(why=OUTSIDE)
    distance = noise.estimate((net, 1), *zip(points, -weights, strict=True))
    gap = Gap(distance.mean, distance.half, distance.p)
    around = [point.costs[cost] for point, weight in zip(points, weights, strict=True) if weight > AT_A_WIDTH]
    is_far = max(around) > NEAR * min(around)
    return Gap(why="no width near it") if is_far and not gap.below else gap


# --------------------------------------------------------------------------------------------------------- interactions


@dataclass
class Interaction:
    """top-1 of (A+B - baseline) - (A - baseline) - (B - baseline), in points; all four with the baseline's seeds."""

    both: Net
    alone: tuple  # Estimates of A and B over the baseline
    together: Estimate  # of A+B over the baseline
    estimate: Estimate
    p_holm: float = math.nan

    @property
    def word(self):
        """Whether the gains add up; '' where the seeds cannot tell."""
        if math.isnan(self.p_holm) or math.isnan(self.estimate.error):
            return ""
        if self.p_holm >= ALPHA:
            return "may add up"
        return "more than the sum" if self.estimate.mean > 0 else "less than the sum"


def find_interactions(nets, baselines, noise_of):
    """The Interaction of every pair of modules whose four networks were all trained and never ended at chance.

    noise_of: seeds -> SeedNoise. Holm's family is all of these pairs.
    """
    as_is = {net.arch: net for net in nets if not net.settings}
    found = []
    for arch, both in as_is.items():
        *methods, backbone = arch.split("_")
        if len(methods) != 2:
            continue
        first, second = (as_is.get(f"{method}_{backbone}") for method in methods)
        baseline = baselines.get(backbone)
        four = (both, first, second, baseline)
        if None in four or any(set(baseline.seeds) - set(net.seeds) for net in four):
            continue
        if not all(learned(net, baseline.seeds) for net in four):
            continue
        noise = noise_of(baseline.seeds)
        *alone, together = (noise.estimate((net, 1), (baseline, -1)) for net in (first, second, both))
        estimate = noise.estimate((both, 1), (first, -1), (second, -1), (baseline, 1))
        found.append(Interaction(both, tuple(alone), together, estimate))
    tested = [each for each in found if not math.isnan(each.estimate.p)]
    for each, p_holm in zip(tested, holm([each.estimate.p for each in tested]), strict=True):
        each.p_holm = float(p_holm)
    return found
