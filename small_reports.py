"""The two smaller reports: what networks cost without training, and which recipe is best on the validation split."""

import csv
import re

import numpy as np

from charts import place_labels, plain_ticks, render
from notes import conditions_of, in_words, latency_text, origins
from rows import Net, differing, in_list, is_number, latencies_in, problem_of_latencies, read_json, recipe_of, refuse
from tables import markdown, with_latencies

COSTS_MEASURED = ("image_size", "params", "macs", "train_step_ms", "train_imgs_per_s", "eval_imgs_per_s", "train_tflops",
                  "peak_memory_mb")  # fmt: skip
COSTS_REPORT = """\
# What networks cost

{table}

Measured with {conditions}, each network with 100 classes and in its own process. A step trains on one batch of {batch_size} images. TFLOP/s
count six operations per MAC: a multiplication and an addition forward, and twice as many backward. Memory, evaluation included,
is the peak allocated on the GPU or, without a GPU, the peak of the process, which includes a few hundred MB of Python and torch.

{latency}

{problems}

{charts}
"""


def read_costs(path):
    """costs.json, as speed.py writes it; refuses a file with an incomplete row."""
    costs = read_json(path)
    for row in costs.get("rows") or [{}]:
        wanted = ("image_size",) if "problem" in row else COSTS_MEASURED
        if problem := problem_of_latencies(row):
            refuse(f"{path} cannot be used: {problem}")
        if not ("arch" in row and "settings" in row and all(is_number(row.get(name), 0) for name in wanted)):
            refuse(f"{path} cannot be used: a row needs arch, settings and {', '.join(wanted)}, got {row}")
    return costs


def per_s(speed):
    """'1,234', or '1.2' for a slow network."""
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


def costs_table(rows, costs):
    """One row per network and image size, including the networks that could not be measured; costs: all of the file."""
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
    return with_latencies(table, costs, rows)


def draw_costs(figure, rows):
    """Time of a training step against MACs, with the line on which all networks would lie at the best TFLOP/s measured."""
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
    rows = sorted(costs["rows"], key=lambda row: row["image_size"])  # stable: each size keeps the list's order
    table = costs_table(rows, costs)
    measured = [*COSTS_MEASURED, *(name for _, *fields in latencies_in(costs) for name in fields)]
    with (out / "costs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, ["arch", "settings", *measured, "problem"], extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(row | {"settings": Net(row["arch"], row["settings"]).knobs} for row in rows)
    charts = []
    for size in sorted({row["image_size"] for row in rows if "problem" not in row}):
        of_size = [row for row in rows if row["image_size"] == size and "problem" not in row]
        render(out / f"costs_{size}.png", draw_costs, of_size)
        charts.append(f"![Step time against MACs at {size}x{size} pixels](costs_{size}.png)")
    problems = [f"- {row['arch']} at {row['image_size']}: {row['problem']}" for row in rows if "problem" in row]
    text = COSTS_REPORT.format(
        table=markdown(table),
        conditions=conditions_of(costs),
        batch_size=costs["batch_size"],
        latency=latency_text(costs),
        problems="\n".join(["Not measured:", "", *problems]) if problems else "",
        charts="\n\n".join(charts),
    )
    (out / "costs.md").write_text(re.sub("\n{3,}", "\n\n", text), encoding="utf-8")
    print(markdown(table))
    print(f"written: {out}/costs.md, costs.csv and {len(charts)} charts")


# -------------------------------------------------------------------------------------------------------------- recipes


DEFAULT = "(default)"  # no knob set
RECIPES_REPORT = """\
# Which recipe?

Top-1 in percent on {n_val:,} held-out training images after the last epoch, averaged over seeds, best first. Rows also
differ by chance, more so if their seeds differ. The test set plays no part here.

{tables}

All recipes share: {shared}.

{origins}
"""


def report_recipes(rows, out, without_result):
    """Writes recipes.md and prints its table: each network's top-1 on the validation split under each recipe.

    without_result: lines on runs without a result. A recipe is named by the settings that differ between the runs. Refuses runs
    that held nothing out: a recipe chosen on the test set would bias what is then measured there.
    """
    if any(row["val_top1"] is None for row in rows):
        refuse("recipes are compared on held-out images, and some of these runs watched the test set (--val-size 0)")
    if len({(row["dataset"], row["n_val"]) for row in rows}) > 1 or any(row.get("folds") for row in rows):
        refuse(
            "recipes are compared on one held-out part of one dataset: report other datasets separately, and folds without --recipes"
        )
    recipes = [recipe_of(row) for row in rows]
    differ = differing(recipes)
    top1 = {}  # arch -> (knobs, recipe) -> seed -> value
    for row, recipe in zip(rows, recipes, strict=True):
        key = Net(row["arch"], row["settings"]).knobs or DEFAULT, *(str(recipe.get(name)) for name in differ)
        of_seed = top1.setdefault(row["arch"], {}).setdefault(key, {})
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
    if without_result:
        text += "\nWithout a result:\n\n" + "".join(f"- {line}\n" for line in without_result)
    unfinished = out / "recipes.tmp"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out / "recipes.md")  # board.py takes a report with this file as complete
    for arch, table in tables.items():
        print(f"{arch}\n{table}\n")
    print(f"written: {out}/recipes.md")


def recipes_table(differ, top1):
    """One row per recipe of an architecture, the best first. top1: (knobs, *values of `differ`) -> {seed: top-1}."""
    table = [["knobs", *differ, "top-1", "seeds", "each seed"]]
    for how, of_seed in sorted(top1.items(), key=lambda item: -np.mean(list(item[1].values()))):
        seeds, values = zip(*sorted(of_seed.items()), strict=True)
        table.append([*how, f"{np.mean(values):.2f}", in_list(seeds), ", ".join(f"{value:.2f}" for value in values)])
    if all(knobs == DEFAULT for knobs, *_ in top1):
        table = [row[1:] for row in table]
    return table
