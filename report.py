"""Turns finished runs into verdicts: report.md, results.csv, charts and slides.pptx.

    python report.py runs/compare
    python report.py runs/cost/costs.json
    python report.py runs/recipe --recipes

Reads every result.json below the folder and, if there is one, cost.json at its top (speeds measured side by side, see
compare.sh); every number printed comes from them. An architecture's role follows from its name and its knobs:

    baseline         a backbone as it is: resnet, resnet56
    widening curve   a backbone at several widths (only resnet.width set), the baseline among them
    method           anything grafted onto a backbone, as it is: eca_resnet, eca_ghostnet_resnet
    ablation         an architecture with other knobs set, or started from other weights; compared with that architecture
                     as it is, trained from scratch

All accuracies are percentages of the test set and all differences percentage points of top-1. Runs of cross-validation
(--folds) are averaged over the folds first, so that a seed counts once: trainings on overlapping folds are no independent
samples (Bengio and Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004).

A costs.json (what networks cost without training, see models/speed.py) becomes a table, costs.csv and charts.

All runs of a report share one recipe. --recipes compares recipes instead, on the validation split: see report_recipes().
"""

import argparse
import csv
import json
import math
import re
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

try:
    import matplotlib
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
    from pptx import Presentation
    from pptx.util import Inches, Pt
    from scipy import optimize, stats
except ModuleNotFoundError as error:
    sys.exit(f"report.py needs {error.name}: pip install -r requirements-report.txt")

ALPHA = 0.05  # of the corrected tests; intervals cover 1 - ALPHA
POWER = 0.8  # chance to find the smallest detectable difference
COSTS = ("parameters", "MACs", "training time")
FASTER = 0.1  # part of its time by which a width must undercut a wider one to stay on the curve, as times are measured
WORDS = ("helps", "no better than widening", "no evidence", "hurts", "unstable")
RULE = f"""\
- *helps*: above the baseline (Holm-corrected p < {ALPHA}), above the widening curve (interval above 0) at one cost at least, and below it (interval below 0) at none. A method that cannot be compared with a widening curve is judged against the baseline alone, and the remark says so.
- *no better than widening*: above the baseline, but not that: not shown to be above the curve anywhere, or below it somewhere.
- *hurts*: below the baseline (Holm-corrected p < {ALPHA}) and above the widening curve at no cost.
- *unstable*: with some seeds, not with all, it or the baseline ended no better than guessing. Its mean is of two outcomes: it gets no other word and has no part in costs, power and superclasses, but counts in Holm's correction.
- *no evidence*: the rest; the remark tells of a method that is above the curve at some cost.
- no word: with one seed, or for a method that was not trained with all of the baseline's seeds, unless it is unstable."""

# -------------------------------------------------------------------------------------------------------------- rows

IDENTITY = ("arch", "settings", "seed")
START = (
    "pretrained",
    "init_from",
    "freeze",
)  # the weights a run starts from and trains: read_rows() makes them settings
POSITIVE = ("classes", "n_train", "n_test", "world_size", "params", "macs", "train_imgs_per_s", "eval_imgs_per_s", "train_s",
            "peak_memory_mb")  # fmt: skip
PERCENT = ("top1", "top5", "ece")
MAY_BE_NULL = ("val_top1", "best_on_test_minus_last")  # whether the validation part or the test set was watched
MEASURED = (*POSITIVE, *PERCENT, *MAY_BE_NULL, "n_val", "loss", "device", "torch", "commit", "started", "per_class_top1",
            "curve", "status")  # fmt: skip
SAME_DATA = ("n_test", "classes")  # must agree between runs, as the recipe must, and the training images
MEAN_OF_EPOCH = ("top1", "train_loss")
MEAN_OVER_FOLDS = ("train_imgs_per_s", "eval_imgs_per_s", "train_s", *PERCENT, "val_top1", "loss")
READ_OF_RECIPE = ("dataset", "epochs", "batch_size")


def refuse(message):
    """Ends the program for rows that no report can be made of: one line, exit code 2."""
    print(f"report.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def read_json(path):
    """The JSON object in a file; refuses what is no JSON, no object or holds NaN or infinity."""

    def no_number(constant):
        raise ValueError(f"{constant} is no measurement")

    try:
        content = json.loads(path.read_text(), parse_constant=no_number)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        refuse(f"{path} cannot be used: {error}")
    return content


def is_number(value, low=-math.inf, high=math.inf):
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
    )


def problem_of(row):
    """What makes a row of result.json unusable, as a phrase; None if nothing does."""
    missing = [name for name in (*IDENTITY, *MEASURED, *READ_OF_RECIPE) if name not in row]
    if missing:
        return f"it has no {', '.join(missing)}"
    if row["status"] != "finished":
        return f"its status is {row['status']!r}, not 'finished'"
    for name, kind in (("arch", str), ("settings", dict), ("seed", int), ("device", str), ("dataset", str)):
        if not isinstance(row[name], kind):
            return f"{name} must be of type {kind.__name__}, got {row[name]!r}"
    for name in (*POSITIVE, "epochs", "batch_size"):
        if not (is_number(row[name], 0) and row[name] > 0):
            return f"{name} must be a number above 0, got {row[name]!r}"
    for name in ("n_val", "loss"):
        if not is_number(row[name], 0):
            return f"{name} must be a number, 0 or more, got {row[name]!r}"
    per_class, curve = row["per_class_top1"], row["curve"]
    if not (isinstance(per_class, list) and len(per_class) == row["classes"]):
        return "per_class_top1 must be a list with a number for each class"
    if not (isinstance(curve, list) and curve and all(isinstance(epoch, dict) for epoch in curve)):
        return "curve must be a list with an object for each epoch"
    percents = [(name, row[name]) for name in PERCENT]
    percents += [(name, row[name]) for name in MAY_BE_NULL if row[name] is not None]
    percents += [(f"per_class_top1[{i}]", value) for i, value in enumerate(per_class)]
    percents += [(f"curve[{i}].top1", epoch.get("top1")) for i, epoch in enumerate(curve)]
    for name, value in percents:
        if not is_number(value, 0, 100):
            return f"{name} must be within 0 and 100, got {value!r}"
    if row["top5"] < row["top1"]:
        return f"top5 {row['top5']} is below top1 {row['top1']}"
    folds, fold = row.get("folds"), row.get("fold")
    if folds is not None and not (isinstance(folds, int) and fold in range(folds) and row["val_top1"] is not None):
        return f"a run of fold {fold!r} of {folds!r} needs a fold below the number of folds, and a val_top1"
    correct = row["top1"] / 100 * row["n_test"]
    if abs(correct - round(correct)) > 1e-3:
        return f"top1 {row['top1']} is not a whole number of the {row['n_test']} test images"
    return None


def at_chance(row):
    """Whether a run ended no better than guessing one of so many equally frequent classes: within three deviations of it."""
    chance = 1 / row["classes"]
    return row["top1"] / 100 <= chance + 3 * math.sqrt(chance * (1 - chance) / row["n_test"])


def recipe_of(row):
    """What all runs of one comparison share: every setting but arch, knobs, start, seed and fold, and the data they saw."""
    own = (*IDENTITY, *START, *MEASURED, "fold", "val_top1_of_folds")
    recipe = {name: value for name, value in row.items() if name not in own}
    n_images = {"n_train + n_val": row["n_train"] + row["n_val"]} if row.get("folds") else {"n_train": row["n_train"]}
    return recipe | {name: row[name] for name in SAME_DATA} | n_images | {"epochs in the curve": len(row["curve"])}


def read_results(folder):
    """{path: row} of every result.json below `folder`, in the order of their paths; refuses what cannot be used."""
    rows = {path: read_json(path) for path in sorted(Path(folder).rglob("result.json"))}
    if not rows:
        refuse(f"no result.json below {folder}: train something with --out {folder}, or name another folder")
    for path, row in rows.items():
        if problem := problem_of(row):
            refuse(f"{path} cannot be used: {problem}")
        row["settings"] |= {name: row[name] for name in START if row.get(name)}
    return rows


def read_rows(folder):
    """The rows below `folder`, folds averaged; refuses a mixture of recipes."""
    rows = read_results(folder)
    first_path, first_row = next(iter(rows.items()))
    first = recipe_of(first_row)
    for path, row in rows.items():
        ours = recipe_of(row)
        for name in sorted(ours.keys() | first.keys()):
            if ours.get(name) != first.get(name):
                refuse(f"a mixture of recipes: {name} is {first.get(name)!r} in {first_path} and {ours.get(name)!r} in "
                       f"{path}; report them apart")  # fmt: skip
    return average_folds(list(rows.values())) if first_row.get("folds") else list(rows.values())


def average_folds(rows):
    """Rows of cross-validation -> a row for each net and seed with the means over its folds; refuses missing folds."""
    by_fold = {}
    for row in rows:
        arch, settings = key_of(row["arch"], row["settings"])
        folds = by_fold.setdefault((arch, settings, row["seed"]), {})
        if row["fold"] in folds:
            refuse(f"{arch} {settings}, seed {row['seed']} has fold {row['fold']} twice: remove one of the two runs")
        folds[row["fold"]] = row
        refuse_other_network(f"{arch} {settings}", row, next(iter(folds.values())))
    for (arch, settings, seed), folds in by_fold.items():
        lacks = sorted(set(range(rows[0]["folds"])) - folds.keys())
        if lacks:
            refuse(f"{arch} {settings}, seed {seed} lacks fold {in_list(lacks)} of {rows[0]['folds']}: "
                   f"train it, or leave out this seed")  # fmt: skip
    return [mean_row([folds[fold] for fold in sorted(folds)]) for folds in by_fold.values()]


def mean_row(rows):
    """The rows of all folds as one: means of what was measured, the most memory, and each fold's val_top1."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in MEAN_OVER_FOLDS}
    named = {name: in_list(sorted({str(row[name]) for row in rows})) for name in ("device", "torch", "commit")}
    curve = [
        {"epoch": epoch} | {name: float(np.mean([row["curve"][epoch][name] for row in rows])) for name in MEAN_OF_EPOCH}
        for epoch in range(len(rows[0]["curve"]))
    ]
    return rows[0] | mean | named | {
        "per_class_top1": np.mean([row["per_class_top1"] for row in rows], axis=0).tolist(), "curve": curve,
        "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
        "val_top1_of_folds": [row["val_top1"] for row in rows],
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- nets


@dataclass
class Net:
    """One architecture with one set of knobs, its runs and, if the cost pass has it, its row of cost.json."""

    arch: str
    settings: dict
    runs: dict = field(default_factory=dict)  # seed -> row
    cost_pass: dict | None = None

    @property
    def backbone(self):
        return self.arch.split("_")[-1] if self.is_method else self.arch

    @property
    def is_method(self):
        return "_" in self.arch and ":" not in self.arch  # torchvision:vgg11_bn is a network as it is

    @property
    def on_curve(self):
        return not self.is_method and set(self.settings) <= {"resnet.width"}

    @property
    def is_ablation(self):
        return bool(self.settings) and not self.on_curve

    @property
    def width(self):
        return self.settings.get("resnet.width", default_width(self.arch))

    @property
    def knobs(self):
        """The knobs as they are typed: 'eca.kernel_size=5'."""
        typed = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in self.settings.items()}
        return " ".join(f"{knob}={value}" for knob, value in sorted(typed.items()))

    @property
    def name(self):
        return f"{self.arch} {self.knobs}".strip()

    @property
    def seeds(self):
        return sorted(self.runs)

    def values(self, name, seeds=None):
        """A measured field, an entry per seed."""
        return np.array([self.runs[seed][name] for seed in seeds or self.seeds], dtype=float)

    def imgs_per_s(self, name):
        """train_imgs_per_s or eval_imgs_per_s: of the cost pass if it has this net, else the median over the runs."""
        return self.cost_pass[name] if self.cost_pass else float(np.median(self.values(name)))

    @property
    def costs(self):
        """Parameters, MACs per image and seconds of training per image, by the names in COSTS."""
        row = self.runs[self.seeds[0]]
        return dict(zip(COSTS, (row["params"], row["macs"], 1 / self.imgs_per_s("train_imgs_per_s")), strict=True))

    def can_compare(self, cost):
        """Training times can be compared if they are of the cost pass, which takes them side by side; other costs always."""
        return cost != "training time" or self.cost_pass is not None


def machine(row):
    return f"{row['world_size']} x {row['device']}"


def family_and_depth(arch):
    """The kind of a backbone and its layers: 'resnet' -> ('resnet', 20), 'eca_plain56' -> ('plain', 56); else None."""
    found = re.fullmatch(r"(resnet|plain)(\d*)", arch.split("_")[-1])
    return found and (found[1], int(found[2] or 20))


def default_width(arch):
    """What resnet.width is where it is not set: 64 in the networks of ImageNet's depths, 16 in those of CIFAR's."""
    family = family_and_depth(arch)
    return 64 if family and family[1] in (18, 34, 50, 101, 152) else 16


def key_of(arch, settings):
    """What tells nets apart; the default width, set or not, is the same net."""
    rest = {knob: value for knob, value in settings.items() if (knob, value) != ("resnet.width", default_width(arch))}
    return arch, json.dumps(rest, sort_keys=True)


def group(rows, cost_pass=None):
    """Rows -> {key: Net}; refuses a seed that a net has twice, and seeds of one net that differ in size."""
    speeds = {key_of(row["arch"], row["settings"]): row for row in (cost_pass or {"rows": []})["rows"]}
    nets = {}
    for row in rows:
        key = key_of(row["arch"], row["settings"])
        knobs = {name: value for name, value in row["settings"].items() if name not in ("pretrained", "init_from")}
        timed = key_of(row["arch"], knobs)  # the cost pass knows no weights, and no frozen network
        net = nets.setdefault(key, Net(key[0], json.loads(key[1]), {}, speeds.get(timed)))
        if row["seed"] in net.runs:
            refuse(f"{net.name} has seed {row['seed']} twice: remove one of the two runs")
        net.runs[row["seed"]] = row
        refuse_other_network(net.name, row, next(iter(net.runs.values())))
    return nets


def refuse_other_network(name, row, first):
    """Refuses two runs of one net that differ in size."""
    for size in ("params", "macs"):
        if row[size] != first[size]:
            refuse(f"{name} has {size} {first[size]} in one run and {row[size]} in another: are both this network?")


def read_cost_pass(folder):
    """cost.json at the top of the folder, or None. Its rows replace the speeds that trainings measured of themselves."""
    path = Path(folder) / "cost.json"
    if not path.exists():
        return None
    content = read_json(path)
    for row in content.get("rows", [{}]):
        for name in ("train_imgs_per_s", "eval_imgs_per_s"):
            if not ("arch" in row and "settings" in row and is_number(row.get(name), 1e-9)):
                refuse(f"{path} cannot be used: a row needs arch, settings and {name} above 0, got {row}")
    return content


# -------------------------------------------------------------------------------------------------------- statistics


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


# -------------------------------------------------------------------------------------------------------- comparison


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


# ------------------------------------------------------------------------------------------------------- words, tables


def in_list(items):
    """['a', 'b', 'c'] -> 'a, b and c'; 'none' of none."""
    *most, last = map(str, items) if items else ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def pm(mean, half, sign=""):
    """'+1.20 ± 0.30'; without the interval where there is none, and '-' where there is no mean."""
    if math.isnan(mean):
        return "-"
    return f"{mean:{sign}.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def p_value(p):
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def main_table(results):
    header = "arch|parameters|MACs, M|train img/s|eval img/s|memory, MB|training, min|top-1|top-5|ECE|n"
    rows = [header.split("|")]
    one_source = not any(net.cost_pass for net in results.networks)
    for net in results.networks:
        speeds = (net.imgs_per_s(name) for name in ("train_imgs_per_s", "eval_imgs_per_s"))
        rows.append([
            net.name, f"{net.costs['parameters']:,}", f"{net.costs['MACs'] / 1e6:.1f}",
            *(f"{speed:,.0f}" if one_source or net.cost_pass else "-" for speed in speeds),
            f"{net.values('peak_memory_mb').max():,.0f}", f"{np.median(net.values('train_s')) / 60:,.1f}",
            pm(*t_interval(net.values("top1"))), f"{net.values('top5').mean():.2f}", f"{net.values('ece').mean():.2f}",
            str(len(net.seeds)),
        ])  # fmt: skip
    return rows


def verdict_table(results):
    rows = [["method", "difference", "p", "Holm p", "detectable", "parameters / MACs / time", "verdict"]]
    for result in results.methods:
        rows.append([
            result.net.arch, pm(result.mean, result.half, "+"), p_value(result.p), p_value(result.p_holm),
            pm(result.detectable, math.nan), relative_costs(result), result.word or "-",
        ])  # fmt: skip
    return rows


def relative_costs(result):
    """'0.42 / 0.37 / 0.98': a method's parameters, MACs and training time, as parts of its baseline's."""
    if not result.reference:
        return "-"
    net, baseline = result.net, result.reference
    both = [net.can_compare(cost) and baseline.can_compare(cost) for cost in COSTS]
    parts = [f"{net.costs[cost] / baseline.costs[cost]:.2f}" for cost in COSTS]
    return " / ".join(part if told else "-" for part, told in zip(parts, both, strict=True))


def equal_cost_table(results):
    rows = [["method", *(f"at equal {cost}" for cost in COSTS)]]
    for result in results.methods:
        gaps = result.gaps.values() or [Gap(why="-")] * len(COSTS)
        rows.append([result.net.arch, *(gap.why or pm(gap.mean, gap.half, "+") for gap in gaps)])
    return rows


def folds_table(results):
    """A row per net with its top-1 on the held-out folds; None unless the rows are of cross-validation."""
    if not results.row.get("folds"):
        return None
    rows = [["arch", "top-1 on the folds", "spread over folds", "lowest fold", "highest fold", "n seeds"]]
    for net in results.nets:
        of_folds = np.array([net.runs[seed]["val_top1_of_folds"] for seed in net.seeds])  # (seeds, folds)
        of_fold = of_folds.mean(0)
        rows.append([
            net.name, pm(*t_interval(of_folds.mean(1))), f"{of_fold.std(ddof=1):.2f}", f"{of_fold.min():.2f}",
            f"{of_fold.max():.2f}", str(len(net.seeds)),
        ])  # fmt: skip
    return rows


def depth_table(results):
    """Does depth hurt without shortcuts? A row per depth of plain networks and ResNets; None unless both kinds were run.

    Training losses tell a network that is hard to optimize (degradation) from one that overfits.
    """
    nets = by_depth(results)
    if len({family for family, _ in nets}) < 2:
        return None
    rows = [
        ["arch", "layers", "top-1", "to the shallowest of its kind", "to the ResNet of its depth", "training loss", "n"]
    ]
    for (family, depth), net in nets.items():
        shallowest = next(net for key, net in nets.items() if key[0] == family)
        rows.append([
            net.arch, str(depth), pm(*t_interval(net.values("top1"))), pm(*difference(net, shallowest), "+"),
            pm(*difference(net, nets.get(("resnet", depth))), "+"), f"{train_loss(net):.3f}", str(len(net.seeds)),
        ])  # fmt: skip
    return rows


def by_depth(results):
    """Plain networks and ResNets as they are, {(family, layers): net}, in this order."""
    nets = {family_and_depth(net.arch): net for net in results.nets if net.on_curve and not net.settings}
    return {key: nets[key] for key in sorted(key for key in nets if key)}


def difference(net, other):
    """(mean, half width) of a net's top-1 over another's, over the seeds of both; nan for the same net or none."""
    seeds = sorted(set(net.seeds) & set(other.seeds)) if other else []
    if net is other or not seeds:
        return math.nan, math.nan
    return t_interval(net.values("top1", seeds) - other.values("top1", seeds))


def train_loss(net):
    """Of the last epoch, the mean over seeds."""
    return float(np.mean([run["curve"][-1]["train_loss"] for run in net.runs.values()]))


def ablation_table(arch, comparisons, results):
    rows = [["knobs", "parameters", "MACs, M", "top-1", "difference", "Holm p", "detectable", "in a word"]]
    default = [Comparison(net, net) for net in results.nets if net.arch == arch and not net.settings]
    for result in default + comparisons:
        rows.append([
            result.net.knobs or "(default)", f"{result.net.costs['parameters']:,}", f"{result.net.costs['MACs'] / 1e6:.1f}",
            pm(*t_interval(result.net.values("top1"))), pm(result.mean, result.half, "+"), p_value(result.p_holm),
            pm(result.detectable, math.nan), result.change or "-",
        ])  # fmt: skip
    return rows


# CIFAR-100's superclasses and the superclass of each of its classes in alphabetical order, the order of its labels.
# Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; tests compare it with the data's
# columns fine_label and coarse_label.
SUPERCLASSES = (
    "aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices",
    "household furniture", "insects", "large carnivores", "large man-made outdoor things", "large natural outdoor scenes",
    "large omnivores and herbivores", "medium mammals", "non-insect invertebrates", "people", "reptiles", "small mammals",
    "trees", "vehicles 1", "vehicles 2",
)  # fmt: skip
SUPERCLASS_OF = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


def superclass_differences(result):
    """A method's top-1 minus its baseline's in each of CIFAR-100's superclasses, mean over the shared seeds: (20,)."""
    both = (result.net, result.reference)
    net, reference = (np.mean([n.runs[seed]["per_class_top1"] for seed in result.seeds], axis=0) for n in both)
    return np.array([(net - reference)[np.equal(SUPERCLASS_OF, c)].mean() for c in range(len(SUPERCLASSES))])


def superclass_table(results):
    """A row per superclass, a column per method; None unless the rows are of CIFAR-100."""
    compared = [result for result in results.stable if result.seeds]
    if results.row["dataset"] != "cifar100" or not compared:
        return None
    columns = [[f"{difference:+.1f}" for difference in superclass_differences(result)] for result in compared]
    header = ["superclass", *(result.net.arch for result in compared)]
    return [header, *([name, *row] for name, *row in zip(SUPERCLASSES, *columns, strict=True))]


def markdown(table):
    """A table, a list of rows of strings with the header first, as Markdown; numbers to the right."""
    if len(table) == 1:
        return "Nothing to compare."
    columns = zip(*table[1:], strict=True)
    rule = ["--:" if all(re.match(r"[-+<\d]", cell) for cell in cells) else "---" for cells in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in [table[0], rule, *table[1:]])


# --------------------------------------------------------------------------------------------------------- the answer


def members(comparisons):
    return in_list([f"{result.net.name} {pm(result.mean, result.half, '+')}" for result in comparisons])


def opening(results):
    """The answer in three sentences."""
    if results.judged:
        return [verdict_sentence(results), cost_sentence(results), power_sentence(results.judged)]
    seen = [result for result in results.methods if result.seeds]
    ablated = [result for comparisons in results.ablations.values() for result in comparisons if result.judged]
    if ablated and not seen:
        changes = {word: [r for r in ablated if r.change == word] for word in ("better", "worse", "unstable")}
        return [
            f"Of {len(ablated)} settings compared with their architecture's default, "
            f"{'; '.join(f'{word}: {members(found)}' for word, found in changes.items())}.",
            "Nothing is said of methods: none was run as it is together with its baseline.",
            power_sentence(ablated),
        ]
    if not seen and depth_table(results):
        return depth_sentences(results)
    if not seen:
        why = "no method was run together with its baseline"
        return [f"There is no verdict: {why}.", f"These are runs of {in_list([net.name for net in results.nets])}."]
    why = "no method has all of its baseline's seeds" if any(r.lacks for r in seen) else "one seed was run"
    return [
        f"There is no verdict: {why}.",
        f"Differences to the baseline go from {pm(seen[-1].mean, math.nan, '+')} points ({seen[-1].net.arch}) to "
        f"{pm(seen[0].mean, math.nan, '+')} ({seen[0].net.arch}).",
        "How much of that is chance cannot be said: two runs of one network differ too, and only more seeds show how much.",
    ]


def depth_sentences(results):
    """What more layers did to each kind of network."""
    sentences = []
    for family, words in (("plain", "networks without shortcuts"), ("resnet", "ResNets")):
        nets = [net for key, net in by_depth(results).items() if key[0] == family]
        if len(nets) < 2:
            continue
        shallow, deep = nets[0], nets[-1]
        layers = [family_and_depth(net.arch)[1] for net in (shallow, deep)]
        change, rise = pm(*difference(deep, shallow), "+"), train_loss(deep) - train_loss(shallow)
        sentences.append(
            f"From {layers[0]} to {layers[1]} layers {words} change by {change} points of top-1, and their training loss by "
            f"{rise:+.3f}."
        )
    n_seeds, row = len(results.nets[0].seeds), results.row
    return [
        *sentences,
        f"These are {row['epochs']} epochs on {row['dataset']} with {n_seeds} seeds: a budget, not a limit.",
    ]


def verdict_sentence(results):
    phrases = []
    for word, one, many in (
        ("helps", "helps", "help"),
        (
            "no better than widening",
            "is not shown to be better than widening the ResNet",
            "are not shown to be better than widening the ResNet",
        ),
        ("hurts", "hurts", "hurt"),
    ):
        if found := results.by_word(word):
            phrases.append(f"{len(found)} {one if len(found) == 1 else many}: {members(found)}")
    if not results.by_word("helps"):
        phrases.insert(0, "none helps")
    if unclear := results.by_word("no evidence"):
        phrases.append(f"for {len(unclear)} there is no evidence: {in_list([r.net.arch for r in unclear])}")
    if unstable := results.by_word("unstable"):
        why = in_list([f"{r.net.arch} ({r.losses})" for r in unstable])
        phrases.append(f"{len(unstable)} {'is' if len(unstable) == 1 else 'are'} unstable: {why}")
    n_seeds, row = in_list(sorted({len(result.seeds) for result in results.judged})), results.row
    return (
        f"Of {len(results.judged)} methods trained for {row['epochs']} epochs on {row['dataset']} with {n_seeds} seeds "
        f"(points of top-1 over the baseline), {'; '.join(phrases)}."
    )


def cost_sentence(results):
    gaps = [(gap, cost, r.net) for r in results.judged for cost, gap in r.gaps.items() if not gap.why]
    if not gaps:
        return "No method could be compared with a ResNet of another width, which may gain as much."
    best, cost, net = max(gaps, key=lambda entry: entry[0].mean)
    compared = [result for result in results.judged if result.has_curve]
    above, below = (sum(bool(r.where(side)) for r in compared) for side in ("above", "below"))
    return (
        f"Of the {len(compared)} that can be compared with a ResNet of equal cost, ahead at one cost at least: {above}, "
        f"behind: {below}; the largest of these {len(gaps)} distances, and flattered by being chosen, is that of {net.arch} "
        f"at equal {cost}: {pm(best.mean, best.half, '+')} points."
    )


def power_sentence(comparisons):
    smallest = [result.detectable for result in comparisons if not math.isnan(result.detectable)]
    if not smallest:
        return "No comparison has a spread that tells of noise, so nothing can be said of what would be found."
    return (
        f"With these seeds half of the comparisons have a chance of {POWER:.0%} to find a true difference of "
        f"{np.median(smallest):.1f} points (by their spreads {min(smallest):.1f} to {max(smallest):.1f}): a smaller one that "
        "was not found remains open."
    )


def in_words(recipe):
    return ", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)


def speed_text(results):
    """Where the speeds come from, and which of them cannot be compared."""
    timed = [net for net in results.networks if net.cost_pass]
    of_trainings = [net.name for net in results.networks if not net.cost_pass]
    if not timed:
        return ("Speeds are those of the trainings themselves, medians over the seeds; whatever else ran on the machine slowed "
                "them, so that they are not compared. A cost pass (cost.json, see compare.sh) measures all networks side by side.")  # fmt: skip
    about = ", ".join(f"{k} {v}" for k, v in results.cost_pass.items() if k != "rows")
    text = f"Speeds are medians of interleaved rounds of the cost pass ({about})"
    if of_trainings:
        text += f", which has not timed {in_list(of_trainings)}"
    shared = [name for name in ("amp", "compile", "batch_size") if name in results.cost_pass and name in results.row]
    other = [name for name in shared if results.cost_pass[name] != results.row[name]]
    return text + "." + f" The trainings had another {in_list(other)} than the cost pass." * bool(other)


def machines_text(results):
    where = trained_where((net.name, net) for net in results.networks)
    return where and f"Memory and minutes are comparable between networks of one machine only. {where}"


def trained_where(named_nets):
    """Which of the (name, net) were trained on which kinds of machine, as a sentence; '' if all were on one."""
    names_of = {}
    for name, net in named_nets:
        names_of.setdefault(in_list(sorted({machine(row) for row in net.runs.values()})), []).append(name)
    where = "; ".join(f"{in_list(names)} on {machines}" for machines, names in names_of.items())
    return f"Trained were {where}." if len(names_of) > 1 else ""


def bias_text(results):
    """The bias of choosing the epoch on the test set, from the runs that watched it."""
    values = [v for net in results.nets for v in net.values("best_on_test_minus_last") if not math.isnan(v)]
    if not values:
        return "No run watched the test set, so there is nothing to choose on it: each scored it once, after its last epoch."
    return (f"Reporting the best epoch on the test set instead of the last one would have added {np.mean(values):.2f} points on "
            f"average and {max(values):.2f} at most (n = {len(values)} runs). No number here does so.")  # fmt: skip


def left_out_text(results):
    """The nets that the comparison names and leaves out."""
    lines = [f"{r.net.name}: {r.remark}" for r in results.methods if r.lacks or not r.reference]
    for net in results.nets:
        if net.on_curve and net not in results.curves.get(net.backbone, ()):
            lines.append(f"{net.name}: not in the widening curve, as it lacks seeds of {net.backbone}")
    return lines


def provenance(results):
    """Where every number comes from: [[what, value]]."""
    rows = [row for net in results.nets for row in net.runs.values()]
    seeds = sorted({seed for net in results.nets for seed in net.seeds})
    each = f", each the mean of {rows[0]['folds']} folds" if rows[0].get("folds") else ""
    return [["runs", f"{len(rows)} of {len(results.nets)} networks{each}"], ["seeds", in_list(seeds)],
            ["epochs", str(rows[0]["epochs"])], *origins(rows), ["recipe", in_words(recipe_of(results.row))]]  # fmt: skip


def origins(rows):
    """What the rows were measured on and with: [[what, the values and how many runs have each]]."""

    def counted(values):
        return "; ".join(f"{value} ({n} runs)" for value, n in sorted(Counter(map(str, values)).items()))

    return [["machines", counted(map(machine, rows))], ["torch", counted(row["torch"] for row in rows)],
            ["commits", counted(row["commit"] for row in rows)]]  # fmt: skip


DETECTABLE = "Holm's correction is over the {m} methods judged, and becomes stricter with every one that is added. *Detectable* is the smallest true difference that a test at the correction's strictest level ({alpha} / {m}) finds with a chance of {power:.0%} at the spread measured here (noncentral t)."
EQUAL_COST = f"""\
{{table}}

Points of top-1 over the plain backbone at the same cost, mean ± 95% t-interval over seeds, not corrected for their number. The backbone's top-1 is interpolated between its trained widths, linearly in log(cost) and for each seed on its own, so that both vary; outside the trained widths nothing is said. Training time is measured seconds per training image, taken as exact; a width that does not take {FASTER:.0%} less of it than a wider one is left out of the curve."""
NO_CURVE = "Nothing is said: no second width of the backbone (`resnet.width`) was trained with all of its seeds."
REPORT = """\
# Which module is worth adding?

{answer}

## Verdicts

{verdicts}

{remarks}

Differences are to the baseline (the backbone as it is) over the seeds that both have: mean ± 95% t-interval, and p of the two-sided paired t-test. Parameters, MACs and training time are parts of the baseline's.

{family}

{rule}

{chart_differences}

## All networks

{networks}

Top-1, top-5 and ECE (expected calibration error) are percentages of the test set, means over n seeds; top-1 ± 95% t-interval. MACs are those of one image. Memory is the most that a run took; training is the median time of a run.

{speeds}

{machines}

{depths}

{folds}

## Equal cost

{equal_cost}

{chart_cost_parameters}

{chart_cost_macs}

{chart_cost_time}

{ablations}

## Learning curves

Top-1 on {watched} after each epoch, means over seeds; of unstable methods each seed.

{chart_learning}

## Best on test

{bias}

{superclasses}

{chart_superclasses}

{left_out}

## Where the numbers come from

{provenance}
"""


def report_text(results, charts):
    """report.md: the answer first, then what it rests on."""

    def bullets(compared, name):
        return "\n".join(f"- {getattr(result.net, name)}: {result.remark}" for result in compared if result.remark)

    ablations, superclasses, left_out = "", superclass_table(results), left_out_text(results)
    for arch, compared in results.ablations.items():
        where = trained_where((net.knobs or "(default)", net) for net in results.nets if net.arch == arch)
        note = f"Differences are to {arch} as it is; Holm's correction is over this table. {where}".rstrip()
        table = markdown(ablation_table(arch, compared, results))
        ablations += f"## Ablations of {arch}\n\n{table}\n\n{note}\n\n{bullets(compared, 'knobs')}\n\n"
    if superclasses:
        note = "Points of top-1 over the baseline in superclasses of 5 classes, means over the shared seeds; nothing is tested."
        superclasses = f"## Superclasses\n\n{note}\n\n{markdown(superclasses)}"
    depths = depth_table(results)
    if depths:
        note = ("Top-1 ± 95% t-interval over seeds, differences paired by seed. A training loss that rises with depth is "
                "degradation; one that falls while top-1 does, too, is overfitting.")  # fmt: skip
        depths = f"## Depth\n\n{markdown(depths)}\n\n{note}"
    folds = folds_table(results)
    if folds:
        note = (f"Top-1 on the part of train that a run held out, mean over {results.row['folds']} folds ± 95% t-interval over "
                "seeds; spread, lowest and highest are of the folds' means over seeds. Test accuracies, speeds and times "
                "everywhere in this report are means over the folds' runs.")  # fmt: skip
        folds = f"## Cross-validation\n\n{markdown(folds)}\n\n{note}"
    text = REPORT.format(
        answer=" ".join(opening(results)),
        verdicts=markdown(verdict_table(results)),
        remarks=bullets(results.methods, "arch"),
        family=DETECTABLE.format(m=len(results.judged), alpha=ALPHA, power=POWER) if results.judged else "",
        rule=RULE,
        networks=markdown(main_table(results)),
        speeds=speed_text(results),
        machines=machines_text(results),
        depths=depths or "",
        folds=folds or "",
        equal_cost=EQUAL_COST.format(table=markdown(equal_cost_table(results))) if results.has_curve else NO_CURVE,
        ablations=ablations,
        watched="the held-out part of train" if results.row["n_val"] else "the test set",
        bias=bias_text(results),
        superclasses=superclasses or "",
        left_out="## Left out\n\n" + "\n".join(f"- {line}" for line in left_out) if left_out else "",
        provenance=markdown([["what", "value"], *provenance(results)]),
        **{f"chart_{name}": f"![{title}]({name}.png)" if title else "" for name, title in (CHARTS | charts).items()},
    )
    return re.sub("\n{3,}", "\n\n", text)


def write_csv(path, results):
    """results.csv: a line per run (of folds: their means) with what was measured, and the speeds of the cost pass where it has them."""
    names = [n for n in MEASURED if n not in ("per_class_top1", "curve", "started", "status")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arch", "settings", "seed", *names, "cost_pass_train_imgs_per_s", "cost_pass_eval_imgs_per_s"])
        for net in results.nets:
            speeds = [(net.cost_pass or {}).get(name, "") for name in ("train_imgs_per_s", "eval_imgs_per_s")]
            for seed in net.seeds:
                writer.writerow([net.arch, net.knobs, seed, *(net.runs[seed][name] for name in names), *speeds])


# ------------------------------------------------------------------------------------------------------------- charts

# Okabe and Ito's palette, told apart by colour-blind readers; each word has its own marker too, for print in grey
LOOKS = {
    "helps": ("#009E73", "^"),
    "no better than widening": ("#E69F00", "s"),
    "no evidence": ("#0072B2", "o"),
    "hurts": ("#D55E00", "v"),
    "unstable": ("#56B4E9", "X"),
    "": ("#CC79A7", "D"),
}
CHART_SIZE = (12.3, 5.7)  # inches: what a slide leaves below its title
STYLE = {
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 130,
    "figure.constrained_layout.use": True,
}


def short(net):
    """A method's name on a chart: without the usual backbone."""
    return net.arch.removesuffix("_resnet")


def draw_differences(figure, results):
    """Forest plot: a row per method, its difference to the baseline with the 95% interval, and the word.

    An unstable method has its seeds instead, which do not stretch the axis.
    """
    shown = [result for result in results.methods if result.seeds][::-1]
    ax = figure.subplots()
    for y, result in enumerate(shown):
        colour, marker = LOOKS[result.word]
        numbers = pm(result.mean, result.half, "+")
        if result.unstable:
            numbers = ", ".join(f"{difference:+.1f}" for difference in result.differences)
            ax.plot(result.differences, [y] * len(result.seeds), marker, color=colour, markersize=8)
        else:
            look = {"color": colour, "marker": marker, "markersize": 8, "linewidth": 2, "capsize": 4}
            ax.errorbar(result.mean, y, xerr=np.nan_to_num(result.half), **look)
        text = f"{numbers}   {result.word}"
        ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=12)
    ax.axvline(0, color="black", linewidth=1)
    steady = [result for result in shown if not result.unstable] or shown
    ends = [0.0, *(result.mean + side * np.nan_to_num(result.half) for result in steady for side in (-1, 1))]
    margin = 0.05 * np.ptp(ends) or 1
    ax.set_xlim(min(ends) - margin, max(ends) + margin)
    ax.set_yticks(range(len(shown)), [short(result.net) for result in shown])
    ax.set_ylim(-0.6, len(shown) - 0.4)
    crosses = "; crosses: single seeds, where the axis reaches" if any(result.unstable for result in shown) else ""
    ax.set_xlabel(f"difference to the baseline in points of top-1: mean over seeds, 95% interval{crosses}")


def place_labels(ax, points, texts, line):
    """Writes a text beside each point, at the first of growing rings of places where it covers no point, line or text.

    points: (x, y, colour) and line: (x, y), in data.
    """
    ax.figure.canvas.draw()  # from here on sizes and places are known
    ax.figure.set_layout_engine("none")
    centres = ax.transData.transform([point[:2] for point in points])
    taken = [(x - 9, y - 9, x + 9, y + 9) for x, y in centres]
    taken += [(x, y, x, y) for x, y in ax.transData.transform(line)]
    angles = [math.radians(degrees) for degrees in (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240)]
    places = [(r, math.cos(angle), math.sin(angle)) for r in (15, 30, 50, 75, 105, 140, 180, 230) for angle in angles]
    for (x, y, colour), (px, py), text in zip(points, centres, texts, strict=True):
        label = ax.annotate(text, (x, y), (0, 0), textcoords="offset pixels", ha="center", va="center", fontsize=12)
        extent = label.get_window_extent()
        width, height = extent.width, extent.height
        for distance, cos, sin in places:  # between the point and the text, in pixels
            dx = distance * cos + width / 2 * max(-1, min(2 * cos, 1))  # a side or a corner of it is at the distance
            dy = distance * sin + height / 2 * max(-1, min(2 * sin, 1))
            left, low = px + dx - width / 2, py + dy - height / 2
            box = (left, low, left + width, low + height)
            inside = ax.bbox.x0 <= box[0] and box[2] <= ax.bbox.x1 and ax.bbox.y0 <= box[1] and box[3] <= ax.bbox.y1
            if inside and not any(b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3] for b in taken):
                break
        taken.append(box)
        label.set_position((dx, dy))
        if distance > places[0][0]:
            end = ax.transData.inverted().transform((px + distance * cos, py + distance * sin))
            ax.plot((x, end[0]), (y, end[1]), color=colour, linewidth=0.8, scalex=False, scaley=False)


def plain_ticks(axis, values):
    """Ticks of a logarithmic axis as plain numbers, evenly spaced where the values are close to each other."""
    narrow = max(values) < 4 * min(values)
    axis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def draw_cost(figure, results, cost):
    """Top-1 against one cost: the methods, and the widening curve with its 95% band."""
    unit, scale = {"parameters": ("parameters, thousands", 1e-3), "MACs": ("MACs per image, millions", 1e-6),
                   "training time": ("training time per image, ms", 1e3)}[cost]  # fmt: skip
    ax = figure.subplots()
    points, texts, line = [], [], []
    ax.set_xscale("log")
    for backbone, curve in results.curves.items():
        curve = not_undercut([net for net in curve if net.can_compare(cost)], cost)
        if not curve:
            continue
        x = [net.costs[cost] * scale for net in curve]
        y, half = np.transpose([t_interval(net.values("top1")) for net in curve])
        ax.fill_between(x, y - half, y + half, color="black", alpha=0.12, linewidth=0)
        ax.plot(x, y, color="black", marker="o", linewidth=2)
        along, at = np.linspace(0, len(x) - 1, 60 * len(x)), range(len(x))
        line += list(zip(np.exp(np.interp(along, at, np.log(x))), np.interp(along, at, y), strict=True))
        points += [(*point, "black") for point in zip(x, y, strict=True)]
        texts += [f"{backbone}" + f", width {net.width}" * bool(net.settings) for net in curve]
        for result in results.stable:
            if result.net.backbone == backbone and result.net.can_compare(cost):
                colour, marker = LOOKS[result.word]
                points.append((result.net.costs[cost] * scale, result.net.values("top1").mean(), colour))
                texts.append(short(result.net))
                ax.plot(*points[-1][:2], color=colour, marker=marker, markersize=9)
    ax.margins(0.12, 0.12)
    plain_ticks(ax.xaxis, [p[0] for p in points])
    ax.set_xlabel(f"{unit} (logarithmic)")
    ax.set_ylabel("top-1, %")
    has_widths = any(net.settings and net.can_compare(cost) for curve in results.curves.values() for net in curve)
    note_words(ax, results, "networks as they are" + "; lines are widths of one, with a 95% band" * has_widths)
    place_labels(ax, points, texts, line)


def note_words(ax, results, first):
    """One line above the axes that says what line and markers mean, in their colours."""
    entries = [(first, "black", None)]
    words = {result.word for result in results.stable}
    entries += [(word or "no verdict", *look) for word, look in LOOKS.items() if word in words]
    handles = [plt.Line2D([], [], color=colour, marker=marker or "o", linestyle="" if marker else "-", label=text)
               for text, colour, marker in entries]  # fmt: skip
    ax.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(handles), frameon=False, fontsize=12
    )


def draw_learning(figure, results):
    """Small multiples: top-1 after each epoch of every method beside its baseline, means over seeds or, if one of the two is
    unstable, all seeds of both."""

    def curves(net, unstable):
        of_seeds = np.array([[epoch["top1"] for epoch in net.runs[seed]["curve"]] for seed in net.seeds])
        return of_seeds if unstable else [of_seeds.mean(0)]

    n = len(results.methods)
    columns = math.ceil(math.sqrt(1.7 * n))
    axes = list(figure.subplots(math.ceil(n / columns), columns, sharex=True, sharey=True, squeeze=False).flat)
    for ax in axes[n:]:
        ax.set_axis_off()
    for ax, result in zip(axes, results.methods, strict=False):
        colour, _ = LOOKS[result.word]
        for net, c in ((result.reference, "black"), (result.net, colour)):
            for y in curves(net, result.unstable) if net else ():
                ax.plot(
                    range(1, len(y) + 1), y, color=c, linewidth=1.6, marker="o" if len(y) < 10 else "", markersize=4
                )
        mean = "by seed" if result.unstable else f"{result.net.values('top1').mean():.1f}"
        ax.set_title(f"{short(result.net)} {mean}", fontsize=13)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supxlabel("epoch (black: the baseline; number: top-1 on the test set at the end)", fontsize=13)
    figure.supylabel(f"top-1 on {'held-out train' if results.row['n_val'] else 'test'}, %", fontsize=13)


def draw_superclasses(figure, results):
    """Heat map: points of top-1 over the baseline, a row per method and a column per superclass."""
    table = np.array(superclass_table(results))
    values = table[1:, 1:].astype(float).T
    limit = max(np.abs(values).max(), 0.1)
    ax = figure.subplots()
    ax.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_xticks(range(len(SUPERCLASSES)), SUPERCLASSES, rotation=40, ha="right", rotation_mode="anchor", fontsize=11)
    ax.set_yticks(range(len(values)), [name.removesuffix("_resnet") for name in table[0, 1:]])
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.65 * limit else "black"
        ax.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=10, color=colour)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


CHARTS = dict.fromkeys(("differences", "cost_parameters", "cost_macs", "cost_time", "learning", "superclasses"))


def draw_charts(results, out):
    """Writes the charts that these results have and removes others of an earlier report: {file's name: title}."""
    wanted = {}
    if any(result.seeds for result in results.methods):
        wanted["differences"] = ("Differences to the baseline", draw_differences, ())
    for cost in COSTS:
        if not any(net.can_compare(cost) for curve in results.curves.values() for net in curve):
            continue
        wanted[f"cost_{cost.split()[-1].lower()}"] = (f"Top-1 against {cost}", draw_cost, (cost,))
    if results.methods:
        wanted["learning"] = ("Learning curves", draw_learning, ())
    if superclass_table(results):
        wanted["superclasses"] = ("Points over the baseline by superclass", draw_superclasses, ())
    for name in CHARTS:
        (out / f"{name}.png").unlink(missing_ok=True)
    for name, (_, draw, arguments) in wanted.items():
        with plt.rc_context(STYLE):
            figure = plt.figure(figsize=CHART_SIZE)
            draw(figure, results, *arguments)
            figure.savefig(out / f"{name}.png")
            plt.close(figure)
    return {name: title for name, (title, *_) in wanted.items()}


# -------------------------------------------------------------------------------------------------------------- costs

COSTS_MEASURED = ("image_size", "params", "macs", "train_step_ms", "train_imgs_per_s", "eval_imgs_per_s", "train_tflops",
                  "peak_memory_mb")  # fmt: skip
COSTS_REPORT = """\
# What networks cost

{table}

Measured with {conditions}, each network in a process of its own. A step trains on one batch of {batch_size} images. TFLOP/s
count six operations for each MAC and image: a product and a sum forward, twice as many backward. Memory is the most that
was allocated on the GPU or, without one, that the process took, of which Python and torch are some hundred MB.

{problems}

{charts}
"""


def read_costs(path):
    """costs.json of models/speed.py; refuses one with a row that lacks something."""
    costs = read_json(path)
    for row in costs.get("rows") or [{}]:
        wanted = ("image_size",) if "problem" in row else COSTS_MEASURED
        if not ("arch" in row and "settings" in row and all(is_number(row.get(name), 0) for name in wanted)):
            refuse(f"{path} cannot be used: a row needs arch, settings and {', '.join(wanted)}, got {row}")
    return costs


def per_s(speed):
    """'1,234', but of a slow network '1.2'."""
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


def costs_table(rows):
    """A row per network and image size, the networks that cannot be measured among them."""
    table = [
        ["arch", "pixels", "parameters", "MACs, M", "step, ms", "train img/s", "eval img/s", "TFLOP/s", "memory, MB"]
    ]
    for row in rows:
        cells = [Net(row["arch"], row["settings"]).name, str(row["image_size"])]
        if "problem" not in row:
            cells += [
                f"{row['params']:,}", f"{row['macs'] / 1e6:,.1f}", f"{row['train_step_ms']:,.1f}",
                per_s(row["train_imgs_per_s"]), per_s(row["eval_imgs_per_s"]), f"{row['train_tflops']:.3g}",
                f"{row['peak_memory_mb']:,.0f}",
            ]  # fmt: skip
        table.append(cells + ["-"] * (len(table[0]) - len(cells)))
    return table


def draw_costs(figure, rows):
    """Time of a training step against MACs, and the line on which the best TFLOP/s measured here would put all networks."""
    ax = figure.subplots()
    ax.set_xscale("log")
    ax.set_yscale("log")
    macs, step_ms = ([row[name] for row in rows] for name in ("macs", "train_step_ms"))
    best = max(rows, key=lambda row: row["train_tflops"])
    along = np.geomspace(min(macs), max(macs), 60)
    at_best = along * best["train_step_ms"] / best["macs"]
    ax.plot(
        along / 1e6, at_best, color="black", linewidth=1, label=f"at {best['train_tflops']:.3g} TFLOP/s, the best here"
    )
    points = [(x / 1e6, y, "#0072B2") for x, y in zip(macs, step_ms, strict=True)]
    for x, y, colour in points:
        ax.plot(x, y, color=colour, marker="o", markersize=8)
    ax.margins(0.12, 0.12)
    plain_ticks(ax.xaxis, [point[0] for point in points])
    plain_ticks(ax.yaxis, [point[1] for point in points])
    ax.set_xlabel("MACs per image, millions (logarithmic)")
    ax.set_ylabel("training step, ms (logarithmic)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=12)
    names = [Net(row["arch"], row["settings"]).name for row in rows]
    place_labels(ax, points, names, list(zip(along / 1e6, at_best, strict=True)))


def report_costs(costs, out):
    """Writes costs.md, costs.csv and a chart for each image size; prints the table."""
    conditions = {name: value for name, value in costs.items() if name != "rows"}
    rows = sorted(costs["rows"], key=lambda row: row["image_size"])  # in the order of the list for each size
    table = costs_table(rows)
    with (out / "costs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["arch", "settings", *COSTS_MEASURED, "problem"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"settings": Net(row["arch"], row["settings"]).knobs} for row in rows)
    charts = []
    for size in sorted({row["image_size"] for row in rows if "problem" not in row}):
        with plt.rc_context(STYLE):
            figure = plt.figure(figsize=CHART_SIZE)
            draw_costs(figure, [row for row in rows if row["image_size"] == size and "problem" not in row])
            figure.savefig(out / f"costs_{size}.png")
            plt.close(figure)
        charts.append(f"![Step time against MACs at {size}x{size} pixels](costs_{size}.png)")
    problems = [f"- {row['arch']} at {row['image_size']}: {row['problem']}" for row in rows if "problem" in row]
    text = COSTS_REPORT.format(
        table=markdown(table),
        conditions=", ".join(f"{name} {value}" for name, value in conditions.items()),
        batch_size=costs["batch_size"],
        problems="\n".join(["Not measured:", "", *problems]) if problems else "",
        charts="\n\n".join(charts),
    )
    (out / "costs.md").write_text(re.sub("\n{3,}", "\n\n", text))
    print(markdown(table))
    print(f"written: {out}/costs.md, costs.csv and {len(charts)} charts")


# ------------------------------------------------------------------------------------------------------------ recipes

AS_IT_IS = "as it is"  # no knob set
RECIPES_REPORT = """\
# Which recipe?

Top-1 in percent on the {n_val:,} images held out of train, after the last epoch, as the mean over seeds; the best first;
rows of other seeds differ by chance as well. The test set has no part in this.

{tables}

All recipes share: {shared}.

{origins}
"""


def report_recipes(rows, out):
    """Writes recipes.md and prints its table: each network's top-1 on the validation split under each recipe.

    A recipe is named by the settings that differ between the runs. Refuses runs that held nothing out: a recipe chosen on
    the test set would flatter what is then measured there.
    """
    if any(row["val_top1"] is None for row in rows):
        refuse("recipes are compared on held-out images, and some of these runs watched the test set (--val-size 0)")
    if len({(row["dataset"], row["n_val"]) for row in rows}) > 1 or any(row.get("folds") for row in rows):
        refuse("recipes are compared on one held-out part of one dataset: report others, and folds, apart")
    recipes = [recipe_of(row) for row in rows]
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    differ = [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]
    top1 = {}  # arch -> (knobs, recipe) -> seed -> value
    for row, recipe in zip(rows, recipes, strict=True):
        how = Net(row["arch"], row["settings"]).knobs or AS_IT_IS, *(str(recipe.get(name)) for name in differ)
        of_seed = top1.setdefault(row["arch"], {}).setdefault(how, {})
        if row["seed"] in of_seed:
            refuse(f"{row['arch']} has seed {row['seed']} twice under one recipe: remove one of the two runs")
        of_seed[row["seed"]] = row["val_top1"]
    tables = {arch: markdown(recipes_table(differ, of_arch)) for arch, of_arch in sorted(top1.items())}
    text = RECIPES_REPORT.format(
        tables="\n\n".join(f"## {arch}\n\n{table}" for arch, table in tables.items()),
        n_val=rows[0]["n_val"],
        shared=in_words({name: value for name, value in recipes[0].items() if name not in differ}),
        origins="\n".join(f"- {what}: {values}" for what, values in origins(rows)),
    )
    (out / "recipes.md").write_text(text)
    for arch, table in tables.items():
        print(f"{arch}\n{table}\n")
    print(f"written: {out}/recipes.md")


def recipes_table(differ, top1):
    """A row for each of one architecture's recipes, the best first. top1: (knobs, *values of `differ`) -> {seed: top-1}."""
    table = [["knobs", *differ, "top-1", "seeds", "of each seed"]]
    for how, of_seed in sorted(top1.items(), key=lambda item: -np.mean(list(item[1].values()))):
        seeds, values = zip(*sorted(of_seed.items()), strict=True)
        table.append([*how, f"{np.mean(values):.2f}", in_list(seeds), ", ".join(f"{value:.2f}" for value in values)])
    if all(knobs == AS_IT_IS for knobs, *_ in top1):
        table = [row[1:] for row in table]
    return table


# ------------------------------------------------------------------------------------------------------------- slides

SLIDE, MARGIN, TOP = (13.333, 7.5), 0.5, 1.3  # inches
BOX = (SLIDE[0] - 2 * MARGIN, SLIDE[1] - TOP - 0.4)
ROWS_PER_SLIDE = 15
CHARACTER = 0.55  # mean width of a character, and
LINE = 1.25  # height of a line, as parts of the font's size


def readme_lines():
    """What the README's table says of each method: {method: (paper, in a line)}."""
    text = (Path(__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| \[(.+?)\]\(.+?\) \| (.+?) \|$", text, re.MULTILINE)
    return {method: (paper, line.replace("`", "")) for method, paper, line in rows}


def font_that_fits(paragraphs, width, height, largest=24):
    """The largest font in points, down to 9, at which the paragraphs fit a box of width x height inches."""
    for points in range(largest, 9, -1):
        per_line = int(72 * width / (CHARACTER * points))
        n_lines = sum(max(1, len(textwrap.wrap(text, per_line))) + 0.4 for text in paragraphs)
        if n_lines * LINE * points <= 72 * height:
            return points
    return 9


class Deck:
    """Slides with a title and one thing below it: text, a table or a chart."""

    def __init__(self):
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = (Inches(side) for side in SLIDE)

    def slide(self, title):
        slide = self.file.slides.add_slide(self.file.slide_layouts[6])  # of the default template: blank
        self.write(slide, [title], (MARGIN, 0.4, BOX[0], 0.8), largest=32, bold=True)
        return slide

    def write(self, slide, paragraphs, box, largest=24, bold=False):
        frame = slide.shapes.add_textbox(*(Inches(side) for side in box)).text_frame
        frame.word_wrap = True
        size = font_that_fits(paragraphs, box[2] - 0.2, box[3] - 0.1, largest)
        for i, text in enumerate(paragraphs):
            paragraph = frame.paragraphs[0] if i == 0 else frame.add_paragraph()
            paragraph.text = text.replace(" -", " \N{MINUS SIGN}")  # a hyphen would end lines
            paragraph.font.size, paragraph.font.bold, paragraph.space_after = Pt(size), bold, Pt(0.4 * size)

    def text(self, title, paragraphs):
        self.write(self.slide(title), paragraphs, (MARGIN, TOP, *BOX))

    def chart(self, title, path):
        slide = self.slide(title)
        slide.shapes.add_picture(str(path), Inches(MARGIN), Inches(TOP), width=Inches(BOX[0]))

    def table(self, title, table):
        """A table, on as many slides as it needs."""
        header, *rows = table
        per_slide = math.ceil(len(rows) / math.ceil(len(rows) / ROWS_PER_SLIDE)) if rows else 1
        for start in range(0, len(rows), per_slide):
            part = [header, *rows[start : start + per_slide]]
            slide = self.slide(title + " (continued)" * (start > 0))
            longest = [max(len(row[column]) for row in part) + 2 for column in range(len(header))]
            size = min(16, 72 * BOX[0] / (CHARACTER * sum(longest)), 72 * BOX[1] / len(part) / 1.9)
            grid = slide.shapes.add_table(
                len(part), len(header), *(Inches(side) for side in (MARGIN, TOP, BOX[0], 0.1))
            ).table
            for column, length in enumerate(longest):
                grid.columns[column].width = Inches(BOX[0] * length / sum(longest))
            for i, row in enumerate(part):
                grid.rows[i].height = Pt(1.9 * size)
                for column, text in enumerate(row):
                    cell = grid.cell(i, column)
                    cell.text = text
                    cell.text_frame.paragraphs[0].font.size = Pt(size)
                    cell.margin_left = cell.margin_right = Pt(0.5 * size)
                    cell.margin_top = cell.margin_bottom = Pt(0.2 * size)


def design_text(results):
    row, seeds = results.row, sorted({seed for net in results.nets for seed in net.seeds})
    scored = "once, after the last epoch" if row["n_val"] else "after every epoch, and the last epoch counts"
    lines = [
        f"{row['dataset']}: {row['classes']} classes, {row['n_train']:,} images to train on, {row['n_val']:,} held out, "
        f"{row['n_test']:,} to test. The test set is scored {scored}.",
        f"One recipe for all: {row['epochs']} epochs, {row['batch_size']} images a step, seeds {in_list(seeds)}.",
    ]
    for backbone, curve in results.curves.items():
        if len(curve) > 1:
            widths = in_list([net.width for net in curve])
            lines.append(
                f"{backbone} at widths {widths}: methods are compared with it at equal parameters, MACs and time."
            )
    if results.judged:
        lines.append(f"Differences are paired by seed, with Holm's correction over {len(results.judged)} methods.")
    return [*lines, speed_text(results)]


def limits_text(results):
    lines = [
        opening(results)[-1],
        f"One dataset ({results.row['dataset']}) and one recipe for all methods; several were published with another "
        "optimizer, and a recipe tuned to a method may rank it higher.",
        "Distances at equal cost are not corrected for their number; only differences to the baseline are.",
        bias_text(results),
    ]
    outside = [r.net.arch for r in results.methods if any(gap.why == "outside the curve" for gap in r.gaps.values())]
    if outside:
        lines += [
            f"Outside the trained widths at some cost: {in_list(outside)}; wider or narrower ResNets would tell more."
        ]
    left_out = left_out_text(results)
    lines += [f"Left out: {'; '.join(left_out)}."] if left_out else []
    future = (
        "Future work: more seeds where the detectable difference is large, a second dataset, and a recipe per method."
    )
    return [*lines, future]


def verdict_lists(results):
    """A line per word with the methods that earned it."""
    lines = [f"{word.capitalize()}: {members(results.by_word(word))}." for word in WORDS]
    return lines if results.judged else opening(results)


def write_slides(path, results, charts):
    """slides.pptx: goal, methods, design, results, efficiency, ablations, what helped, limits."""
    deck, lines = Deck(), readme_lines()
    out = path.parent
    deck.text("Goal: which published module is worth adding to a ResNet?", opening(results))

    used = sorted({method for net in results.nets for method in net.arch.split("_")[:-1]})
    table = [["module", "paper", "in a line"]]
    for net in results.nets:
        if net.on_curve and not net.settings:
            size = f"{net.costs['parameters']:,} parameters, {net.costs['MACs'] / 1e6:.1f} million MACs"
            family = family_and_depth(net.arch)
            kind = {"resnet": "a ResNet: ", "plain": "a ResNet without its shortcuts: "}[family[0]] if family else ""
            table.append([net.arch, "Deep Residual Learning" if family else "", kind + size])
    deck.table("The ResNet and the methods", table + [[m, *lines[m]] for m in used if m in lines])
    deck.text("Design", design_text(results))

    if results.methods:
        deck.table("Results: verdicts", verdict_table(results))
    for name in [name for name in charts if name == "differences"]:
        deck.chart(charts[name], out / f"{name}.png")
    deck.table("Results: all networks", main_table(results))
    if depths := depth_table(results):
        deck.table("Results: depth with and without shortcuts", depths)
    if folds := folds_table(results):
        deck.table(f"Results: cross-validation with {results.row['folds']} folds", folds)
    for name in [name for name in charts if name in ("learning", "superclasses")]:
        deck.chart(charts[name], out / f"{name}.png")

    if results.methods and results.has_curve:
        deck.table("Efficiency: points over a ResNet of equal cost", equal_cost_table(results))
    for name in [name for name in charts if name.startswith("cost_")]:
        deck.chart("Efficiency: " + charts[name].replace("T", "t", 1), out / f"{name}.png")
    for arch, comparisons in results.ablations.items():
        deck.table(f"Ablations of {arch}", ablation_table(arch, comparisons, results))
    deck.text("What helped and what did not", verdict_lists(results))
    deck.text("Limits and future work", limits_text(results))
    deck.file.save(path)


# --------------------------------------------------------------------------------------------------------------- main


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with runs below it, or a costs.json")
    parser.add_argument("--out", type=Path, help="where the report goes (default: report/ beside what it is made of)")
    parser.add_argument("--recipes", action="store_true", help="compare recipes, on the validation split, not networks")
    parser.error = refuse
    args = parser.parse_args(argv)
    folder = args.runs.parent if args.runs.is_file() else args.runs
    args.out = args.out or folder / "report"

    matplotlib.use("Agg")  # charts go to files
    if args.runs.is_file():
        costs = read_costs(args.runs)
        args.out.mkdir(parents=True, exist_ok=True)
        return report_costs(costs, args.out)
    if args.recipes:
        rows = list(read_results(args.runs).values())
        args.out.mkdir(parents=True, exist_ok=True)
        return report_recipes(rows, args.out)
    results = analyse(read_rows(args.runs), read_cost_pass(args.runs))
    args.out.mkdir(parents=True, exist_ok=True)
    charts = draw_charts(results, args.out)
    (args.out / "report.md").write_text(report_text(results, charts))
    write_csv(args.out / "results.csv", results)
    write_slides(args.out / "slides.pptx", results, charts)
    print(" ".join(opening(results)))
    print(f"written: {args.out}/report.md, results.csv, slides.pptx and {len(charts)} charts")


if __name__ == "__main__":
    main()
