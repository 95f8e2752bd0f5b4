"""slides.pptx: a talk of 8 to 10 minutes, at most twelve slides, and an appendix with the tables.

At most 40 words stand on a slide; the numbers behind it are in the speaker's notes.
"""

import math

import numpy as np

from answer import ablation_sentence, cost_sentence, epochs_of, opening, power_sentence, readable, verdict_lists
from budgets import budget_table, changes, what_differs
from charts import chart_of, draw_ablations, draw_budgets, draw_cost, draw_differences, told_ablations
from deck import Deck
from drawings import around_a_stage, residual_block, stages
from method import NOISE
from modules import modules_of
from nets import COSTS
from provenance import bias_text, dataset_of, left_out_text, shared_recipe, speed_text
from rows import family_and_depth, in_list
from tables import (
    ablation_table,
    depth_table,
    equal_cost_table,
    folds_table,
    interaction_table,
    interval,
    main_table,
    recipes_table,
    verdict_table,
)
from team import title_of

SLOTS = {  # slot -> (what it takes the place of, its drawing)
    "conv": ("Convolution", residual_block("module", "module")),
    "attention": ("Attention before the add", residual_block(attention="module")),
    "block": ("Whole block", stages("module")),
    "stage": ("Whole stage", around_a_stage("part of the channels")),
}
NAMES_PER_WORD = 4  # of methods below a word; the notes have the rest


def write_slides(path, results, charts, team=None, conditions=()):
    """Writes the talk and its appendix; the pictures of `charts` that the appendix shows are taken from path's folder."""
    deck, seeds = Deck(), sorted({seed for net in results.nets for seed in net.seeds})
    row = results.row
    budget = f"{dataset_of(row)}, {epochs_of(row)}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    deck.cover(title_of(team), [*([team.byline] if team else []), budget])
    deck.text(
        "Which module is worth adding?",
        answer_lines(results),
        notes="\n".join([*opening(results), *word_lines(results)]),
    )
    resnet_slide(deck, results)
    methods_slide(deck, results)
    deck.text("How it was compared fairly", fair_lines(results, seeds), notes=fair_notes(results))
    if "differences" in charts:
        deck.chart("Differences from the baseline", draw_differences, results, notes="\n".join(word_lines(results)))
    cost = best_cost(results)
    if cost and results.methods:
        deck.chart(f"Accuracy against {cost}", draw_cost, results, cost, notes=cost_notes(results))
    if len(conditions) > 1:
        deck.chart(
            f"What the {what_differs(conditions)} changes",
            draw_budgets,
            results,
            conditions,
            notes=budget_notes(conditions),
        )
    if told_ablations(results):
        deck.chart("Ablations", draw_ablations, results, notes=ablation_notes(results))
    if results.judged:
        deck.columns("What helped and what did not", word_columns(results), notes="\n".join(word_lines(results)))
    deck.text("Limits and future work", limit_lines(results), notes=limit_notes(results))
    if team:
        deck.text("Contributions", [f"{name}: {did}" for name, did in team.members])
    appendix(deck, results, charts, path.parent)
    deck.file.save(path)


def answer_lines(results):
    """The answer in three lines at most."""
    if not results.judged:
        return opening(results)[:1]
    helps, row = results.by_word("helps"), results.row
    names = in_list([readable(result.net) for result in helps[:3]] + [f"{len(helps) - 3} more"] * (len(helps) > 3))
    counts = []
    for word, one, many in (
        ("hurts", "hurts", "hurt"),
        ("no better than widening", "is not shown to beat widening", "are not shown to beat widening"),
        ("no evidence", "shows no evidence", "show no evidence"),
        ("unstable", "is unstable", "are unstable"),
    ):
        n_found = len(results.by_word(word))
        counts += [f"{n_found} {one if n_found == 1 else many}"] if n_found else []
    helped = (
        f"{len(helps)} of {len(results.judged)} help: {names}." if helps else f"None of {len(results.judged)} helps."
    )
    rest = [f"{', '.join(counts)}."] if counts else []
    return [helped, *rest, f"After {epochs_of(row)}; longer training may change the order."]


def word_lines(results):
    return [f"{word}: {names}" for word, names in verdict_lists(results)]


def word_columns(results):
    """(word, names of the methods that earned it), the best first, the rest counted."""
    found = []
    for word, _ in verdict_lists(results):
        names = [readable(result.net) for result in results.by_word(word)]
        rest = [f"and {len(names) - NAMES_PER_WORD} more"] if len(names) > NAMES_PER_WORD else []
        found.append((word, names[:NAMES_PER_WORD] + rest))
    return found


def resnet_slide(deck, results):
    """The baseline's block and its size."""
    baselines = [net for net in results.nets if net.on_curve and not net.settings]
    if not baselines:
        return
    net = baselines[0]
    family = family_and_depth(net.arch)
    layers = f"{family[1]} layers, " if family else ""
    size = f"{layers}{net.costs['parameters']:,} parameters, {net.costs['MACs'] / 1e6:.1f} million MACs"
    title = "The ResNet" if family and family[0] == "resnet" else f"The baseline: {net.arch}"
    notes = [f"{each.arch}: top-1 {interval(results.top1(each))} %" for each in baselines]
    shortcut = "A block adds what it computes to its input."
    if family:
        deck.drawings(title, [(residual_block(), shortcut, size)], notes="\n".join(notes))
    else:
        deck.text(title, [size], notes="\n".join(notes))


def methods_slide(deck, results):
    """Where each method goes: a drawing for each slot with the names of those that fill it."""
    modules = modules_of(results.networks)
    parts = []
    for slot, (heading, shapes) in SLOTS.items():
        names = [module.name.removesuffix(" attention") for module in modules.values() if module.slot == slot]
        if names:
            parts.append((shapes, heading, ", ".join(names)))
    if parts:
        notes = "\n".join(f"{module.name} ({module.paper}): {' '.join(module.lines)}" for module in modules.values())
        deck.drawings("Where each method goes", parts, notes=notes)


def fair_lines(results, seeds):
    recipe = "each its own recipe" if results.own_recipes else "one recipe"
    lines = [f"Same data, same {epochs_of(results.row)}, {recipe}", f"Seeds {in_list(seeds)}, paired"]
    if results.has_curve:
        lines.append("Against the ResNet, and against ResNets of equal cost")
    if results.judged:
        lines.append(f"Corrected for {len(results.judged)} comparisons")
    return lines


def fair_notes(results):
    row = results.row
    data = f"{dataset_of(row)}: {row['n_train']:,} images to train on, {row['n_val']:,} held out, {row['n_test']:,} to test."
    recipe = ", ".join(f"{name} {value}" for name, value in shared_recipe(results).items() if value is not None)
    return "\n".join([data, f"Recipe: {recipe}.", NOISE, speed_text(results)])


def best_cost(results):
    """The cost at which most methods can be compared with the curve, parameters before MACs before time; None without any."""
    drawn = [cost for cost in COSTS if any(net.can_compare(cost) for curve in results.curves.values() for net in curve)]

    def n_compared(cost):
        return sum(not result.gaps[cost].why for result in results.methods if cost in result.gaps)

    return max(drawn, key=n_compared) if drawn else None


def cost_notes(results):
    lines = [cost_sentence(results)]
    for result in results.methods:
        gaps = [f"{gap.mean:+.2f} ± {gap.half:.2f} at equal {cost}" for cost, gap in result.gaps.items() if not gap.why]
        lines += [f"{readable(result.net)}: {', '.join(gaps)}"] if gaps else []
    return "\n".join(lines)


def budget_notes(conditions):
    told = [f"{name}: {what}" for name, what in changes(conditions)] or ["No word and no sign changes."]
    return "\n".join([*told, *("; ".join(row) for row in budget_table(conditions))])


def ablation_notes(results):
    return "\n".join(f"{arch}: {ablation_sentence(arch, compared)}" for arch, compared in results.ablations.items())


def limit_lines(results):
    lines = [f"One dataset, {epochs_of(results.row)}"]
    sizes = [result.detectable for result in results.judged if not math.isnan(result.detectable)]
    lines += [f"Differences below {np.median(sizes):.1f} points stay open"] if sizes else []
    lines += [] if results.own_recipes else ["One recipe for all, not each method's own"]
    return [*lines, "Next: longer training, more seeds, a second dataset"]


def limit_notes(results):
    lines = [power_sentence(results.judged)] if results.judged else []
    return "\n".join([*lines, bias_text(results), *left_out_text(results)])


def appendix(deck, results, charts, folder):
    """Every table, and the charts that the talk leaves out."""
    tables = [
        ("verdicts", verdict_table(results) if results.methods else None),
        ("recipes", recipes_table(results)),
        ("all networks", main_table(results)),
        ("two modules together", interaction_table(results) if results.interactions else None),
        ("depth with and without shortcuts", depth_table(results)),
        ("cross-validation", folds_table(results)),
        (
            "points over a ResNet of equal cost",
            equal_cost_table(results) if results.methods and results.has_curve else None,
        ),
        *(
            (f"ablations of {arch}", ablation_table(arch, compared, results))
            for arch, compared in results.ablations.items()
        ),
    ]
    for title, table in tables:
        if table:
            deck.table(f"Appendix: {title}", table)
    in_talk = ("differences", "budgets", "ablations", chart_of(best_cost(results)) if best_cost(results) else "")
    for name, title in charts.items():
        if name not in in_talk:
            deck.picture(f"Appendix: {title[0].lower()}{title[1:]}", folder / f"{name}.png")
