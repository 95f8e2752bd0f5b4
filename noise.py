"""How far seeds scatter, and what follows from it: variances, tests, intervals and detectable differences.

A network trained with three seeds says little about its own noise: two degrees of freedom. But the networks of one
comparison scatter alike, so each network's variance is moderated by the others', as is usual for thousands of genes
measured on a few arrays:

    Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential Expression, 2004
    Phipson, Lee, Majewski, Alexander and Smyth, Robust Hyperparameter Estimation Protects against Hypervariable Genes
    and Improves Power to Detect Differential Expression, 2016

Top-1 of network a with seed s is taken as mean_a + block_s + noise, the noise normal with a variance of each network's
own; those variances come from a scaled inverse chi-squared prior. tests/simulate_verdicts.py measures how often the tests
err and what they find. Departures from the papers, chosen by that simulation:

- the prior is fitted to quantiles of the log variances instead of moments: a few noisy networks hardly move them;
- its degrees of freedom are at most the number of networks, as few variances tell little of how much they differ;
- a sum over several networks has the degrees of freedom of the network that has fewest;
- a network noisier than expected loses the prior gradually, from a tail probability of 0.15 down.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, special, stats

ALPHA = 0.05  # of the corrected tests; intervals cover 1 - ALPHA
POWER = 0.8  # chance to find the smallest detectable difference
FEWEST_NETWORKS, FEWEST_SEEDS = 8, 3  # below these each comparison keeps its own noise
FITTED = 0.15  # the prior is fitted to this quantile of the log variances and to the one as far from the top
LOSES_PRIOR = 0.15  # tail probability below which a network's noise begins to count as its own
TRIMMED = 0.2  # part of the networks left out at either end where a seed's effect is estimated


def no_spread(values):
    """Whether values say nothing about their noise: fewer than two of them, or all the same."""
    return len(values) < 2 or np.ptp(values) < 1e-9


def t_interval(values):
    """(mean, half width) of the 95% t-interval: mean ± t(0.975, n-1) · s / √n; nan for the half where there is no spread."""
    mean, n = float(np.mean(values)), len(values)
    if no_spread(values):
        return mean, math.nan
    return mean, float(stats.t.ppf(1 - ALPHA / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


@dataclass
class Moderated:
    """Noise variances of K networks, each with its degrees of freedom; arrays (..., K), of the prior (..., 1)."""

    variance: np.ndarray
    df: np.ndarray
    tail: np.ndarray  # probability under the prior of a sample variance as large as the network's or larger
    prior_variance: np.ndarray
    prior_df: np.ndarray
    block_variance: np.ndarray  # of the seeds' common effect


def moderate(top1):
    """Top-1 of K networks with n seeds each, (..., K, n) -> Moderated. Needs K >= 2 and n >= 2."""
    n_nets, n_seeds = top1.shape[-2:]
    centred = top1 - top1.mean(-1, keepdims=True)
    block = stats.trim_mean(centred, TRIMMED, axis=-2)  # (..., n)
    residuals = centred - block[..., None, :]
    df = n_seeds - 1
    sample = (residuals**2).sum(-1) / df * n_nets / (n_nets - 1)  # the block takes a share of each network's noise
    sample = np.maximum(sample, 1e-12)  # seeds that agree to the last image
    prior_variance, prior_df = fit_prior(np.log(sample), df)
    tail = stats.f.sf(sample / prior_variance, df, prior_df)
    weight = prior_df * np.minimum(1, tail / LOSES_PRIOR)
    variance = (weight * prior_variance + df * sample) / (weight + df)
    block_variance = np.maximum(0, block.var(-1, ddof=1) - variance.mean(-1) / n_nets)
    return Moderated(
        variance, np.minimum(weight + df, (n_nets - 1) * df), tail, prior_variance, prior_df, block_variance
    )


def fit_prior(log_variances, df):
    """(s0², d0) of the prior, a scaled inverse chi-squared: σ² ~ d0 · s0² / χ²(d0); log variances (..., K) -> (..., 1) each.

    Var(log s²) = ψ'(df/2) + ψ'(d0/2) (Smyth 2004, section 6.2), with the variance read off two quantiles; s0² puts the
    median where an F distribution with df and d0 has it.
    """
    n_nets = log_variances.shape[-1]
    low, high = np.quantile(log_variances, [FITTED, 1 - FITTED], axis=-1, keepdims=True)
    expected = np.log(stats.chi2.ppf([FITTED, 1 - FITTED], df))  # where all networks have the same variance
    sampling = special.polygamma(1, df / 2)
    spread = (((high - low) / (expected[1] - expected[0])) ** 2 - 1) * sampling
    alike = 2 / n_nets  # about ψ'(n_nets / 2): a smaller spread would give more degrees of freedom than are allowed
    prior_df = np.minimum(2 * inverse_trigamma(np.maximum(spread, alike)), n_nets)
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


def against_first(top1):
    """(differences, p-values), each (..., K-1), of all networks but the first to the first; top1 as for moderate()."""
    noise, means, n_seeds = moderate(top1), top1.mean(-1), top1.shape[-1]
    differences = means[..., 1:] - means[..., :1]
    squared_error = (noise.variance[..., 1:] + noise.variance[..., :1]) / n_seeds
    return differences, t_test(differences, squared_error, np.minimum(noise.df[..., 1:], noise.df[..., :1]))[0]


def holm(ps):
    """Holm's (1979) adjusted p-values along the last axis: the i-th smallest of m is multiplied by m-i+1, then made
    non-decreasing, at most 1."""
    ps = np.asarray(ps, dtype=float)
    order = np.argsort(ps, axis=-1)
    stepped = np.take_along_axis(ps, order, -1) * np.arange(ps.shape[-1], 0, -1)
    adjusted = np.empty_like(ps)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(stepped, axis=-1).clip(max=1), -1)
    return adjusted


def likely_real(ps):
    """Which of many effects to show so that about ALPHA of those shown are noise (Benjamini and Hochberg 1995): booleans."""
    ps = np.asarray(ps, dtype=float)
    order = np.argsort(ps)
    below = np.flatnonzero(ps[order] <= ALPHA * np.arange(1, len(ps) + 1) / len(ps))
    shown = np.zeros(len(ps), dtype=bool)
    shown[order[: below[-1] + 1 if len(below) else 0]] = True
    return shown


@cache
def detectable_in_errors(df, level):
    """The smallest difference, in standard errors, that a two-sided t-test at `level` finds, with its sign, with
    probability POWER.

    Solves P(T > t(1 - level/2, df)) = POWER for T noncentral t with df degrees of freedom and the difference as noncentrality.
    """
    critical = stats.t.ppf(1 - level / 2, df)

    def shortfall(effect):
        return stats.nct.sf(critical, df, effect) - POWER

    return optimize.brentq(shortfall, 0, 20 * critical)
