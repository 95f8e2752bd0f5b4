"""Do two modules add up? Where A, B and A+B were trained: what both together gain over the sum of what each gains."""

import math
from dataclasses import dataclass

from contrasts import Estimate
from nets import Net
from noise import ALPHA, holm
from rows import at_chance


@dataclass
class Interaction:
    """top-1 of (A+B - baseline) - (A - baseline) - (B - baseline), in points; all four with the baseline's seeds."""

    both: Net
    first: Net
    second: Net
    baseline: Net
    alone: tuple  # Estimates of A and B over the baseline
    together: Estimate  # of A+B over the baseline
    estimate: Estimate
    p_holm: float = math.nan

    @property
    def word(self):
        """Whether they add up; '' where seeds tell nothing."""
        if math.isnan(self.p_holm):
            return ""
        if self.p_holm >= ALPHA:
            return "no evidence against adding up"
        return "more than the sum" if self.estimate.mean > 0 else "less than the sum"


def find_interactions(nets, baselines, noise_of):
    """The Interaction of every pair of modules of which all four networks were trained and none ended at chance.

    noise_of: seeds -> SeedNoise. Holm's family is all of them.
    """
    as_is = {net.arch: net for net in nets if not net.settings}
    found = []
    for arch, both in as_is.items():
        *methods, backbone = arch.split("_")
        first, second = (as_is.get(f"{method}_{backbone}") for method in methods) if len(methods) == 2 else (None, None)
        baseline = baselines.get(backbone)
        four = (both, first, second, baseline)
        if None in four or any(set(baseline.seeds) - set(net.seeds) for net in four):
            continue
        if any(at_chance(net.runs[seed]) for net in four for seed in baseline.seeds):
            continue
        noise = noise_of(baseline.seeds)
        over_baseline = [noise.estimate((net, 1), (baseline, -1)) for net in (first, second, both)]
        estimate = noise.estimate((both, 1), (first, -1), (second, -1), (baseline, 1))
        found.append(Interaction(*four, tuple(over_baseline[:2]), over_baseline[2], estimate))
    told = [each for each in found if not math.isnan(each.estimate.p)]
    for each, p_holm in zip(told, holm([each.estimate.p for each in told]), strict=True):
        each.p_holm = float(p_holm)
    return found
