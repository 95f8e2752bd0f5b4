"""How often the report's tests err, and what they find: prints the table in the report's notes on method.

    python -m tests.simulate_verdicts                   # 10,000 reports a row, under a minute on one core
    python -m tests.simulate_verdicts --reports 1000

A simulated report compares 15 methods with one baseline; the report's own rule is also tried with 7, the fewest that it
moderates. Three methods differ from the baseline by 1, 2 and 4 points, the others not at all. A seed shifts all networks
alike (standard deviation 0.5 points); the rest is normal noise of

    equal          0.65 points for every network
    one noisy      0.65 points, but 4.55 for one of the networks, drawn at random
    two noisy      the same for two
    noisy baseline 0.65 points, but 1.95 for the baseline (at 4.55 it keeps its own noise, and the rule errs less)
    log-normal     0.65 points times exp(0.5 z) for each network, z standard normal

A claim is false if a method without effect, or with one of the other sign, is significant after Holm's correction. Two rates
are of reports whose methods all have no effect: of reports with a false claim, and of single 95% intervals that miss 0. The
last rate is of the detectable difference: a report in which no method differs gives its median, one method is then made better
by that much, and the rate is the share of reports that find it with other seeds.
"""

import argparse
from functools import partial

import numpy as np
from scipy import special

from noise import ALPHA, FEWEST_NETWORKS, detectable_effect, holm, inverse_trigamma, moderate, t_test

EFFECTS = (1.0, 2.0, 4.0)  # points
MANY, FEW = 16, FEWEST_NETWORKS  # networks of a report, the baseline among them
USUAL, BLOCK = 0.65, 0.5
CHUNK = 2000  # reports at a time: some MB


def equal(rng, shape):
    return np.full(shape, USUAL)


def noisy(n, rng, shape):
    deviations = equal(rng, shape)
    drawn = rng.random(shape).argsort(1)[:, :n]
    np.put_along_axis(deviations, drawn, 7 * USUAL, 1)
    return deviations


def noisy_baseline(rng, shape):
    deviations = equal(rng, shape)
    deviations[:, 0] *= 3
    return deviations


def log_normal(rng, shape):
    return USUAL * np.exp(0.5 * rng.standard_normal(shape))


NOISES = {
    "equal": equal,
    "7 times for one": partial(noisy, 1),
    "7 times for two": partial(noisy, 2),
    "3 times for the baseline": noisy_baseline,
    "log-normal": log_normal,
}


def paired_t_tests(top1):
    """The rule without moderation: each method's own differences, (..., K, n) -> (differences, squared errors, df), (..., K-1)."""
    of_seeds = top1[..., 1:, :] - top1[..., :1, :]
    n_seeds = top1.shape[-1]
    return of_seeds.mean(-1), of_seeds.var(-1, ddof=1) / n_seeds, np.full(of_seeds.shape[:-1], n_seeds - 1)


def plainly_moderated(top1):
    """Moderation as published by Smyth (2004), prior by moments and not robust; shapes as of paired_t_tests()."""
    n_nets, n_seeds = top1.shape[-2:]
    df = n_seeds - 1
    centred = top1 - top1.mean(-1, keepdims=True)
    sample = ((centred - centred.mean(-2, keepdims=True)) ** 2).sum(-1) / df * n_nets / (n_nets - 1)
    logs = np.log(sample)
    spread = logs.var(-1, ddof=1, keepdims=True) - special.polygamma(1, df / 2)
    prior_df = np.where(spread > 0, 2 * inverse_trigamma(np.maximum(spread, 1e-4)), 2e4)
    shift = special.digamma(df / 2) - np.log(df / 2) - special.digamma(prior_df / 2) + np.log(prior_df / 2)
    prior_variance = np.exp(logs.mean(-1, keepdims=True) - shift)
    variance = (prior_df * prior_variance + df * sample) / (prior_df + df)
    means = top1.mean(-1)
    differences = means[..., 1:] - means[..., :1]
    total_df = np.minimum(prior_df + df, (n_nets - 1) * df)
    squared_errors = (variance[..., 1:] + variance[..., :1]) / n_seeds
    return differences, squared_errors, np.broadcast_to(total_df, differences.shape)


def against_first(top1):
    """The report's rule, of every other network to the first; shapes as of paired_t_tests()."""
    noise, means, n_seeds = moderate(top1), top1.mean(-1), top1.shape[-1]
    differences = means[..., 1:] - means[..., :1]
    squared_errors = (noise.variance[..., 1:] + noise.variance[..., :1]) / n_seeds
    return differences, squared_errors, np.minimum(noise.df[..., 1:], noise.df[..., :1])


OURS = "robust moderation"
RULES = {"paired t-tests": paired_t_tests, "plain moderation": plainly_moderated, OURS: against_first}


def simulate(rule, noise, n_seeds, n_reports, effects=EFFECTS, seed=0, n_networks=MANY):
    """The shares (of reports with a false claim, of single tests with p < ALPHA, of reports that find each effect)."""
    rng = np.random.default_rng(seed)
    means = np.zeros(n_networks)
    means[1 : 1 + len(effects)] = effects
    false, alone, found = 0, 0.0, np.zeros(len(effects))
    for start in range(0, n_reports, CHUNK):
        deviations = noise(rng, (min(CHUNK, n_reports - start), len(means)))
        called, ps = verdicts(rule, draw(rng, means, deviations, n_seeds))
        truth = np.sign(means[1:])
        false += ((called != 0) & (called != truth)).any(-1).sum()
        alone += (ps < ALPHA).mean(-1).sum()
        found += (called == truth)[:, : len(effects)].sum(0)
    return false / n_reports, alone / n_reports, found / n_reports


def draw(rng, means, deviations, n_seeds):
    """Top-1 of reports: means and deviations (..., K) -> (..., K, n_seeds)."""
    block = BLOCK * rng.standard_normal((len(deviations), 1, n_seeds))
    return means[..., None] + block + deviations[..., None] * rng.standard_normal((*deviations.shape, n_seeds))


def verdicts(rule, top1):
    """The sign of each difference that is significant, else 0, and the p of each alone: (..., K-1) both."""
    differences, squared_errors, df = rule(top1)
    ps = t_test(differences, squared_errors, df)[0]
    return np.where(holm(ps) < ALPHA, np.sign(differences), 0), ps


def find_detectable(rule, noise, n_seeds, n_reports, n_networks=MANY, seed=2):
    """The share of reports that find a method which is better by the median detectable difference of an earlier report."""
    rng, level = np.random.default_rng(seed), ALPHA / (n_networks - 1)
    inverse_dfs = np.linspace(0, 1 / (n_seeds - 1), 50)[1:]  # a straight line between these is near enough
    in_errors = [detectable_effect(1 / inverse, level) for inverse in inverse_dfs]
    found = 0
    for start in range(0, n_reports, CHUNK):
        deviations = noise(rng, (min(CHUNK, n_reports - start), n_networks))
        means = np.zeros(deviations.shape)
        _, squared_errors, df = rule(draw(rng, means, deviations, n_seeds))
        detectable = np.interp(1 / df, inverse_dfs, in_errors) * np.sqrt(squared_errors)
        means[:, 1] = np.median(detectable, axis=-1)
        called, _ = verdicts(rule, draw(rng, means, deviations, n_seeds))
        found += (called[:, 0] > 0).sum()
    return found / n_reports


def table(n_reports, rules=RULES, noises=NOISES, seeds=(3, 5)):
    """The table in Markdown."""
    lines = [
        "| networks | noise | seeds | test | false claim | no effects: false claim | interval misses | 1, 2, 4 points found "
        "| detectable found |"
    ]
    lines += ["| --: | --- | --: | --- | --: | --: | --: | --: | --: |"]
    of_sizes = [(MANY, rule) for rule in rules] + [(FEW, OURS)]
    for name, noise in noises.items():
        for n_seeds in seeds:
            for n_networks, rule in of_sizes:
                false, _, found = simulate(rules[rule], noise, n_seeds, n_reports, n_networks=n_networks)
                how = {"effects": (), "seed": 1, "n_networks": n_networks}
                none, alone, _ = simulate(rules[rule], noise, n_seeds, n_reports, **how)
                percents = ", ".join(f"{100 * part:.0f}" for part in found)
                detectable = find_detectable(rules[rule], noise, n_seeds, n_reports, n_networks)
                cells = [
                    n_networks,
                    name,
                    n_seeds,
                    rule,
                    *(f"{part:.1%}" for part in (false, none, alone)),
                    f"{percents} %",
                    f"{detectable:.0%}",
                ]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines).replace("%", " %").replace("  %", " %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=10_000, help="simulated reports for each row")
    print(table(parser.parse_args().reports))


if __name__ == "__main__":
    main()
