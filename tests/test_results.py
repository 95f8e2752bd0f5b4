"""What is committed in results/: each report is what report.py makes of the rows beside it, and the README shows one."""

import json
import re
from contextlib import nullcontext

import pytest

from flags import NEWER, NOT_IN_CONFIG, parse_args
from runfolder import look_at_folder
from tests.processes import ROOT
from tests.reports import blank_charts, report  # or skips as it does

FOLDERS = sorted(path.parent for path in (ROOT / "results").rglob("report"))


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.relative_to(ROOT).as_posix() for folder in FOLDERS])
def test_a_report_is_what_its_rows_give(folder, tmp_path):
    committed = sorted((folder / "report").glob("*.md")) + sorted((folder / "report").glob("*.csv"))
    assert committed
    flags = ["--recipes"] if (folder / "report" / "recipes.md").exists() else []
    is_drawn = folder.name == "cifar100-5ep"  # most charts, all of real rows; one folder is enough
    with nullcontext() if is_drawn else blank_charts():
        report.main([str(folder), "--out", str(tmp_path), *flags])
    for path in committed:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), (
            f"python report.py {folder} changes {path.name}"
        )


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.relative_to(ROOT).as_posix() for folder in FOLDERS])
def test_a_table_can_be_continued(folder):
    """Its rows are of the runs that the same flags ask for today."""
    defaults = vars(parse_args([]))
    for path in folder.glob("*/result.json"):
        row = json.loads(path.read_text())
        config = {name: (defaults | NEWER | row).get(name) for name in {*defaults, "data"} - {*NOT_IN_CONFIG}}
        assert look_at_folder(path.parent, config)[0] == row


def test_the_readme_shows_what_a_report_says():
    readme = (ROOT / "README.md").read_text()
    path = re.search(r"\((results/\S+/report)/report\.md\)", readme)[1]
    text = (ROOT / path / "report.md").read_text()
    answer = text.split("\n\n")[1]
    verdicts = text.split("### Verdicts\n\n")[1].split("\n\n")[0]
    assert answer in readme
    assert verdicts in readme
    (chart,) = re.findall(r"!\[.*\]\((results/\S+)\)", readme)
    assert (ROOT / chart).exists() and chart.startswith(path)
