"""The results as tables: lists of rows of strings, the header first."""

import math
import re

import numpy as np

from budgets import shared_methods
from names import default_width, family_and_depth
from noise import Gap, t_interval
from rows import COSTS, SUPERCLASSES, at_chance, latencies_in
from verdicts import Comparison


def pm(mean, half, sign=""):
    """'+1.20 ± 0.30'; without the interval if there is none, and '-' if there is no mean."""
    if math.isnan(mean):
        return "-"
    return f"{mean:{sign}.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def interval(estimate, sign=""):
    return pm(estimate.mean, estimate.half, sign)


MOST_SEEDS = 5  # of which each difference is shown


def by_seed(values, sign="+"):
    """Each seed's value, '+1.0, -48.2, +0.9', or the range of many."""
    if len(values) > MOST_SEEDS:
        return f"{min(values):{sign}.1f} to {max(values):{sign}.1f}"
    return ", ".join(f"{each:{sign}.1f}" for each in values)


def top1_cell(results, net):
    """A net's top-1 with its interval; each seed's if only some ended at chance, when the mean says nothing."""
    n_lost = sum(at_chance(run) for run in net.runs.values())
    return f"{by_seed(net.values('top1'), '')} (by seed)" if 0 < n_lost < len(net.runs) else interval(results.top1(net))


def difference_cell(result):
    """A comparison's difference with its interval; if unstable, when the mean says nothing, each seed's."""
    if result.unstable:
        return f"{by_seed(result.differences)} (by seed)"
    return interval(result.estimate, "+")


def p_value(p):
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_values(result):
    """p and Holm's p of a comparison; '-' where all seeds have the same difference, so nothing was tested."""
    tested = not math.isnan(result.estimate.error)
    return [p_value(p if tested else math.nan) for p in (result.p, result.p_holm)]


def main_table(results):
    header = "arch|parameters|MACs, M|train img/s|eval img/s|memory, MB|top-1|top-5|ECE|train loss|seeds"
    rows = [header.split("|")]
    one_source = not any(net.cost_row for net in results.networks)
    for net in results.networks:
        speeds = (net.imgs_per_s(name) for name in ("train_imgs_per_s", "eval_imgs_per_s"))
        rows.append([
            net.name, f"{net.costs['parameters']:,}", f"{net.costs['MACs'] / 1e6:.1f}",
            *(f"{speed:,.0f}" if one_source or net.cost_row else "-" for speed in speeds),
            f"{net.values('peak_memory_mb').max():,.0f}", top1_cell(results, net), f"{net.values('top5').mean():.2f}",
            f"{net.values('ece').mean():.2f}", f"{train_loss(net):.2f}", str(len(net.seeds)),
        ])  # fmt: skip
    return with_latencies(rows, results.cost_pass, [net.cost_row for net in results.networks])


def ms(time_ms):
    """'0.250', '12.3' or '1,234'."""
    return f"{time_ms:#.3g}" if time_ms < 99.95 else f"{time_ms:,.0f}"


def with_latencies(table, cost_pass, rows):
    """The table with the latencies of a cost pass after its speeds; rows: each line's row of the cost pass, or None."""
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
            result.net.name, difference_cell(result), *p_values(result),
            pm(result.detectable, math.nan), relative_costs(result), result.word or "-",
        ])  # fmt: skip
    return rows


def relative_costs(result):
    """'0.42 / 0.37 / 0.98': a method's parameters, MACs and training time as fractions of its baseline's."""
    if not result.reference:
        return "-"
    net, baseline = result.net, result.reference
    comparable = [net.can_compare(cost) and baseline.can_compare(cost) for cost in COSTS]
    parts = [f"{net.costs[cost] / baseline.costs[cost]:.2f}" for cost in COSTS]
    return " / ".join(part if ok else "-" for part, ok in zip(parts, comparable, strict=True))


def equal_cost_table(results):
    rows = [["method", *(f"at equal {cost}" for cost in COSTS)]]
    for result in results.methods:
        gaps = result.gaps.values() or [Gap(why="-")] * len(COSTS)
        rows.append([result.net.name, *(gap.why or pm(gap.mean, gap.half, "+") for gap in gaps)])
    return rows


def folds_table(results):
    """One row per network with its top-1 on the held-out folds; None unless the rows are of cross-validation."""
    if not results.row.get("folds"):
        return None
    rows = [["arch", "top-1 on the folds", "spread over folds", "lowest fold", "highest fold", "seeds"]]
    for net in results.nets:
        top1 = np.array([net.runs[seed]["val_top1_of_folds"] for seed in net.seeds])  # (seeds, folds)
        by_fold = top1.mean(0)
        rows.append([
            net.name, pm(*t_interval(top1.mean(1))), f"{by_fold.std(ddof=1):.2f}", f"{by_fold.min():.2f}",
            f"{by_fold.max():.2f}", str(len(net.seeds)),
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
        [
            "arch",
            "layers",
            "top-1",
            "to the shallowest of its kind",
            "to the ResNet of its depth",
            "training loss",
            "seeds",
        ]
    ]
    for (family, depth), net in nets.items():
        shallowest = next(net for key, net in nets.items() if key[0] == family)
        rows.append([
            net.arch, str(depth), top1_cell(results, net), interval(results.difference(net, shallowest), "+"),
            interval(results.difference(net, nets.get(("resnet", depth))), "+"), f"{train_loss(net):.3f}", str(len(net.seeds)),
        ])  # fmt: skip
    return rows


def by_depth(results):
    """Plain networks and ResNets with their defaults: {(family, layers): net}, sorted. If there are ImageNet's wide
    ones beside CIFAR's narrow ones, only the kind with more networks."""
    nets = [net for net in results.nets if net.on_curve and not net.settings and family_and_depth(net.arch)]
    n_wide = sum(default_width(net.arch) == 64 for net in nets)
    width = 64 if n_wide > len(nets) / 2 else 16
    return {family_and_depth(net.arch): net for net in sorted(nets, key=lambda net: family_and_depth(net.arch))
            if default_width(net.arch) == width}  # fmt: skip


def train_loss(net, seeds=None):
    """The training loss of the last epoch, averaged over seeds (default: all)."""
    return float(np.mean([net.runs[seed]["curve"][-1]["train_loss"] for seed in seeds or net.seeds]))


def ablation_table(arch, comparisons, results):
    rows = [["knobs", "parameters", "MACs, M", "top-1", "difference", "Holm p", "detectable", "verdict"]]
    default = [Comparison(net, net) for net in results.nets if net.arch == arch and not net.settings]
    for result in default + comparisons:
        rows.append([
            result.net.knobs or "(default)", f"{result.net.costs['parameters']:,}", f"{result.net.costs['MACs'] / 1e6:.1f}",
            top1_cell(results, result.net), difference_cell(result), p_values(result)[1],
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
        p = each.p_holm if each.word else math.nan  # where nothing was tested
        rows.append([
            each.both.arch, interval(first, "+"), interval(second, "+"), f"{first.mean + second.mean:+.2f}",
            interval(each.together, "+"), interval(each.estimate, "+"), p_value(p), each.word or "-",
        ])  # fmt: skip
    return rows


def superclass_table(found):
    """One row per superclass with a cell that stands out, one column per method; all other cells are empty. None if no cell
    stands out."""
    if not found.readable.any():
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
        table.append([name, *(f"{difference_cell(r)} {r.word}".rstrip() if r else "-" for r in found)])
    return table


def markdown(table):
    """A table as Markdown; columns of numbers are aligned to the right."""
    if len(table) == 1:
        return "Nothing to compare."
    columns = zip(*table[1:], strict=True)
    rule = ["--:" if all(re.match(r"[-+<\d]|$", cell) for cell in cells) else "---" for cells in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in [table[0], rule, *table[1:]])
