"""Comparisons of the same methods under several conditions: budgets, or one recipe for all against one for each."""

from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from rows import (
    SHARED,
    differing,
    epochs_of,
    in_list,
    read_cost_pass,
    read_rows,
    recipe_of,
    refuse,
    steps_of,
    without_result,
)
from verdicts import Results, analyse

OWN, ONE = "own recipes", "one recipe"
UNCHANGED = "No verdict changes, and no difference whose interval excludes 0 changes its sign."
SAME = ("dataset", "n_test", "classes", "data", "image_size")  # under all conditions


@dataclass
class Condition:
    """One folder's results, and a label that distinguishes it from the other folders: '45 epochs'."""

    folder: Path
    results: Results
    label: str = ""

    @property
    def budget(self):
        return epochs_of(self.results.row)

    @property
    def recipe(self):
        """Whether all architectures share one recipe or each has its own."""
        return OWN if self.results.own_recipes else ONE

    @property
    def methods(self):
        """The methods compared with their baseline, by name; by architecture if each has its own recipe, to which knobs belong."""
        compared = [result for result in self.results.methods if result.seeds]
        return {result.net.arch if self.results.own_recipes else result.net.name: result for result in compared}


def read_conditions(folders):
    """[folder] -> [Condition], the smallest budget first; refuses folders that cannot share a chart."""
    found = []
    for folder in folders:
        results = analyse(read_rows(folder), read_cost_pass(folder))
        results.without_result = without_result(folder)
        found.append(Condition(folder, results))
    first = found[0]
    for other in found[1:]:
        for name in SAME:
            if other.results.row.get(name) != first.results.row.get(name):
                refuse(f"one chart cannot show two datasets: {name} is {first.results.row.get(name)} in {first.folder} and "
                       f"{other.results.row.get(name)} in {other.folder}; report them separately")  # fmt: skip
    if len(found) > 1 and not set.intersection(*(set(each.methods) for each in found)):
        refuse(f"{in_list(folders)} share no method that was trained with its baseline in each: report them separately")
    found.sort(key=lambda each: (steps_of(each.results.row) * each.results.row["batch_size"], each.recipe))
    with_recipe = len({each.recipe for each in found}) > 1
    for each in found:
        each.label = each.budget + f", {each.recipe}" * with_recipe
    for each, other in pairwise(found):
        if each.label == other.label:
            refuse(f"{each.folder} and {other.folder} have the same budget ({each.label}): report them separately")
    return found


def what_differs(conditions):
    """What differs between conditions: 'budget', 'recipe' or both, and settings of a shared recipe such as 'lr'."""
    differs = [name for name in ("budget", "recipe") if len({getattr(each, name) for each in conditions}) > 1]
    own = {name for each in conditions for name in each.results.own_recipes}
    shared = [{name: value for name, value in recipe_of(each.results.row).items() if name not in (*SHARED, *own)}
              for each in conditions]  # fmt: skip
    return in_list([*differs, *differing(shared)])


def shared_methods(conditions):
    """The methods compared under two or more of the conditions, in the order of the last condition."""
    names = dict.fromkeys(name for each in reversed(conditions) for name in each.methods)
    return [name for name in names if sum(name in each.methods for each in conditions) > 1]


def changes(conditions):
    """[(method, what changes)] for methods whose word, or whose sign beyond its interval, changes between conditions."""
    found = []
    for name in shared_methods(conditions):
        results = [each.methods[name] for each in conditions if name in each.methods]
        words = [word for word, _ in groupby(result.word for result in results if result.word)]
        clear = [result for result in results if not (result.unstable or abs(result.mean) <= result.half)]
        signs = {np.sign(result.mean) for result in clear}  # one seed has no interval: every mean counts
        what = ["from " + " to ".join(words)] if len(words) > 1 else []
        what += ["its mean changes sign"] if len(signs) > 1 else []
        if what:
            found.append((name, "; ".join(what)))
    return found
