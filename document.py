"""The report as a document: report.md, and the rows as results.csv."""

import csv
import re

from answer import bias_text, left_out_text, machines_text, opening, provenance, speed_text, trained_where
from charts import CHARTS
from method import DETECTABLE, EQUAL_COST, NO_CURVE, NOISE, RULE, SIMULATION
from rows import MEASURED
from superclasses import superclass_table
from tables import ablation_table, depth_table, equal_cost_table, folds_table, main_table, markdown, verdict_table

REPORT = """\
# Which module is worth adding?

{answer}

## Verdicts

{verdicts}

{remarks}

Differences are to the baseline (the backbone as it is) over the seeds that both have: mean ± 95% interval, and the two-sided p. Parameters, MACs and training time are parts of the baseline's. {family}

{chart_differences}

## All networks

{networks}

Top-1, top-5 and ECE (expected calibration error) are percentages of the test set, means over n seeds; top-1 ± 95% interval. MACs are those of one image. Memory is the most that a run took; training is the median time of a run.

{speeds}

{machines}

{depths}

{folds}

## Equal cost

{equal_cost}

{chart_cost_parameters}

{chart_cost_macs}

{chart_cost_time}

{ablations}

## Learning curves

Top-1 on {watched} after each epoch, means over seeds; of unstable methods each seed.

{chart_learning}

## Best on test

{bias}

{superclasses}

{chart_superclasses}

{left_out}

## How differences are judged

{rule}

{noise}

{simulation}

## Where the numbers come from

{provenance}
"""


def report_text(results, charts):
    """report.md: the answer first, then what it rests on."""

    def bullets(compared, name):
        return "\n".join(f"- {getattr(result.net, name)}: {result.remark}" for result in compared if result.remark)

    ablations, superclasses, left_out = "", superclass_table(results), left_out_text(results)
    for arch, compared in results.ablations.items():
        where = trained_where((net.knobs or "(default)", net) for net in results.nets if net.arch == arch)
        note = f"Differences are to {arch} as it is; Holm's correction is over this table. {where}".rstrip()
        table = markdown(ablation_table(arch, compared, results))
        ablations += f"## Ablations of {arch}\n\n{table}\n\n{note}\n\n{bullets(compared, 'knobs')}\n\n"
    if superclasses:
        note = "Points of top-1 over the baseline in superclasses of 5 classes, means over the shared seeds; nothing is tested."
        superclasses = f"## Superclasses\n\n{note}\n\n{markdown(superclasses)}"
    depths = depth_table(results)
    if depths:
        note = ("Top-1 ± 95% interval, differences paired by seed. A training loss that rises with depth is "
                "degradation; one that falls while top-1 does, too, is overfitting.")  # fmt: skip
        depths = f"## Depth\n\n{markdown(depths)}\n\n{note}"
    folds = folds_table(results)
    if folds:
        note = (f"Top-1 on the part of train that a run held out, mean over {results.row['folds']} folds ± 95% t-interval over "
                "seeds; spread, lowest and highest are of the folds' means over seeds. Test accuracies, speeds and times "
                "everywhere in this report are means over the folds' runs.")  # fmt: skip
        folds = f"## Cross-validation\n\n{markdown(folds)}\n\n{note}"
    text = REPORT.format(
        answer=" ".join(opening(results)),
        verdicts=markdown(verdict_table(results)),
        remarks=bullets(results.methods, "arch"),
        family=DETECTABLE.format(m=len(results.judged)) if results.judged else "",
        rule=RULE,
        noise=NOISE,
        simulation=SIMULATION,
        networks=markdown(main_table(results)),
        speeds=speed_text(results),
        machines=machines_text(results),
        depths=depths or "",
        folds=folds or "",
        equal_cost=f"{markdown(equal_cost_table(results))}\n\n{EQUAL_COST}" if results.has_curve else NO_CURVE,
        ablations=ablations,
        watched="the held-out part of train" if results.row["n_val"] else "the test set",
        bias=bias_text(results),
        superclasses=superclasses or "",
        left_out="## Left out\n\n" + "\n".join(f"- {line}" for line in left_out) if left_out else "",
        provenance=markdown([["what", "value"], *provenance(results)]),
        **{f"chart_{name}": f"![{title}]({name}.png)" if title else "" for name, title in (CHARTS | charts).items()},
    )
    return re.sub("\n{3,}", "\n\n", text)


def write_csv(path, results):
    """results.csv: a line per run (of folds: their means) with what was measured, and the speeds of the cost pass where it has them."""
    names = [n for n in MEASURED if n not in ("per_class_top1", "curve", "started", "status")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arch", "settings", "seed", *names, "cost_pass_train_imgs_per_s", "cost_pass_eval_imgs_per_s"])
        for net in results.nets:
            speeds = [(net.cost_pass or {}).get(name, "") for name in ("train_imgs_per_s", "eval_imgs_per_s")]
            for seed in net.seeds:
                writer.writerow([net.arch, net.knobs, seed, *(net.runs[seed][name] for name in names), *speeds])
