"""One comparison at several budgets, or with several recipes: how each method's difference from the baseline changes."""

from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from nets import read_cost_pass
from rows import in_list, read_rows, refuse
from tables import interval
from verdicts import Results, analyse

OWN, ONE = "own recipes", "one recipe"


@dataclass
class Condition:
    """A folder's results and what tells them from the other folders', such as '45 epochs'."""

    folder: Path
    results: Results
    label: str = ""

    @property
    def epochs(self):
        return self.results.row["epochs"]

    @property
    def recipe(self):
        """Whether all architectures share one recipe or each has its own."""
        return OWN if self.results.own_recipes else ONE

    @property
    def methods(self):
        """The methods that can be compared with their baseline, by architecture."""
        return {result.net.arch: result for result in self.results.methods if result.seeds}


def read_conditions(folders):
    """[folder] -> [Condition], the smallest budget first; refuses folders that make no common chart."""
    found = []
    for folder in folders:
        found.append(Condition(folder, analyse(read_rows(folder), read_cost_pass(folder))))
    first = found[0]
    for other in found[1:]:
        for name in ("dataset", "n_test"):
            if other.results.row[name] != first.results.row[name]:
                refuse(f"one chart cannot show two datasets: {name} is {first.results.row[name]} in {first.folder} and "
                       f"{other.results.row[name]} in {other.folder}; report them apart")  # fmt: skip
    if len(found) > 1 and not set.intersection(*(set(each.methods) for each in found)):
        refuse(f"{in_list(folders)} share no method that was trained with its baseline in each: report them apart")
    found.sort(key=lambda each: (each.epochs, each.recipe))
    with_recipe = len({each.recipe for each in found}) > 1
    for each in found:
        each.label = f"{each.epochs} epochs" + f", {each.recipe}" * with_recipe
    for each, other in pairwise(found):
        if each.label == other.label:
            refuse(f"{each.folder} and {other.folder} have the same budget ({each.label}): report them apart")
    return found


def what_differs(conditions):
    """'budget', 'recipe' or 'budget and recipe': what tells the conditions apart."""
    differs = [("budget", "epochs"), ("recipe", "recipe")]
    return in_list([name for name, of in differs if len({getattr(each, of) for each in conditions}) > 1])


def shared_methods(conditions):
    """The methods that were compared in two of the conditions at least, in the order of the last condition."""
    names = dict.fromkeys(name for each in reversed(conditions) for name in each.methods)
    return [name for name in names if sum(name in each.methods for each in conditions) > 1]


def budget_table(conditions):
    """A row per method with its difference and word in each condition."""
    table = [["method", *(each.label for each in conditions)]]
    for name in shared_methods(conditions):
        found = [each.methods.get(name) for each in conditions]
        table.append([name, *(f"{interval(r.estimate, '+')} {r.word}".rstrip() if r else "-" for r in found)])
    return table


def changes(conditions):
    """[(method, what changes)] for the methods whose word, or the sign of whose mean, is not the same in all conditions."""
    found = []
    for name in shared_methods(conditions):
        results = [each.methods[name] for each in conditions if name in each.methods]
        words = [word for word, _ in groupby(result.word for result in results if result.word)]
        signs = {np.sign(result.mean) for result in results if not result.unstable}
        what = ["from " + " to ".join(words)] if len(words) > 1 else []
        what += ["its mean changes sign"] if len(signs) > 1 else []
        if what:
            found.append((name, "; ".join(what)))
    return found
