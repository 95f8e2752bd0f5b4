"""How often the report's tests err, and what they find: prints the table in the report's notes on method.

    python -m tests.simulate_verdicts                   # 10,000 reports a row, under a minute on one core
    python -m tests.simulate_verdicts --reports 1000

A simulated report compares 15 methods with one baseline. Three methods differ from it by 1, 2 and 4 points, the other
twelve not at all. A seed shifts all networks alike (standard deviation 0.5 points); the rest is normal noise of

    equal          0.65 points for every network
    one noisy      0.65 points, but 4.55 for one of the 16 networks, drawn at random
    noisy baseline 0.65 points, but 4.55 for the baseline
    log-normal     0.65 points times exp(0.5 z) for each network, z standard normal

A word is false if a method without effect, or with one of the other sign, is significant after Holm's correction. The rate
among reports whose 15 methods all have no effect is given as well.
"""

import argparse

import numpy as np
from scipy import special, stats

from noise import ALPHA, against_first, holm, inverse_trigamma, t_test

EFFECTS = (1.0, 2.0, 4.0)  # points
N_METHODS, USUAL, NOISY, BLOCK = 15, 0.65, 7 * 0.65, 0.5
CHUNK = 2000  # reports at a time: some MB


def equal(rng, shape):
    return np.full(shape, USUAL)


def one_noisy(rng, shape):
    deviations = equal(rng, shape)
    deviations[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = NOISY
    return deviations


def noisy_baseline(rng, shape):
    deviations = equal(rng, shape)
    deviations[:, 0] = NOISY
    return deviations


def log_normal(rng, shape):
    return USUAL * np.exp(0.5 * rng.standard_normal(shape))


NOISES = {
    "equal": equal,
    "one of 7 times": one_noisy,
    "baseline of 7 times": noisy_baseline,
    "log-normal": log_normal,
}


def paired_t_tests(top1):
    """The rule without moderation: each method's own differences, (..., K, n) -> (differences, p), each (..., K-1)."""
    of_seeds = top1[..., 1:, :] - top1[..., :1, :]
    return of_seeds.mean(-1), stats.ttest_1samp(of_seeds, 0, axis=-1).pvalue


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
    return differences, t_test(differences, (variance[..., 1:] + variance[..., :1]) / n_seeds, total_df)[0]


RULES = {"paired t-tests": paired_t_tests, "plain moderation": plainly_moderated, "this report's": against_first}


def simulate(rule, noise, n_seeds, n_reports, effects=EFFECTS, seed=0):
    """(part of the reports with a false word, part of the reports that find each effect)."""
    rng = np.random.default_rng(seed)
    means = np.zeros(1 + N_METHODS)
    means[1 : 1 + len(effects)] = effects
    false, found = 0, np.zeros(len(effects))
    for start in range(0, n_reports, CHUNK):
        shape = (min(CHUNK, n_reports - start), len(means))
        deviations = noise(rng, shape)
        block = BLOCK * rng.standard_normal((shape[0], 1, n_seeds))
        top1 = means[:, None] + block + deviations[..., None] * rng.standard_normal((*shape, n_seeds))
        differences, ps = rule(top1)
        called = np.where(holm(ps) < ALPHA, np.sign(differences), 0)
        truth = np.sign(means[1:])
        false += ((called != 0) & (called != truth)).any(-1).sum()
        found += (called == truth)[:, : len(effects)].sum(0)
    return false / n_reports, found / n_reports


def table(n_reports, rules=RULES, noises=NOISES, seeds=(3, 5)):
    """The table in Markdown."""
    lines = ["| noise | seeds | rule | false word | false word, no effects | 1, 2, 4 points found |"]
    lines += ["| --- | --: | --- | --: | --: | --: |"]
    for name, noise in noises.items():
        for n_seeds in seeds:
            for rule, test in rules.items():
                false, found = simulate(test, noise, n_seeds, n_reports)
                none, _ = simulate(test, noise, n_seeds, n_reports, effects=(), seed=1)
                percents = ", ".join(f"{100 * part:.0f}" for part in found)
                lines.append(f"| {name} | {n_seeds} | {rule} | {false:.1%} | {none:.1%} | {percents} % |")
    return "\n".join(lines).replace("%", " %").replace("  %", " %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=10_000, help="simulated reports for each row")
    print(table(parser.parse_args().reports))


if __name__ == "__main__":
    main()
