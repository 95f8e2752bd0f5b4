"""Turns finished runs into verdicts: report.md, results.csv, charts and slides.pptx.

    python report.py runs/compare
    python report.py runs/cost/costs.json
    python report.py runs/recipe --recipes

Reads every result.json below the folder and, if there is one, cost.json at its top (speeds measured side by side, see
compare.sh); every number printed comes from them. An architecture's role follows from its name and its knobs:

    baseline         a backbone as it is: resnet, resnet56
    widening curve   a backbone at several widths (only resnet.width set), the baseline among them
    method           anything grafted onto a backbone, as it is: eca_resnet, eca_ghostnet_resnet
    ablation         an architecture with other knobs set, or started from other weights; compared with that architecture
                     as it is, trained from scratch

All accuracies are percentages of the test set and all differences percentage points of top-1. Runs of cross-validation
(--folds) are averaged over the folds first, so that a seed counts once: trainings on overlapping folds are no independent
samples (Bengio and Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004).

A costs.json (what networks cost without training, see models/speed.py) becomes a table, costs.csv and charts.

All runs of a report share one recipe. --recipes compares recipes instead, on the validation split: see report_recipes().
"""

import argparse
import sys
from pathlib import Path

try:
    import matplotlib
    import pptx  # noqa: F401
    import scipy  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f"report.py needs {error.name}: pip install -r requirements-report.txt")

from answer import opening
from charts import draw_charts
from cost_report import read_costs, report_costs
from document import report_text, write_csv
from nets import read_cost_pass
from recipe_report import report_recipes
from rows import read_results, read_rows, refuse
from slides import write_slides
from verdicts import analyse


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with runs below it, or a costs.json")
    parser.add_argument("--out", type=Path, help="where the report goes (default: report/ beside what it is made of)")
    parser.add_argument("--recipes", action="store_true", help="compare recipes, on the validation split, not networks")
    parser.error = refuse
    args = parser.parse_args(argv)
    folder = args.runs.parent if args.runs.is_file() else args.runs
    args.out = args.out or folder / "report"

    matplotlib.use("Agg")  # charts go to files
    if args.runs.is_file():
        costs = read_costs(args.runs)
        args.out.mkdir(parents=True, exist_ok=True)
        return report_costs(costs, args.out)
    if args.recipes:
        rows = list(read_results(args.runs).values())
        args.out.mkdir(parents=True, exist_ok=True)
        return report_recipes(rows, args.out)
    results = analyse(read_rows(args.runs), read_cost_pass(args.runs))
    args.out.mkdir(parents=True, exist_ok=True)
    charts = draw_charts(results, args.out)
    (args.out / "report.md").write_text(report_text(results, charts))
    write_csv(args.out / "results.csv", results)
    write_slides(args.out / "slides.pptx", results, charts)
    print(" ".join(opening(results)))
    print(f"written: {args.out}/report.md, results.csv, slides.pptx and {len(charts)} charts")


if __name__ == "__main__":
    main()
