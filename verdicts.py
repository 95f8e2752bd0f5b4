"""Where a verdict is decided: comparisons with a baseline, with the widening curve, and a word for each."""

import math
from dataclasses import dataclass, field

import numpy as np

from nets import COSTS, Net, group
from noise import ALPHA, detectable_in_sds, holm, no_spread, paired_p, t_interval, top1_on_curve
from rows import at_chance, in_list, key_of

FASTER = 0.1  # part of its time by which a width must undercut a wider one to stay on the curve, as times are measured
WORDS = ("helps", "no better than widening", "no evidence", "hurts", "unstable")
RULE = f"""\
- *helps*: above the baseline (Holm-corrected p < {ALPHA}), above the widening curve (interval above 0) at one cost at least, and below it (interval below 0) at none. A method that cannot be compared with a widening curve is judged against the baseline alone, and the remark says so.
- *no better than widening*: above the baseline, but not that: not shown to be above the curve anywhere, or below it somewhere.
- *hurts*: below the baseline (Holm-corrected p < {ALPHA}) and above the widening curve at no cost.
- *unstable*: with some seeds, not with all, it or the baseline ended no better than guessing. Its mean is of two outcomes: it gets no other word and has no part in costs, power and superclasses, but counts in Holm's correction.
- *no evidence*: the rest; the remark tells of a method that is above the curve at some cost.
- no word: with one seed, or for a method that was not trained with all of the baseline's seeds, unless it is unstable."""


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


@dataclass
class Comparison:
    """A net against its reference (a method's baseline, an ablation's default) over the seeds that both have."""

    net: Net
    reference: Net | None
    seeds: list = field(default_factory=list)
    lacks: list = field(default_factory=list)  # seeds of the reference that the net was not trained with
    differences: np.ndarray | None = None  # of top-1, one per seed
    mean: float = math.nan
    half: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan  # nan: not in the corrected family
    detectable: float = math.nan
    gaps: dict = field(default_factory=dict)  # cost -> Gap

    @property
    def judged(self):
        return not math.isnan(self.p_holm)

    @property
    def direction(self):
        """1 or -1 for a difference that is significant after Holm's correction, else 0."""
        return int(np.sign(self.mean)) if self.p_holm < ALPHA else 0

    def lost(self, net):
        """The seeds with which one of the two, the net or its reference, ended at chance."""
        return [seed for seed in self.seeds if at_chance(net.runs[seed])]

    @property
    def unstable(self):
        """Whether one of the two ended at chance with some seeds and not with others."""
        return any(0 < len(self.lost(net)) < len(self.seeds) for net in (self.net, self.reference))

    @property
    def losses(self):
        """'ended at chance with seed 1', or whose runs did; '' where none or all of them did."""
        if not self.unstable:
            return ""
        lost = {"": self.lost(self.net), f"{self.reference.name} ": self.lost(self.reference)}
        return "; ".join(f"{who}ended at chance with seed {in_list(seeds)}" for who, seeds in lost.items() if seeds)

    def where(self, side):
        """The costs at which the net is 'above' or 'below' the widening curve."""
        return [cost for cost, gap in self.gaps.items() if getattr(gap, side)]

    @property
    def has_curve(self):
        return any(not gap.why for gap in self.gaps.values())

    @property
    def word(self):
        """The verdict by RULE; '' where there is none."""
        if self.unstable:
            return "unstable"
        if not self.judged:
            return ""
        if self.direction > 0:
            better = self.where("above") and not self.where("below")
            return "helps" if better or not self.has_curve else "no better than widening"
        return "hurts" if self.direction < 0 and not self.where("above") else "no evidence"

    @property
    def change(self):
        """In a word, what an ablation's knobs do to its default; '' where nothing can be said."""
        if self.unstable:
            return "unstable"
        return {1: "better", -1: "worse", 0: "no evidence"}[self.direction] if self.judged else ""

    @property
    def remark(self):
        """What a reader must know beside the word."""
        if self.reference is None:
            return f"not compared: {self.net.arch if self.net.settings else self.net.backbone} itself was not run"
        if self.lacks:
            lacks = f"not judged: lacks seed {in_list(self.lacks)} of {self.reference.name}"
            return f"{self.losses}; {lacks}" if self.unstable else lacks
        if self.unstable:
            return self.losses
        if len(self.seeds) < 2:
            return "not judged: one seed"
        notes = ["the same difference in every seed: nothing to test"] if no_spread(self.differences) else []
        if self.direction and self.gaps and not self.has_curve:
            notes.append(f"against the baseline alone: {in_list(sorted({gap.why for gap in self.gaps.values()}))}")
        for side in ("above", "below"):
            at = [
                f"{c} ({self.net.costs[c] / self.reference.costs[c]:.2f} of the baseline's)" for c in self.where(side)
            ]
            notes += [f"{side} the curve at equal {in_list(at)}"] if at else []
        return "; ".join(notes)


def compare(pairs):
    """[(net, reference)] -> [Comparison]; Holm's family is every net that has all seeds of its reference, two at least."""
    compared = [Comparison(net, reference) for net, reference in pairs]
    for result in compared:
        seeds = result.reference.seeds if result.reference else []
        result.seeds = [seed for seed in seeds if seed in result.net.runs]
        result.lacks = [seed for seed in seeds if seed not in result.net.runs]
        if result.seeds:
            net, reference = (of.values("top1", result.seeds) for of in (result.net, result.reference))
            result.differences = net - reference
            result.mean, result.half = t_interval(result.differences)
    family = [result for result in compared if len(result.seeds) > 1 and not result.lacks]
    for result in family:
        result.p = paired_p(result.differences)
        if not (no_spread(result.differences) or result.unstable):
            spread = float(np.std(result.differences, ddof=1))
            result.detectable = detectable_in_sds(len(result.seeds), ALPHA / len(family)) * spread
    for result, p_holm in zip(family, holm([result.p for result in family]), strict=True):
        result.p_holm = float(p_holm)
    return compared


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


def gap_to_curve(net, curve, cost, seeds):
    """A method's Gap: its top-1 minus the curve's at its cost, seed by seed, so that both vary; t-interval over seeds."""
    if len(curve) < 2:
        return Gap(why="no widening curve")
    if not net.can_compare(cost):
        return Gap(why="not timed by the cost pass")
    curve = [point for point in curve if point.can_compare(cost)]
    if len(curve) < 2:
        return Gap(why="the cost pass timed no second width")
    points = not_undercut(curve, cost)
    costs, top1 = [point.costs[cost] for point in points], [point.values("top1", seeds) for point in points]
    on_curve = top1_on_curve(costs, top1, net.costs[cost])
    if on_curve is None:
        return Gap(why="outside the curve")
    return Gap(*t_interval(net.values("top1", seeds) - on_curve))


@dataclass
class Results:
    """All that the report says, computed once."""

    nets: list
    methods: list  # of Comparison, the best first
    ablations: dict  # arch -> list of Comparison
    curves: dict  # backbone -> list of Net
    cost_pass: dict | None

    @property
    def row(self):
        """Any row: for what all of them share."""
        return next(iter(self.nets[0].runs.values()))

    @property
    def networks(self):
        """All but the ablations, which have tables of their own and no speeds there."""
        return [net for net in self.nets if not net.is_ablation]

    @property
    def judged(self):
        return [result for result in self.methods if result.judged]

    @property
    def stable(self):
        return [result for result in self.methods if not result.unstable]

    @property
    def has_curve(self):
        return any(len(curve) > 1 for curve in self.curves.values())

    def by_word(self, word):
        return [result for result in self.judged if result.word == word]


def analyse(rows, cost_pass=None):
    """Rows of result.json (and cost.json) -> Results."""
    by_key = group(rows, cost_pass)
    nets = sorted(by_key.values(), key=lambda net: (net.is_method, net.backbone, net.arch, net.width, net.knobs))
    baselines = {net.arch: net for net in nets if net.on_curve and not net.settings}
    curves = {arch: widening_curve(nets, baseline) for arch, baseline in baselines.items()}
    methods = compare([(net, baselines.get(net.backbone)) for net in nets if net.is_method and not net.settings])
    for result in methods:
        for cost in COSTS if result.seeds else ():
            gap = gap_to_curve(result.net, curves[result.net.backbone], cost, result.seeds)
            result.gaps[cost] = Gap(why="unstable") if result.unstable else gap
    methods.sort(key=lambda result: -result.mean if result.seeds else math.inf)
    other_knobs = [net for net in nets if net.is_ablation]
    ablations = {
        arch: compare([(net, by_key.get(key_of(arch, {}))) for net in other_knobs if net.arch == arch])
        for arch in dict.fromkeys(net.arch for net in other_knobs)
    }
    return Results(nets, methods, ablations, curves, cost_pass)
