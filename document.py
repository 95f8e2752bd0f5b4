"""The report as a document: report.md, the same as one page of HTML, and the rows as results.csv."""

import base64
import csv
import re
import shlex
from html import escape

from markdown import markdown as to_html

from budgets import UNCHANGED, changes, what_differs
from names import has_bottlenecks
from noise import ALPHA
from notes import (
    DETECTABLE,
    EQUAL_COST,
    FAMILY,
    NO_CURVE,
    RULE,
    bias_text,
    dataset_of,
    design_table,
    few_images_text,
    in_words,
    latency_text,
    left_out_text,
    machines_text,
    modules_of,
    noise_text,
    provenance,
    shared_recipe,
    simulation_text,
    speed_text,
    timed_on,
    trained_where,
)
from rows import MEASURED, epochs_of, flags_of, latencies_in
from sentences import ablation_sentence, cost_sentence, opening, power_sentence, readable, verdict_lists
from tables import (
    ablation_table,
    budget_table,
    depth_table,
    equal_cost_table,
    folds_table,
    interaction_table,
    main_table,
    markdown,
    recipes_table,
    superclass_table,
    verdict_table,
)
from team import title_of


def report_text(results, charts, folders, team, conditions, pair):
    """report.md: question, answer, design, methods, results, cost, ablations, limits, and how to repeat every number.

    charts: {file's name: title} of the charts that were drawn. folders: the conditions', as the text names
    them; the results' comes last. conditions: see budgets.py. pair: two networks, see pictures.py.
    """

    def chart(name):
        return f"![{charts[name]}]({name}.png)" if name in charts else ""

    parts = [
        f"# {title_of(team)}",
        " ".join(opening(results)),
        f"*{team.byline}*" if team else "",
        chart("differences"),
        words_text(results),
        "## What was compared and how",
        markdown(design_table(results)),
        recipes_text(results),
        methods_text(results),
        "## Results",
        verdicts_text(results),
        budgets_text(conditions, chart("budgets")),
        interactions_text(results),
        networks_text(results),
        depth_text(results),
        folds_text(results),
        learning_text(results, chart("learning")),
        superclasses_text(results, chart("superclasses")),
        pair_text(pair, [chart(name) for name in ("confusion", "reliability", "disagreements")]),
        cost_text(results, [chart(name) for name in ("cost_parameters", "cost_macs", "cost_time")]),
        ablations_text(results, chart("ablations")),
        limits_text(results),
        method_text(results),
        repeat_text(results, folders),
        contributions_text(team),
    ]
    return re.sub("\n{3,}", "\n\n", "\n\n".join(part for part in parts if part)) + "\n"


def bullets(compared, name_of):
    return "\n".join(f"- {name_of(result.net)}: {result.remark}" for result in compared if result.remark)


def words_text(results):
    """The methods that got each word."""
    lines = [f"- **{word}**: {names}" for word, names in verdict_lists(results)]
    return "\n".join([*lines, "\nThese verdicts are defined under *How differences are judged*."]) if lines else ""


def recipes_text(results):
    table = recipes_table(results)
    if not table:
        return ""
    return (
        "### Recipes\n\nEach architecture was trained with its own recipe, so a difference comes from module and recipe together. "
        f"The recipes differ in these settings and share the rest.\n\n{markdown(table)}"
    )


def methods_text(results):
    """Each method in three lines, beside a drawing of where it goes."""
    modules = modules_of(results.networks)
    if not modules:
        return ""
    intro = (
        "The slim ResNet is a chain of basic blocks. Each has two 3x3 convolutions, and their result is added to the block's "
        "input. Drawings and texts show each module inside this ResNet; the coloured parts belong to the module."
    )
    if any(has_bottlenecks(net.arch) for net in results.networks):
        intro += (
            " The blocks of ResNet-50, 101 and 152 are bottlenecks: a conv module replaces their one 3x3 convolution."
        )
    table = [
        ["where it goes", "what it is"],
        [
            "![The ResNet's basic block](block_resnet.svg)",
            "**ResNet**<br>He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
        ],
    ]
    for method, module in modules.items():
        lines = "<br>".join(module.lines)
        table.append(
            [
                f"![{module.name}, slot {module.slot}](block_{method}.svg)",
                f"**{module.name}** (`{method}`)<br>{lines}<br>*{module.paper}*",
            ]
        )
    return f"## The methods\n\n{intro}\n\n{markdown(table)}"


def verdicts_text(results):
    if not results.methods:
        return ""
    table = markdown(verdict_table(results))
    return "\n\n".join(
        ["### Verdicts", table, bullets(results.methods, lambda net: net.name), differences_text(results)]
    )


def differences_text(results):
    n = len(results.judged)
    covered = f"the {n} methods judged" if n > 1 else "the one method judged"
    family = f"{FAMILY.format(judged=covered)} {DETECTABLE.format(m=n)}" if n else ""
    return (
        "A difference is the method's top-1 minus that of the baseline, the plain backbone, over the seeds that both have: mean "
        f"± 95% interval, with the two-sided p. Parameters, MACs and training time are ratios to the baseline's{timed_on(results)}. {family}"
    ).rstrip()


def budgets_text(conditions, chart):
    if len(conditions) < 2:
        return ""
    told = [f"- {name}: {what}" for name, what in changes(conditions)]
    changed = "What changes:\n\n" + "\n".join(told) if told else UNCHANGED
    intro = (
        f"Points of top-1 over the baseline with the same {what_differs(conditions)}: mean ± 95% interval, if there is one, and the "
        "verdict there. The chart leaves out unstable methods. The rest of this report is about the last column."
    )
    parts = [f"### Effect of the {what_differs(conditions)}", intro, markdown(budget_table(conditions)), changed, chart]
    return "\n\n".join(parts)


def interactions_text(results):
    if not results.interactions:
        return ""
    note = (
        "Do the gains of two modules add up? *Interaction* is the gain of both together minus the sum of their separate gains: "
        "mean ± 95% interval. Holm's correction covers this table."
    )
    return f"### Two modules together\n\n{note}\n\n{markdown(interaction_table(results))}"


def networks_text(results):
    if not results.networks:
        return ""
    note = (
        "Top-1, top-5 and ECE (expected calibration error) are percentages on the test set, averaged over seeds; top-1 has its 95% "
        "interval where there is one. The training loss is the last epoch's mean. MACs are per image. Memory is the peak of the "
        "process, which holds all runs that train side by side."
    )
    measured = speed_text(results), latency_text(results.cost_pass), machines_text(results)
    parts = ["### All networks", markdown(main_table(results)), note, *measured]
    return "\n\n".join(part for part in parts if part)


def depth_text(results):
    table = depth_table(results)
    if not table:
        return ""
    note = (
        "Top-1 ± 95% interval, or each seed's if only some ended at chance. Differences are over the seeds that both have, and "
        "left out if only some of these ended at chance. If the training loss rises with depth, the network is harder to "
        "optimize (degradation). If it falls together with top-1, the network overfits."
    )
    return f"### Depth\n\n{markdown(table)}\n\n{note}"


def folds_text(results):
    table = folds_table(results)
    if not table:
        return ""
    note = (
        f"Top-1 on the held-out training images: mean over {results.row['folds']} folds ± 95% t-interval over seeds. Each fold is "
        "averaged over seeds before the spread, the lowest and the highest are taken. Test accuracies, speeds and times in the "
        "rest of this report are means over the folds."
    )
    return f"### Cross-validation\n\n{markdown(table)}\n\n{note}"


def learning_text(results, chart):
    watched = "the validation images" if results.row["n_val"] else "the test set"
    note = f"Top-1 on {watched} after each epoch, averaged over seeds."
    note += " An unstable method has a line for each seed." * (len(results.stable) < len(results.methods))
    return f"### Learning curves\n\n{note}\n\n{chart}" if chart else ""


def superclasses_text(results, chart):
    found = results.superclasses
    if found is None:
        return ""
    note = (
        f"Points of top-1 over the baseline in each superclass of five classes, on these test images. {found.sentence}"
    )
    table = superclass_table(found)
    shown = [chart or markdown(table) + "\n\nSuperclasses without such a cell are left out."] if table else []
    return "\n\n".join(["### Superclasses", note, *shown])


def pair_text(pair, charts):
    """Two networks on the test images, one run of each."""
    if pair is None:
        return ""
    return "\n\n".join(["### Two networks on the test images", pair.sentence, *(chart for chart in charts if chart)])


def cost_text(results, charts):
    """Accuracy against cost, and the differences from the widening curve."""
    if not results.methods:
        parts = charts
    elif results.has_curve:
        parts = [cost_sentence(results), *charts, "### Equal cost", markdown(equal_cost_table(results)), EQUAL_COST]
    else:
        parts = [*charts, "### Equal cost", NO_CURVE]
    return "\n\n".join(["## Cost", *(part for part in parts if part)]) if any(parts) else ""


def ablations_text(results, chart):
    """A sentence and a table for each architecture whose knobs were varied."""
    if not results.ablations:
        return ""
    parts = ["## Ablations", chart]
    for arch, compared in results.ablations.items():
        where = trained_where((net.knobs or "(default)", net) for net in results.nets if net.arch == arch)
        n = max(result.family_size for result in compared)
        level = f"*Detectable* is at the level {ALPHA} / {n} here." if results.judged else DETECTABLE.format(m=n)
        note = f"Differences are from {arch} with its defaults." + " Holm's correction covers this table." * bool(n)
        note = " ".join(text for text in (note, level * bool(n), where) if text)
        table = markdown(ablation_table(arch, compared, results))
        sentence = ablation_sentence(arch, compared)
        parts += [f"### Ablations of {arch}", sentence, table, note, bullets(compared, lambda net: net.knobs)]
    return "\n\n".join(part for part in parts if part)


def limits_text(results):
    """What this report cannot tell."""
    row = results.row
    recipe = (
        "one recipe for all networks; a recipe tuned to a method may rank it higher"
        if not results.own_recipes
        else "one recipe for each architecture"
    )
    lines = [
        f"One dataset ({dataset_of(row)}), one budget ({epochs_of(row)}), {recipe}.",
        power_sentence(results.judged) if results.judged else "",
        few_images_text(row),
        "The networks were trained on several kinds of machine (listed under *All networks*), which round sums differently."
        if machines_text(results)
        else "",
        "Intervals at equal cost are not corrected for multiple comparisons; verdicts on differences from the baseline are."
        if results.has_curve and results.judged
        else "",
        bias_text(results),
    ]
    noisy = [readable(result.net) for result in results.judged if result.net.name in result.noisy]
    lines += [f"{name} is judged by its own noise, which is far larger than the others'." for name in noisy]
    text = "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line)
    left_out = left_out_text(results)
    return text + "\n\n### Left out\n\n" + "\n".join(f"- {line}" for line in left_out) if left_out else text


def method_text(results):
    return "\n\n".join(["## How differences are judged", RULE, noise_text(results), simulation_text(results)])


def repeat_text(results, folders):
    """Where every number comes from, and how to reproduce it."""
    best = results.methods[0].net if results.methods else results.nets[0]
    run = f"python train.py --arch {best.arch}{flags_of(best)} --seed {best.seeds[0]}"
    folder, all_of_them = folders[-1], shlex.join(folders)
    files = "; add `--data-dir`"
    needs = {"folder": files, "shapes100": ""}.get(results.row["dataset"], f"{files} where the hub cannot be reached")
    speeds = " and, for speeds, from its `cost.json`" if results.cost_pass else ""
    return "\n\n".join([
        "## How to repeat every number",
        f"Every measured number of these networks is computed from the `result.json` files in `{folder}`{speeds}. These commands "
        f"make the report again and repeat one of its runs{needs}.",
        f"```bash\npython report.py {all_of_them}\n{run}\n```",
        "### Where the numbers come from",
        markdown([["what", "value"], *provenance(results), ["recipe", in_words(shared_recipe(results))]]),
    ])  # fmt: skip


def contributions_text(team):
    return "## Contributions\n\n" + "\n".join(f"- {name}: {did}" for name, did in team.members) if team else ""


def write_csv(path, results):
    """results.csv: what each run (with folds: their mean) measured, one per line, and what the cost pass did, if any."""
    names = [n for n in MEASURED if n not in ("per_class_top1", "curve", "started", "status")]
    of_cost_pass = ["train_imgs_per_s", "eval_imgs_per_s"]
    of_cost_pass += [name for _, *fields in latencies_in(results.cost_pass) for name in fields]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arch", "settings", "seed", *names, *(f"cost_pass_{name}" for name in of_cost_pass)])
        for net in results.nets:
            timed = [(net.cost_row or {}).get(name, "") for name in of_cost_pass]
            for seed in net.seeds:
                writer.writerow([net.arch, net.knobs, seed, *(net.runs[seed][name] for name in names), *timed])


# ---------------------------------------------------------------------------------------------------------- report.html


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
STYLE = """\
body { margin: 0; background: #fff; color: #1b1f23; font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.2rem; border-bottom: 1px solid #d0d7de; }
h3 { font-size: 1.08rem; margin: 1.75rem 0 0.5rem; }
h1 + p { font-size: 1.12rem; }
p, ul { margin: 0.6rem 0; }
li { margin: 0.2rem 0; }
img { max-width: 100%; height: auto; display: block; margin: 0.8rem auto; }
td img { margin: 0; width: 21rem; max-width: none; }
code { font: 0.88em ui-monospace, Menlo, Consolas, monospace; background: #f3f4f6; padding: 0.1em 0.25em; border-radius: 3px; overflow-wrap: anywhere; }
pre { background: #f3f4f6; padding: 0.7rem 1rem; white-space: pre-wrap; }
pre code { padding: 0; background: none; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #e5e7eb; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #9aa4ae; vertical-align: bottom; }
[style*="right"] { white-space: nowrap; }
table.many { font-size: 0.72rem; }
table.many th, table.many td { padding: 0.15rem 0.3rem; }
table.upright th:not(:first-child) { writing-mode: vertical-rl; padding: 0.3rem 0.1rem; text-align: left !important; }
@media print {
  @page { size: A4; margin: 16mm 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  img, tr, li { break-inside: avoid; }
  table { font-size: 8pt; }
  table.many { font-size: 6pt; }
  .wide { overflow: visible; }
  td img { width: 15rem; }
}
"""
MANY_COLUMNS, TOO_MANY = 9, 13  # columns from which a table is set smaller, and from which its header is vertical
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def page(text, folder):
    """report.md's text -> one self-contained HTML page that opens offline, with the pictures from `folder` inside."""
    body = to_html(text, extensions=["tables", "fenced_code"], output_format="html")
    body = re.sub(r'src="(.+?)"', lambda found: f'src="{data_uri(folder / found[1])}"', body)
    body = re.sub(r"<table>.*?</table>", framed, body, flags=re.DOTALL)
    return PAGE.format(title=escape(text.splitlines()[0].removeprefix("# ")), style=STYLE.strip(), body=body)


def framed(match):
    """A table that can be scrolled, and is set smaller if it has many columns."""
    n_columns = len(re.findall("<th[ >]", match[0]))
    looks = " ".join(["many"] * (n_columns >= MANY_COLUMNS) + ["upright"] * (n_columns >= TOO_MANY))
    tag = f'<table class="{looks}">' if looks else "<table>"
    return '<div class="wide">' + match[0].replace("<table>", tag, 1) + "</div>"


def data_uri(path):
    """A picture file as a data URI."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
