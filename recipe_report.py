"""Compares recipes instead of networks, on the validation split."""

import numpy as np

from nets import Net
from provenance import in_words, origins
from rows import differing, in_list, recipe_of, refuse
from tables import markdown

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
    differ = differing(recipes)
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
