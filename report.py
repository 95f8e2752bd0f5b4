"""Turns finished runs into a report: report.md, report.html, results.csv, charts and slides.pptx.

    python report.py runs/compare
    python report.py runs/compare --team team.toml                  # with title, members and what each did
    python report.py results/cifar100-5ep results/cifar100-45ep     # and what the budget changes
    python report.py runs/cost/costs.json
    python report.py runs/recipe --recipes

It reads every result.json below the folder and, if there is one, cost.json at its top: speeds and latencies measured side by
side, see compare.sh. Every number printed comes from these files. An architecture's role follows from its name and its knobs:

    baseline         a plain backbone: resnet, resnet56
    widening curve   a backbone at several widths (only resnet.width is set), including the baseline
    method           anything grafted onto a backbone: eca_resnet, eca_ghostnet_resnet; also with
                     knobs of its own set, if it was trained in no other form
    ablation         an architecture with any other knobs set, or started from other weights; it is compared with the same
                     architecture with its defaults, trained from scratch

All accuracies are percentages on the test set, and all differences are percentage points of top-1. Runs of cross-validation
(--folds) are averaged over the folds first, so that a seed counts once: runs on overlapping folds are not independent samples
(Bengio and Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004).

All runs of a folder share data and budget. Each architecture has one recipe; if the recipes differ between architectures, the
report says so. --recipes compares recipes instead, on the validation split. Several folders with different budgets or recipes
become the report of the largest budget, with a section on what changes. A costs.json, with what networks cost without
training, becomes a table, costs.csv and charts. A pair.npz at the top of the folder (see pair.py) adds what two of the
networks do on the test images: confusion, confidence, and the images on which they differ most.

    rows.py            result.json files, read and checked; networks with their runs and costs
    noise.py           noise over seeds, differences with intervals, the widening curve, pairs of modules
    verdicts.py        what is compared with what, and the verdict; budgets.py: what another budget changes
    notes.py           texts: what each method is, how differences are judged, where the numbers come from
    tables.py          results as tables; sentences.py: in sentences
    charts.py          charts; drawings.py draws the modules, pictures.py two networks on the test images
    document.py        report.md, report.html and results.csv; slides.py writes slides.pptx, team.py reads who made them
    small_reports.py   the two other reports: costs.json and --recipes
"""

import argparse
import sys
from pathlib import Path

try:
    import markdown  # noqa: F401 -- which tensorboard needs, too
    import matplotlib
    import pptx  # noqa: F401
    import scipy  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f"report.py needs {error.name}: pip install -r requirements.txt -r requirements-report.txt")

from budgets import read_conditions
from charts import draw_charts
from document import page, report_text, write_csv
from drawings import write_drawings
from flags import path_of
from notes import modules_of
from pictures import read_pair
from rows import read_results, refuse, without_result
from sentences import opening
from slides import write_slides
from small_reports import read_costs, report_costs, report_recipes
from team import read_team


def main(argv=None):
    args = parse_args(argv)
    matplotlib.use("Agg")  # charts go to files
    try:
        write(args)
    except OSError as error:  # such as a full disk or one that may only be read
        refuse(f"the report cannot be written: {error}", code=1)


def write(args):
    """Writes the report that the flags ask for."""
    first = args.runs[0]
    beside = first.parent if first.is_file() or len(args.runs) > 1 else first
    out = args.out or beside / "report"
    if first.is_file():
        costs = read_costs(first)
        out.mkdir(parents=True, exist_ok=True)
        return report_costs(costs, out)
    if args.recipes:
        rows = list(read_results(first).values())
        out.mkdir(parents=True, exist_ok=True)
        return report_recipes(rows, out, without_result(first))
    team = read_team(args.team) if args.team else None
    conditions = read_conditions(args.runs)
    write_report(conditions, out, team)


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="a folder with runs below it, several of them, or a costs.json"
    )
    parser.add_argument("--out", type=path_of, help="where the report goes (default: report/ beside its rows)")
    parser.add_argument(
        "--recipes", action="store_true", help="compare recipes instead of networks, on the validation split"
    )
    parser.add_argument("--team", type=path_of, help="a TOML file with title, course, date and members (see team.py)")
    parser.error = refuse
    args = parser.parse_args(argv)
    if len(args.runs) > 1 and (args.recipes or any(path.is_file() for path in args.runs)):
        parser.error("--recipes and costs.json make a report of one folder or file: give one at a time")
    if args.team and (args.recipes or args.runs[0].is_file()):
        parser.error("--team is for the report of a comparison: leave it out")
    return args


def write_report(conditions, out, team):
    """Writes the report of the last condition, which has the largest budget, with the others for comparison."""
    results, folders = conditions[-1].results, [each.folder.resolve() for each in conditions]
    here = Path(__file__).resolve().parent
    folders = [f.relative_to(here).as_posix() if f.is_relative_to(here) else f"PATH/TO/{f.name}" for f in folders]
    pair = read_pair(conditions[-1].folder / "pair.npz", results)
    out.mkdir(parents=True, exist_ok=True)
    charts = draw_charts(results, out, conditions, pair)
    write_drawings(modules_of(results.networks), out)
    text = report_text(results, charts, folders, team, conditions, pair)
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "report.html").write_text(page(text, out), encoding="utf-8")
    write_csv(out / "results.csv", results)
    write_slides(out / "slides.pptx", results, charts, team, conditions)
    print(" ".join(opening(results)))
    print(f"written: {out}/report.md, report.html, results.csv, slides.pptx and {len(charts)} charts")


if __name__ == "__main__":
    main()
