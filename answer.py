"""The report's sentences, computed from the results."""

import math
from collections import Counter

import numpy as np

from nets import machine
from noise import POWER
from rows import family_and_depth, in_list, recipe_of
from tables import by_depth, depth_table, interval, pm, train_loss


def members(comparisons):
    return in_list([f"{result.net.name} {pm(result.mean, result.half, '+')}" for result in comparisons])


def opening(results):
    """The answer in three sentences."""
    if any(result.too_early for result in results.methods):
        return [too_early_sentence(results)]
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


def too_early_sentence(results):
    (name, *_) = sorted({result.reference.name for result in results.methods if result.too_early})
    row = results.row
    return (
        f"This budget is too short for a verdict: after {row['epochs']} epoch{'s' * (row['epochs'] > 1)} {name} itself is no "
        f"better than guessing one of {row['classes']} classes."
    )


def depth_sentences(results):
    """What more layers did to each kind of network."""
    sentences = []
    for family, words in (("plain", "networks without shortcuts"), ("resnet", "ResNets")):
        nets = [net for key, net in by_depth(results).items() if key[0] == family]
        if len(nets) < 2:
            continue
        shallow, deep = nets[0], nets[-1]
        layers = [family_and_depth(net.arch)[1] for net in (shallow, deep)]
        change, rise = interval(results.difference(deep, shallow), "+"), train_loss(deep) - train_loss(shallow)
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
