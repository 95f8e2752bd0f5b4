"""What the report says of the results: tables, as lists of rows of strings with the header first, and sentences."""

import math
import re

import numpy as np

from budgets import shared_methods
from noise import POWER, Gap, t_interval
from notes import MODULES, dataset_of
from rows import COSTS, SUPERCLASSES, default_width, epochs_of, family_and_depth, in_list, latencies_in
from verdicts import WORDS, Comparison

MOST_NAMES = 3  # in a sentence; a list has the others
UNKNOWN_NOISE = "How much of this is chance is unknown: two runs of the same network also differ, and only more seeds show by how much."
PHRASES = {  # what is said of one method, and of several
    "no better than widening": (
        "is no better than a wider ResNet by some measure of cost",
        "are no better than a wider ResNet by some measure of cost",
    ),
    "better than narrowing": (
        "saves cost and loses less than a narrower ResNet",
        "save cost and lose less than narrower ResNets",
    ),
    "hurts": ("hurts", "hurt"),
    "no evidence": ("shows no evidence either way", "show no evidence either way"),
    "unstable": (
        "is unstable (it or its baseline failed to learn with some seeds)",
        "are unstable (they or their baseline failed to learn with some seeds)",
    ),
}


def pm(mean, half, sign=""):
    """'+1.20 ± 0.30'; without the interval if there is none, and '-' if there is no mean."""
    if math.isnan(mean):
        return "-"
    return f"{mean:{sign}.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def interval(estimate, sign=""):
    return pm(estimate.mean, estimate.half, sign)


def p_value(p):
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_values(result):
    """p and Holm's p of a comparison; '-' where all seeds differ alike, so that nothing was tested."""
    tested = not math.isnan(result.estimate.error)
    return [p_value(p if tested else math.nan) for p in (result.p, result.p_holm)]


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
            interval(results.top1(net)), f"{net.values('top5').mean():.2f}", f"{net.values('ece').mean():.2f}",
            str(len(net.seeds)),
        ])  # fmt: skip
    return with_latencies(rows, results.cost_pass, [net.cost_pass for net in results.networks])


def ms(time_ms):
    """'0.250', '12.3' or '1,234'."""
    return f"{time_ms:#.3g}" if time_ms < 99.95 else f"{time_ms:,.0f}"


def with_latencies(table, cost_pass, rows):
    """The table with the latencies of a cost pass after its speeds; rows: of the cost pass, one for each line, or None."""
    at = table[0].index("eval img/s") + 1
    columns = [
        [header, *(f"{ms(row[median])} / {ms(row[p95])}" if row and median in row else "-" for row in rows)]
        for header, median, p95 in latencies_in(cost_pass)
    ]
    return [line[:at] + list(cells) + line[at:] for line, *cells in zip(table, *columns, strict=True)]


def verdict_table(results):
    rows = [["method", "difference", "p", "Holm p", "detectable", "parameters / MACs / time", "verdict"]]
    for result in results.methods:
        rows.append([
            result.net.arch, interval(result.estimate, "+"), *p_values(result),
            pm(result.detectable, math.nan), relative_costs(result), result.word or "-",
        ])  # fmt: skip
    return rows


def relative_costs(result):
    """'0.42 / 0.37 / 0.98': a method's parameters, MACs and training time as fractions of its baseline's."""
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
    """One row per network with its top-1 on the held-out folds; None unless the rows are of cross-validation."""
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
    """Does depth hurt without shortcuts? One row per depth of plain networks and ResNets; None unless both kinds were run.

    The training loss distinguishes a network that is hard to optimize (degradation) from one that overfits.
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
            net.arch, str(depth), interval(results.top1(net)), interval(results.difference(net, shallowest), "+"),
            interval(results.difference(net, nets.get(("resnet", depth))), "+"), f"{train_loss(net):.3f}", str(len(net.seeds)),
        ])  # fmt: skip
    return rows


def by_depth(results):
    """Plain networks and ResNets with their defaults: {(family, layers): net}, sorted. If there are wide ones, as for ImageNet,
    beside those of CIFAR's width, only the kind with more networks."""
    nets = [net for net in results.nets if net.on_curve and not net.settings and family_and_depth(net.arch)]
    n_wide = sum(default_width(net.arch) == 64 for net in nets)
    width = 64 if n_wide > len(nets) / 2 else 16
    return {family_and_depth(net.arch): net for net in sorted(nets, key=lambda net: family_and_depth(net.arch))
            if default_width(net.arch) == width}  # fmt: skip


def train_loss(net):
    """The training loss of the last epoch, averaged over seeds."""
    return float(np.mean([run["curve"][-1]["train_loss"] for run in net.runs.values()]))


def ablation_table(arch, comparisons, results):
    rows = [["knobs", "parameters", "MACs, M", "top-1", "difference", "Holm p", "detectable", "verdict"]]
    default = [Comparison(net, net) for net in results.nets if net.arch == arch and not net.settings]
    for result in default + comparisons:
        rows.append([
            result.net.knobs or "(default)", f"{result.net.costs['parameters']:,}", f"{result.net.costs['MACs'] / 1e6:.1f}",
            interval(results.top1(result.net)), interval(result.estimate, "+"), p_values(result)[1],
            pm(result.detectable, math.nan), result.change or "-",
        ])  # fmt: skip
    return rows


def recipes_table(results):
    """One row per recipe: the networks trained with it, and the settings in which recipes differ; None if all share one."""
    settings = results.own_recipes
    if not settings:
        return None
    by_recipe = {}
    for net in results.nets:
        recipe = tuple(str(net.recipe.get(name, "-")) for name in settings)
        by_recipe.setdefault(recipe, []).append(net.name)
    return [["networks", *settings], *([", ".join(names), *recipe] for recipe, names in by_recipe.items())]


def interaction_table(results):
    """One row per pair of modules: each alone, their sum, both together, and the interaction."""
    rows = [["modules", "first alone", "second alone", "sum", "together", "interaction", "Holm p", "verdict"]]
    for each in results.interactions:
        first, second = each.alone
        rows.append([
            each.both.arch, interval(first, "+"), interval(second, "+"), f"{first.mean + second.mean:+.2f}",
            interval(each.together, "+"), interval(each.estimate, "+"), p_value(each.p_holm), each.word or "-",
        ])  # fmt: skip
    return rows


def superclass_table(found):
    """One row per superclass with a cell that stands out, one column per method; all other cells are empty. None if no cell
    stands out."""
    if found is None or not found.readable.any():
        return None
    cells = np.where(found.readable, np.char.mod("%+.1f", found.differences), "")
    return [
        ["superclass", *(arch.removesuffix("_resnet") for arch in found.archs)],
        *([name, *row] for name, row in zip(SUPERCLASSES, cells.T.tolist(), strict=True) if any(row)),
    ]


def budget_table(conditions):
    """One row per method with its difference and word under each condition."""
    table = [["method", *(each.label for each in conditions)]]
    for name in shared_methods(conditions):
        found = [each.methods.get(name) for each in conditions]
        table.append([name, *(f"{interval(r.estimate, '+')} {r.word}".rstrip() if r else "-" for r in found)])
    return table


def markdown(table):
    """A table as Markdown; columns of numbers are aligned to the right."""
    if len(table) == 1:
        return "Nothing to compare."
    columns = zip(*table[1:], strict=True)
    rule = ["--:" if all(re.match(r"[-+<\d]|$", cell) for cell in cells) else "---" for cells in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in [table[0], rule, *table[1:]])


# ------------------------------------------------------------------------------------------------------------ sentences


def readable(net):
    """A network's name for readers who have not seen the code: 'gMLP', 'ECA + GhostNet', 'ECA (resnet56)'."""
    if not net.is_method:
        return net.name
    names = " + ".join(MODULES[method].name if method in MODULES else method for method in net.arch.split("_")[:-1])
    return names + f" ({net.backbone})" * (net.backbone != "resnet")


def members(comparisons):
    """The best MOST_NAMES methods with their differences, and how many more there are."""
    named = [f"{readable(result.net)} {interval(result.estimate, '+')}" for result in comparisons[:MOST_NAMES]]
    rest = len(comparisons) - len(named)
    return in_list([*named, f"{rest} more"] if rest else named)


def opening(results):
    """The answer in at most four sentences."""
    early = [too_early_sentence(results)] if any(result.too_early for result in results.methods) else []
    if results.judged:
        told = helps_sentence(results), others_sentence(results), budget_sentence(results), *early
        return [text for text in told if text]
    if early:
        return early
    seen = [result for result in results.methods if result.seeds]
    ablated = [result for comparisons in results.ablations.values() for result in comparisons if result.judged]
    if ablated and not seen:
        n_changes = [f"{sum(r.change == word for r in ablated)} {word}" for word in ("better", "worse", "unstable")]
        return [
            f"Settings compared with their architecture's default: {len(ablated)} ({in_list(n_changes)}).",
            "There is no verdict on methods: none was run with its defaults together with its baseline.",
            power_sentence(ablated),
        ]
    if not seen and depth_table(results):
        return depth_sentences(results)
    if not seen:
        missing = sorted({r.net.backbone for r in results.methods if r.reference is None})
        why = "no method was run with a seed of its baseline"
        why = f"no method was run together with its baseline, {in_list(missing)}" if missing else why
        return [f"There is no verdict: {why}.", f"{len(results.nets)} networks were run."]
    lacks = any(r.lacks for r in seen)
    n_seeds = max(len(net.seeds) for net in results.nets)
    why = f"only one seed{' of the baseline' * (n_seeds > 1)} was run"
    why = "no method was run with all of its baseline's seeds" if lacks else why
    has_noise = any(len(r.seeds) > 1 for r in seen)
    lowest, highest = (f"{pm(seen[i].mean, math.nan, '+')} points ({readable(seen[i].net)})" for i in (-1, 0))
    return [
        f"There is no verdict: {why}.",
        f"Differences from the baseline range from {lowest} to {highest}."
        if len(seen) > 1
        else f"The difference from the baseline is {highest}.",
        *([] if has_noise else [UNKNOWN_NOISE]),
    ]


def too_early_sentence(results):
    names = in_list(sorted({result.reference.name for result in results.methods if result.too_early}))
    on = f" on the methods of {names}" if results.judged else ""
    return (
        f"There is no verdict{on}: after {epochs_of(results.row)}, {names} itself cannot be told from guessing among "
        f"{results.row['classes']} classes on {results.row['n_test']:,} test images."
    )


def helps_sentence(results):
    """Which methods help."""
    n_seeds, row, helps = in_list(sorted({len(r.seeds) for r in results.judged})), results.row, results.by_word("helps")
    n_methods = len(results.judged)
    after = f"After {epochs_of(row)} on {dataset_of(row)} with {n_seeds} seeds"
    if not helps:
        which = f"none of the {n_methods} methods is" if n_methods > 1 else "the method is not"
        return f"{after}, {which} shown to help."
    verb = "helps" if len(helps) == 1 else "help"
    which = f"{len(helps)} of {n_methods} methods" if n_methods > 1 else "the method"
    return f"{after}, {which} {verb} (points of top-1 over the baseline): {members(helps)}."


def others_sentence(results):
    """How many methods got each of the other words; empty if all help."""
    phrases = counted(results)
    if not phrases:
        return ""
    if results.by_word("helps"):
        if sum(result.word != "helps" for result in results.judged) == 1:
            return f"The other {phrases[0].removeprefix('1 ')}."
        return f"Of the others, {in_list(phrases)}."
    return f"{'All ' * (len(phrases) == 1 < len(results.judged))}{in_list(phrases)}."


def counted(results):
    """['1 hurts', '3 show no evidence either way']: the methods of each word but "helps"."""
    found = [(len(results.by_word(word)), phrases) for word, phrases in PHRASES.items()]
    return [f"{n} {one if n == 1 else many}" for n, (one, many) in found if n]


def budget_sentence(results):
    """What this budget and these seeds leave open."""
    sizes = [result.detectable for result in results.judged if not math.isnan(result.detectable)]
    budget = "longer training may change the order"
    if not sizes:
        return f"{why_unknown(results.judged)}, so the noise is unknown, and {budget}."
    which = "half of these comparisons had at least" if len(sizes) > 1 else "the comparison had"
    return (
        f"If the noise is as estimated, {which} an {POWER:.0%} chance of finding a true difference of {np.median(sizes):.1f} "
        f"points; smaller ones may have gone unnoticed, and {budget}."
    )


def why_unknown(comparisons):
    return "No comparison is stable" if all(result.unstable for result in comparisons) else "The seeds show no spread"


def cost_sentence(results):
    """How many methods are above and below a ResNet of equal cost."""
    gaps = [(gap, cost, r.net) for r in results.judged for cost, gap in r.gaps.items() if not gap.why]
    unjudged = [gap for r in results.methods for gap in r.gaps.values() if not gap.why]
    if not gaps and unjudged and not results.judged:
        if all(math.isnan(gap.half) for gap in unjudged):
            return "With one seed, differences from a ResNet of equal cost have no interval."
        return "No method was trained with all of its baseline's seeds, so none is judged at equal cost."
    if not gaps:
        which = "No method that was judged" if unjudged else "No method"
        return f"{which} could be compared with a ResNet of another width, which may do as well."
    compared = [result for result in results.judged if result.has_curve]
    above, below = (sum(bool(r.where(side)) for r in compared) for side in ("above", "below"))
    methods = f"{len(compared)} method{'s' * (len(compared) > 1)}"
    counts = (
        f"{methods} can be compared with a ResNet of equal cost. Above it at one cost or more: {above}; below it at one or more: "
        f"{below}."
    )
    if not above:
        return counts
    best, cost, net = max((entry for entry in gaps if entry[0].above), key=lambda entry: entry[0].mean)
    largest = f"{readable(net)} at equal {cost}: {pm(best.mean, best.half, '+')} points."
    if len(gaps) == 1:
        return f"{counts} {largest}"
    return (
        f"{counts} Of the {len(gaps)} differences at equal cost, the largest clear gain is {largest} As the largest of many, it is "
        "likely an overestimate."
    )


def power_sentence(comparisons):
    """The differences that these comparisons could find."""
    smallest = [result.detectable for result in comparisons if not math.isnan(result.detectable)]
    if not smallest:
        return f"{why_unknown(comparisons)}, so it is unknown what these comparisons could find."
    if len(smallest) == 1:
        return f"With these seeds, the comparison has an {POWER:.0%} chance of finding a true difference of {smallest[0]:.1f} points."
    return (
        f"With these seeds, half of the comparisons have at least an {POWER:.0%} chance of finding a true difference of "
        f"{np.median(smallest):.1f} points ({min(smallest):.1f} to {max(smallest):.1f}, depending on their noise). A smaller one may "
        "have gone unnoticed."
    )


def verdict_lists(results):
    """[(word, its methods with their differences)]; words without a method are left out."""
    found = [(word, results.by_word(word)) for word in WORDS]
    return [(word, ", ".join(map(with_reason, of_word))) for word, of_word in found if of_word]


def with_reason(result):
    """A method with its difference, and what speaks for it in spite of a significant loss."""
    named = f"{readable(result.net)} {interval(result.estimate, '+')}"
    if result.direction < 0 and result.where("above"):
        sides = [
            f"{side} a ResNet at equal {in_list(result.where(side))}"
            for side in ("above", "below")
            if result.where(side)
        ]
        return f"{named} ({', '.join(sides)})"
    return named


def ablation_sentence(arch, comparisons):
    """What the knobs of one architecture did, in a sentence."""
    told = [result for result in comparisons if result.change]
    if not told:
        return f"No setting of {arch} can be judged."
    by_change = {word: [r for r in told if r.change == word] for word in ("better", "worse", "no evidence", "unstable")}
    phrases = []
    for word in ("better", "worse"):
        found = sorted(by_change[word], key=lambda result: -abs(result.mean))
        names = [f"{result.net.knobs} ({interval(result.estimate, '+')})" for result in found[:MOST_NAMES]]
        rest = [f"{len(found) - MOST_NAMES} more"] if len(found) > MOST_NAMES else []
        verb = "is" if len(found) == 1 else "are"
        phrases += [f"{in_list([*names, *rest])} {verb} {word} than the default"] if found else []
    for word, meaning in (
        ("no evidence", "no evidence either way"),
        ("unstable", "not judged, because the setting or the default failed to learn with some seed"),
    ):
        meaning = meaning if phrases else meaning.capitalize()
        phrases += [f"{meaning}: {len(by_change[word])} of {len(told)} settings"] if by_change[word] else []
    return f"{'; '.join(phrases)}."


def depth_sentences(results):
    """How more layers changed each kind of network."""
    sentences = []
    for family, words in (("plain", "networks without shortcuts"), ("resnet", "ResNets")):
        nets = [net for key, net in by_depth(results).items() if key[0] == family]
        if len(nets) < 2:
            continue
        shallow, deep = nets[0], nets[-1]
        layers = [family_and_depth(net.arch)[1] for net in (shallow, deep)]
        change, rise = interval(results.difference(deep, shallow), "+"), train_loss(deep) - train_loss(shallow)
        sentences.append(
            f"From {layers[0]} to {layers[1]} layers, {words} change by {change} points of top-1, and their training loss by "
            f"{rise:+.3f}."
        )
    counts, row = sorted({len(net.seeds) for net in by_depth(results).values()}), results.row
    return [
        *sentences,
        f"This is after {epochs_of(row)} on {dataset_of(row)} with {in_list(counts)} seed{'s' * (counts != [1])}; longer training may change it.",
    ]
