"""Differences between networks and other weighted sums of their top-1, each with its interval and test."""

import math
from dataclasses import dataclass

import numpy as np

from noise import ALPHA, FEWEST_NETWORKS, FEWEST_SEEDS, moderate, no_spread, t_test
from rows import at_chance


@dataclass
class Estimate:
    """mean ± half (95%), the two-sided p of no effect, and the standard error with its df; nan where seeds tell nothing."""

    mean: float = math.nan
    half: float = math.nan
    p: float = math.nan
    error: float = math.nan
    df: float = math.nan


def top1(net, seeds):
    return net.values("top1", seeds)


class SeedNoise:
    """The noise of the networks trained with all of `seeds`, moderated over them (noise.py) where there are enough.

    With fewer than FEWEST_NETWORKS networks or FEWEST_SEEDS seeds each sum has the noise of its own seeds alone, as in the
    paired t-test. So has one with a network that ended at chance, whose scatter is of another kind and has no part in this.
    """

    def __init__(self, nets, seeds, measure=top1):
        """measure: (net, seeds) -> an entry per seed, in points."""
        self.seeds, self.measure = list(seeds), measure
        trained = [net for net in nets if set(self.seeds) <= set(net.seeds)]
        self.nets = [net for net in trained if not any(at_chance(net.runs[seed]) for seed in self.seeds)]
        enough = len(self.nets) >= FEWEST_NETWORKS and len(self.seeds) >= FEWEST_SEEDS
        self.moderated = moderate(np.array([measure(net, self.seeds) for net in self.nets])) if enough else None

    @property
    def usual(self):
        """Standard deviation over seeds that the prior expects of a network, in points; nan where there is no prior."""
        return math.sqrt(self.moderated.prior_variance[0]) if self.moderated else math.nan

    def deviation(self, net):
        """A network's standard deviation over seeds, in points, if it is far noisier than the others; else None.

        Far is a tail probability below ALPHA after Bonferroni's correction for the number of networks.
        """
        if self.moderated is None or net not in self.nets:
            return None
        i = self.nets.index(net)
        far = self.moderated.tail[i] < ALPHA / len(self.nets)
        return math.sqrt(self.moderated.variance[i]) if far else None

    def estimate(self, *terms):
        """The sum of weight · measure over terms (net, weight), all trained with self.seeds -> Estimate.

        Weights that add up to 0 cancel what a seed does to all networks alike.
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
            variance = weights**2 @ self.moderated.variance[at] + weights.sum() ** 2 * self.moderated.block_variance
            squared_error, df = variance / n_seeds, self.moderated.df[at].min()
        p, half = t_test(mean, squared_error, df)
        return Estimate(mean, float(half), float(p), math.sqrt(squared_error), float(df))
