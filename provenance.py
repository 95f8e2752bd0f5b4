"""Where the numbers come from: what was compared and how, machines, speeds, and what is left out."""

import math
from collections import Counter

import numpy as np

from nets import machine
from rows import family_and_depth, in_list, recipe_of


def dataset_of(row):
    """The dataset's name as its authors write it."""
    return {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(row["dataset"], row["dataset"])


def in_words(recipe):
    return ", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)


def shared_recipe(results):
    """The settings that all networks share."""
    return {name: value for name, value in recipe_of(results.row).items() if name not in results.own_recipes}


def design_table(results):
    """What was compared and how: a row per part of the design."""
    row, recipe = results.row, shared_recipe(results)
    seeds = sorted({seed for net in results.nets for seed in net.seeds})
    scored = "once, after the last epoch" if row["n_val"] else "after every epoch, of which the last counts"
    table = [
        ["part", "value"],
        ["data", f"{dataset_of(row)}: {row['classes']} classes; {row['n_train']:,} images to train on, {row['n_val']:,} held out, "
                 f"{row['n_test']:,} to test"],
        ["budget", f"{row['epochs']} epochs" + f", {row['batch_size']} images a step" * ("batch_size" in recipe)],
    ]  # fmt: skip
    told = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup_frac", "label_smoothing", "amp")
    table.append(["recipe", in_words({name: recipe[name] for name in told if name in recipe})])
    if results.own_recipes:
        table[-1][1] += f"; each architecture has its own {in_list(results.own_recipes)}"
    table.append(
        ["seeds", f"{in_list(seeds)}, the same for all: a seed sets the order and the augmentation of the images"]
    )
    table.append(["test set", f"scored {scored}; nothing is chosen on it"])
    for backbone, curve in results.curves.items():
        baseline = curve[-1] if curve else None
        for net in curve:
            baseline = net if not net.settings else baseline
        family, widths = family_and_depth(backbone), in_list([net.width for net in curve])
        layers = f", {family[1]} layers" if family else ""
        if baseline:
            table.append(["baseline", f"{backbone}{layers}: {baseline.costs['parameters']:,} parameters, "
                          f"{baseline.costs['MACs'] / 1e6:.1f} million MACs an image"])  # fmt: skip
        if len(curve) > 1:
            table.append(["equal cost", f"{backbone} at widths {widths}: what the same cost buys without a module"])
    machines = {machine(each) for net in results.nets for each in net.runs.values()}
    table.append(
        ["machines", next(iter(machines)) if len(machines) == 1 else f"{len(machines)} kinds, listed at the end"]
    )
    return table


def speed_text(results):
    """Where the speeds come from, and which of them cannot be compared."""
    timed = [net for net in results.networks if net.cost_pass]
    of_trainings = [net.name for net in results.networks if not net.cost_pass]
    if not timed:
        return ("Speeds are those of the trainings themselves, medians over the seeds; whatever else ran on the machine slowed "
                "them, so they are not compared. A cost pass (cost.json, see compare.sh) measures all networks side by side.")  # fmt: skip
    about = ", ".join(f"{k} {v}" for k, v in results.cost_pass.items() if k != "rows")
    text = f"Speeds are medians of interleaved rounds of the cost pass ({about})"
    if of_trainings:
        text += f", which has not timed {in_list(of_trainings)}"
    shared = [name for name in ("amp", "compile", "batch_size") if name in results.cost_pass and name in results.row]
    other = [name for name in shared if results.cost_pass[name] != results.row[name]]
    return text + "." + f" The trainings had another {in_list(other)} than the cost pass." * bool(other)


def machines_text(results):
    """Which networks were trained on which machines, as a list; '' if all were on one kind."""
    found = by_machine((net.name, net) for net in results.networks)
    if len(found) < 2:
        return ""
    intro = "Memory and minutes can be compared between networks of one kind of machine only:"
    return "\n\n".join([intro, "\n".join(f"- {machines}: {', '.join(names)}" for machines, names in found.items())])


def by_machine(named_nets):
    """(name, net) -> {kinds of machine: names of the nets trained there}."""
    names_of = {}
    for name, net in named_nets:
        names_of.setdefault(in_list(sorted({machine(row) for row in net.runs.values()})), []).append(name)
    return names_of


def trained_where(named_nets):
    """Which of the (name, net) were trained on which kinds of machine, as a sentence; '' if all were on one."""
    found = by_machine(named_nets)
    where = "; ".join(f"{in_list(names)} on {machines}" for machines, names in found.items())
    return f"Different machines: {where}." if len(found) > 1 else ""


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
            ["epochs", str(rows[0]["epochs"])], *origins(rows)]  # fmt: skip


def origins(rows):
    """What the rows were measured on and with: [[what, the values and how many runs have each]]."""

    def counted(values):
        return "; ".join(f"{value} ({n} runs)" for value, n in sorted(Counter(map(str, values)).items()))

    return [["machines", counted(map(machine, rows))], ["torch", counted(row["torch"] for row in rows)],
            ["commits", counted(str(row["commit"])[:7] for row in rows)]]  # fmt: skip
