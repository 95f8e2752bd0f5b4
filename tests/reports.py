"""Makes reports in tests and reads them; skips the tests that import it where requirements-report.txt is not installed."""

import json
import re
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
from PIL import Image

WITHOUT = "requirements-report.txt is not installed"
pytest.importorskip("matplotlib", reason=WITHOUT)
pytest.importorskip("scipy", reason=WITHOUT)
pptx = pytest.importorskip("pptx", reason=WITHOUT)

import report  # noqa: E402
from tests.refusals import refusal  # noqa: E402
from tests.report_rows import row, timed, write  # noqa: E402
from verdicts import analyse  # noqa: E402


def comparison(rows, arch, cost_pass=None):
    return {result.net.arch: result for result in analyse(rows, cost_pass or timed(rows)).methods}[arch]


def plus_segnext(rows, *top1, settings=None):
    return rows + [row("segnext_resnet", value, seed, settings) for seed, value in enumerate(top1)]


def refused(folder, capsys, message):
    """The report of folder/runs is refused, as refused_folders() has it, in a line that fits the pattern."""
    assert re.search(message, refused_folders([folder / "runs"], folder, capsys, ""))


def refused_folders(arguments, folder, capsys, message):
    """The report of several arguments is refused in one line that holds the message, and writes nothing."""
    said = refusal(capsys, report.main, [*map(str, arguments), "--out", str(folder / "report")])
    assert said.startswith("report.py: ") and message in said
    assert not (folder / "report").exists()
    return said


@contextmanager
def blank_charts():
    """Each chart is one pixel. Drawing takes most of a report's time, and few tests look at what is drawn."""
    with mock.patch("charts.render", blank), mock.patch("slides.render", blank):
        yield


def blank(file, *_, **__):
    Image.new("RGB", (1, 1)).save(file, "png")


def make(rows, folder, cost_pass=None, drawn=False):
    """Writes rows, reports on them, and returns report.md. The charts are blank unless `drawn`."""
    write(folder / "runs", rows)
    if cost_pass:
        (folder / "runs" / "cost.json").write_text(json.dumps(cost_pass))
    with nullcontext() if drawn else blank_charts():
        report.main([str(folder / "runs"), "--out", str(folder / "report")])
    return (folder / "report" / "report.md").read_text()


def table_after(text, heading):
    """The first table after a heading: {first cell: the other cells}."""
    blocks = text.split(heading + "\n", 1)[1].strip().split("\n\n")
    lines = next(block for block in blocks if block.startswith("|")).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def slide_texts(path):
    """[(title, texts of its paragraphs and table cells)] of every slide."""
    found = []
    for slide in pptx.Presentation(path).slides:
        texts = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame]
        cells = [cell.text for shape in slide.shapes if shape.has_table for r in shape.table.rows for cell in r.cells]
        found.append((texts[0], [*texts[1:], *cells]))
    return found
