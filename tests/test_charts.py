from tests.reports import make, plus_segnext  # skips this file where report.py's packages are missing

# isort: split
import numpy as np
from matplotlib import pyplot as plt

import report
from charts import CHART_SIZE, CHARTS, STYLE, draw_cost, draw_differences, draw_learning
from models import METHODS
from tables import superclass_table
from tests.report_rows import rows_of, timed, widths
from verdicts import analyse


def test_charts_leave_room_to_the_stable_methods(campaign):
    """The unstable one has its seeds where the axis reaches them, and no part in costs and superclasses."""
    rows = plus_segnext(campaign, 58, 10, 60, 60)
    rows = [content | {"dataset": "cifar100", "per_class_top1": [content["top1"]] * 100} for content in rows]
    results = analyse(rows, timed(rows))
    (unstable,) = [result for result in results.methods if result.unstable]
    figure = plt.figure()
    draw_differences(figure, results)
    ax = figure.axes[0]
    low, high = ax.get_xlim()
    assert -7 < low < -5 and 3 < high < 5  # from gMLP's -5 to ECA's +3 and their intervals
    assert any(np.array_equal(line.get_xdata(), unstable.differences) for line in ax.lines)
    assert "-2.3, -49.8, -0.1, +0.2   unstable" in {text.get_text() for text in ax.texts}

    figure.clear()
    draw_differences(figure, analyse([c for c in rows if c["arch"] in ("resnet", "segnext_resnet")]))
    assert figure.axes[0].get_xlim()[0] < -13  # nothing else to make room for
    figure.clear()
    draw_cost(figure, results, "parameters")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"eca", "gmlp"} <= texts and "segnext" not in texts
    assert "unstable" not in {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    figure.clear()
    draw_learning(figure, results)
    n_lines = {ax.get_title().split()[0]: len(ax.lines) for ax in figure.axes if ax.get_title()}
    assert (n_lines["eca"], n_lines["segnext"]) == (2, 8)
    plt.close(figure)
    header = superclass_table(results.superclasses)[0]
    assert "gmlp" in header and "segnext" not in header


def test_charts_are_written_and_old_ones_removed(campaign, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "superclasses.png").write_text("of an earlier report")
    text = make(campaign, tmp_path, timed(campaign))
    charts = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert charts == set(CHARTS) - {"superclasses", "budgets", "confusion", "reliability", "disagreements"}
    assert all(f"({name}.png)" in text for name in charts) and "superclasses.png" not in text
    (tmp_path / "runs" / "cost.json").unlink()
    report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "report")])
    assert {path.stem for path in (tmp_path / "report").glob("*.png")} == charts - {"cost_time"}


def test_labels_cover_no_other_label_and_no_point():
    crowd = widths()
    for i, name in enumerate(METHODS):
        crowd += rows_of(f"{name}_resnet", 60.2 + i / 20, params=99_000 + 500 * i)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=CHART_SIZE)
        draw_cost(figure, analyse(crowd), "parameters")
        figure.canvas.draw()
        (ax,) = figure.axes
        boxes = [text.get_window_extent() for text in ax.texts]
        points = ax.transData.transform([label.xy for label in ax.texts])
        plt.close(figure)
    assert len(boxes) == 3 + len(METHODS)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*point) for point in points)
