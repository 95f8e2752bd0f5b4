"""How a verdict is reached: comparisons with a baseline and with the widening curve, and one word for each."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from noise import (
    ALPHA,
    OUTSIDE,
    Estimate,
    Gap,
    SeedNoise,
    benjamini_hochberg,
    detectable_effect,
    find_interactions,
    gap_to_curve,
    holm,
    learned,
    widening_curve,
)
from rows import (
    CLEARLY,
    COSTS,
    SUPERCLASS_OF,
    SUPERCLASSES,
    Net,
    at_chance,
    chance_error,
    differing,
    group,
    in_list,
    key_of,
    natural,
)

WORDS = ("helps", "no better than widening", "better than narrowing", "no evidence", "hurts", "unstable")


def numbered(seeds):
    """'seed 1', or 'seeds 1 and 2'."""
    return f"seed{'s' * (len(seeds) > 1)} {in_list(seeds)}"


@dataclass
class Comparison:
    """A net against its reference (a method's baseline, an ablation's default) over the seeds that both have."""

    net: Net
    reference: Net | None
    seeds: list = field(default_factory=list)
    lacks: list = field(default_factory=list)  # seeds of the reference with which the net has no result
    differences: np.ndarray | None = None  # of top-1, one per seed
    estimate: Estimate = field(default_factory=Estimate)  # of their mean
    p_holm: float = math.nan  # nan: not in the corrected family
    family_size: int = 0
    detectable: float = math.nan
    # name -> deviation, for each of the two that is far noisier than the other networks
    noisy: dict = field(default_factory=dict)
    usual_noise: float = math.nan  # deviation of the other networks, in points
    gaps: dict = field(default_factory=dict)  # cost -> Gap

    @property
    def mean(self):
        return self.estimate.mean

    @property
    def half(self):
        return self.estimate.half

    @property
    def p(self):
        return self.estimate.p

    @property
    def judged(self):
        return not math.isnan(self.p_holm)

    @property
    def direction(self):
        """The sign of a difference that is significant after Holm's correction, else 0."""
        return int(np.sign(self.mean)) if self.p_holm < ALPHA else 0

    def seeds_at_chance(self, net):
        """The seeds with which `net`, one of the two, ended at chance."""
        return [seed for seed in self.seeds if at_chance(net.runs[seed])]

    @property
    def too_early(self):
        """Whether the reference ended at chance with every seed, so that a comparison with it means nothing."""
        return bool(self.seeds) and all(at_chance(row) for row in self.reference.runs.values())

    @property
    def unstable(self):
        """Whether one of the two ended at chance with some seeds, and clearly above it with the others."""
        return any(self.has_two_outcomes(net) for net in (self.net, self.reference))

    def has_two_outcomes(self, net):
        lost = self.seeds_at_chance(net)
        others = [seed for seed in self.seeds if seed not in lost]
        if not (lost and others):
            return False
        gap = net.values("top1", others).min() - net.values("top1", lost).max()
        return gap > CLEARLY * chance_error(net.runs[lost[0]]) * math.sqrt(2)

    @property
    def chance_note(self):
        """Of an unstable comparison: 'ended at chance with seed 1', after the reference's name if it was the reference."""
        lost = {"": self.seeds_at_chance(self.net), f"{self.reference.name} ": self.seeds_at_chance(self.reference)}
        return "; ".join(f"{name}ended at chance with {numbered(seeds)}" for name, seeds in lost.items() if seeds)

    def where(self, side):
        """The costs at which the net is 'above' or 'below' the widening curve."""
        return [cost for cost, gap in self.gaps.items() if getattr(gap, side)]

    @property
    def has_curve(self):
        return any(not gap.why for gap in self.gaps.values())

    @property
    def word(self):
        """The verdict, by RULE in notes.py; '' where there is none."""
        if self.too_early:
            return ""
        if self.unstable:
            return "unstable"
        if not self.judged:
            return ""
        if self.direction > 0:
            better = self.where("above") and not self.where("below")
            return "helps" if better or not self.has_curve else "no better than widening"
        if self.direction < 0:
            return "better than narrowing" if self.saves and not self.where("below") else "hurts"
        return "no evidence"

    @property
    def saves(self):
        """Whether the net costs less than its reference in some way, and beats the widening curve there (Holm-corrected)."""
        costs, baselines = self.net.costs, self.reference.costs
        return any(
            gap.above and gap.p_holm < ALPHA and costs[cost] < baselines[cost] for cost, gap in self.gaps.items()
        )

    @property
    def change(self):
        """How an ablation's knobs compare with the default, in a word; '' where nothing can be said."""
        if self.too_early:
            return ""
        if self.unstable:
            return "unstable"
        return {1: "better", -1: "worse", 0: "no evidence"}[self.direction] if self.judged else ""

    @property
    def remark(self):
        """What a reader must know besides the word."""
        if self.reference is None:
            return f"not compared: {self.net.arch if self.net.is_ablation else self.net.backbone} itself has no result"
        if self.too_early:
            return (
                f"not judged: {self.reference.name} itself ended at chance, so this budget is too short for a verdict"
            )
        if self.lacks:
            lacks = f"not judged: lacks {numbered(self.lacks)}, which {self.reference.name} has"
            return f"{self.chance_note}; {lacks}" if self.unstable else lacks
        if self.unstable:
            return self.chance_note
        if len(self.seeds) < 2:
            return "not judged: only one seed"
        return "; ".join([*self.notes_on_noise(), *self.notes_on_curve()])

    def notes_on_noise(self):
        """Why a difference is not judged, or is judged more strictly than its interval suggests."""
        notes = []
        if math.isnan(self.estimate.error):
            notes.append("the difference is the same for every seed, so there is nothing to test")
        for name, deviation in self.noisy.items():
            notes.append(
                f"{name} is far noisier than the other networks (standard deviation over seeds: {deviation:.1f} points; theirs: "
                f"{self.usual_noise:.1f}) and is judged by its own noise"
            )
        if self.noisy:
            notes.append(f"differences by seed: {', '.join(f'{each:+.1f}' for each in self.differences)}")
        for net in (self.net, self.reference):
            if lost := self.seeds_at_chance(net):
                alone = "" if math.isnan(self.usual_noise) else ", so the difference is judged by its own noise"
                notes.append(f"{net.name} ended at chance with {numbered(lost)}{alone}")
        if self.p < ALPHA <= self.p_holm:
            notes.append(
                f"{'above' if self.mean > 0 else 'below'} {self.reference.name} if tested alone (p = {self.p:.3f}), but not "
                f"as one of {self.family_size} comparisons"
            )
        return notes

    def notes_on_curve(self):
        """Where the net lies above or below the widening curve, or why it could not be compared with it."""
        notes = []
        if self.direction and self.gaps and not self.has_curve:
            notes.append(
                f"judged against the baseline alone: {in_list(sorted({gap.why for gap in self.gaps.values()}))}"
            )
        for side in ("above", "below"):
            at = self.where(side)
            notes += [f"{side} the widening curve at equal {in_list(at)}"] if at else []
        if self.direction < 0 and self.where("above"):
            notes.insert(0, f"significantly below {self.reference.name}")
        costs, baselines = self.net.costs, self.reference.costs
        saved = [cost for cost, gap in self.gaps.items() if gap.why == OUTSIDE and costs[cost] < baselines[cost]]
        if self.direction < 0 and saved:
            notes.append(
                f"the widening curve has no backbone as cheap in {in_list(saved)}: a narrower one might lose less"
            )
        return notes


def compare(pairs, noise_of):
    """[(net, reference)] -> [Comparison]; Holm's family is every net with all seeds of its reference, at least two.

    noise_of: seeds -> SeedNoise. If the reference ended at chance with all seeds, there is no verdict, and no family.
    """
    compared = [Comparison(net, reference) for net, reference in pairs]
    for result in compared:
        seeds = result.reference.seeds if result.reference else []
        result.seeds = [seed for seed in seeds if seed in result.net.runs]
        result.lacks = [seed for seed in seeds if seed not in result.net.runs]
        if result.seeds:
            net, reference = (each.values("top1", result.seeds) for each in (result.net, result.reference))
            result.differences = net - reference
            noise = noise_of(result.seeds)
            result.estimate = noise.estimate((result.net, 1), (result.reference, -1))
            result.noisy = {each.name: far for each in (result.net, result.reference) if (far := noise.deviation(each))}
            result.usual_noise = noise.usual
    family = [result for result in compared if len(result.seeds) > 1 and not (result.lacks or result.too_early)]
    for result in family:
        if not (math.isnan(result.estimate.error) or result.unstable):
            result.detectable = detectable_effect(result.estimate.df, ALPHA / len(family)) * result.estimate.error
    for result, p_holm in zip(family, holm([result.p for result in family]), strict=True):
        result.p_holm, result.family_size = float(p_holm), len(family)
    return compared


def baseline_in(curve):
    """The plain backbone among the widths of its curve."""
    return next(net for net in curve if not net.settings)


@dataclass
class Results:
    """All that the report says, computed once."""

    nets: list
    methods: list  # of Comparison, the best first
    ablations: dict  # arch -> list of Comparison
    curves: dict  # backbone -> list of Net
    cost_pass: dict | None
    interactions: list  # of Interaction
    noise_of: Callable  # seeds -> SeedNoise
    without_result: list = field(default_factory=list)  # the runs that have none, each with the reason

    @cached_property
    def superclasses(self):
        """The SuperclassMap, or None."""
        return superclass_map(self)

    def top1(self, net):
        """The Estimate of a net's top-1 over its seeds."""
        return self.noise_of(net.seeds).estimate((net, 1))

    def difference(self, net, other):
        """A net's top-1 minus another's, an Estimate from the seeds of both; empty if there are none or one net is unstable."""
        seeds = sorted(set(net.seeds) & set(other.seeds)) if other else []
        if net is other or not seeds or Comparison(net, other, seeds).unstable:
            return Estimate()
        return self.noise_of(seeds).estimate((net, 1), (other, -1))

    @property
    def row(self):
        """Any row, for what all rows share."""
        return next(iter(self.nets[0].runs.values()))

    @property
    def own_recipes(self):
        """The settings in which the networks' recipes differ; empty if all share one recipe."""
        return differing([net.recipe for net in self.nets])

    @property
    def networks(self):
        """All but the ablations, which have their own tables, without speeds."""
        return [net for net in self.nets if not net.is_ablation]

    @property
    def judged(self):
        return [result for result in self.methods if result.judged]

    @property
    def stable(self):
        return [result for result in self.methods if not result.unstable]

    @property
    def has_curve(self):
        """Whether two widths of a backbone learned with all of its seeds."""
        return any(sum(learned(net, baseline_in(curve).seeds) for net in curve) > 1 for curve in self.curves.values())

    def by_word(self, word):
        return [result for result in self.judged if result.word == word]


def analyse(rows, cost_pass=None):
    """Rows of result.json (and cost.json) -> Results."""
    by_key = group(rows, cost_pass)
    nets = sorted(
        by_key.values(), key=lambda net: (net.is_method, net.backbone, net.arch, net.width, natural(net.knobs))
    )
    baselines = {net.arch: net for net in nets if net.on_curve and not net.settings}
    curves = {arch: widening_curve(nets, baseline) for arch, baseline in baselines.items()}
    of_seeds = cache(lambda seeds: SeedNoise(nets, seeds))

    def noise_of(seeds):
        return of_seeds(tuple(seeds))

    mark_only_forms(nets)
    as_they_are = [net for net in nets if net.is_method and not net.is_ablation]
    methods = compare([(net, baselines.get(net.backbone)) for net in as_they_are], noise_of)
    for result in methods:
        if result.seeds:
            result.gaps = gaps_of(result, curves[result.net.backbone], noise_of(result.seeds))
    gaps = [gap for result in methods if result.judged for gap in result.gaps.values() if not math.isnan(gap.p)]
    for gap, p_holm in zip(gaps, holm([gap.p for gap in gaps]), strict=True):
        gap.p_holm = float(p_holm)
    methods.sort(key=lambda result: -result.mean if result.seeds else math.inf)
    other_knobs = [net for net in nets if net.is_ablation]
    ablations = {
        arch: compare([(net, by_key.get(key_of(arch, {}))) for net in other_knobs if net.arch == arch], noise_of)
        for arch in dict.fromkeys(net.arch for net in other_knobs)
    }
    used = cost_pass if any(net.cost_row for net in nets) else None  # one of another image size has timed none of them
    return Results(nets, methods, ablations, curves, used, find_interactions(nets, baselines, noise_of), noise_of)


def gaps_of(result, curve, noise):
    """A method's Gap at each cost; where nothing can be judged, each says why."""
    why = "baseline at chance" if result.too_early else "unstable" if result.unstable else ""
    return {cost: Gap(why=why) if why else gap_to_curve(result.net, curve, cost, noise) for cost in COSTS}


def mark_only_forms(nets):
    """Marks each method that was trained in one form only, with its defaults or with knobs of its own: it is judged as it is.

    Such knobs are a person's choice, or initial values that belong to a recipe, such as convnext.layer_scale=1e-6.
    """
    n_forms = Counter(net.arch for net in nets)
    for net in nets:
        knobs_of = {knob.split(".")[0] for knob in net.settings}
        net.only_form = n_forms[net.arch] == 1 and net.is_method and knobs_of <= set(net.arch.split("_")[:-1])


# --------------------------------------------------------------------------------------------------------- superclasses


def of_superclass(index):
    """A measure for SeedNoise: (net, seeds) -> mean top-1 of a superclass's five classes, one entry per seed."""
    members = np.equal(SUPERCLASS_OF, index)
    return lambda net, seeds: np.array([np.mean(np.array(net.runs[s]["per_class_top1"])[members]) for s in seeds])


@dataclass
class SuperclassMap:
    """Differences from the baseline in points, (n_methods, 20), and which of them stand out from the noise."""

    archs: list
    differences: np.ndarray
    readable: np.ndarray

    @property
    def sentence(self):
        """How many cells stand out, and the share of them that noise is expected to explain."""
        n_readable, n_cells = int(self.readable.sum()), self.readable.size
        if not n_readable:
            return f"No superclass of any method stands out from the noise ({n_cells} cells), so none is shown."
        return (
            f"{n_readable} of {n_cells} cells stand{'s' * (n_readable == 1)} out from the noise; at most {ALPHA:.0%} of such cells are "
            "expected to be noise (false discovery rate, Benjamini and Hochberg 1995). The other cells cannot be told apart from 0 and "
            "are left empty."
        )


def superclass_map(results):
    """Results -> SuperclassMap of the stable methods; None unless all CIFAR-100 classes were scored, with two seeds or more."""
    compared = [result for result in results.stable if len(result.seeds) > 1 and not result.too_early]
    is_whole = all(None not in run["per_class_top1"] for net in results.nets for run in net.runs.values())
    if results.row["dataset"] != "cifar100" or not compared or not is_whole:
        return None
    noise_of = cache(lambda index, seeds: SeedNoise(results.nets, seeds, of_superclass(index)))
    estimates = [
        [noise_of(c, tuple(r.seeds)).estimate((r.net, 1), (r.reference, -1)) for c in range(len(SUPERCLASSES))]
        for r in compared
    ]
    differences, ps = (np.array([[getattr(e, name) for e in row] for row in estimates]) for name in ("mean", "p"))
    return SuperclassMap([r.net.arch for r in compared], differences, benjamini_hochberg(ps.ravel()).reshape(ps.shape))
