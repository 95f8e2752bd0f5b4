from tests.reports import blank_charts, make, plus_segnext  # skips this file where report.py's packages are missing

# isort: split
import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection

import charts
import report
from budgets import read_conditions
from charts import (
    CHART_SIZE,
    CHARTS,
    LOOKS,
    STYLE,
    draw_ablations,
    draw_budgets,
    draw_cost,
    draw_differences,
    draw_learning,
    draw_superclasses,
    setting,
)
from document import learning_text
from models import METHODS
from rows import SUPERCLASSES, Net
from tables import superclass_table
from tests.report_rows import JITTER, rows_of, timed, widths
from tests.test_budgets import folder_of
from verdicts import SuperclassMap, analyse


def drawn(draw, *arguments):
    """The only axes of a chart."""
    figure = plt.figure()
    draw(figure, *arguments)
    plt.close(figure)
    (ax,) = figure.axes
    return ax


def bars(ax, containers):
    """A forest plot's bars, by the names of their rows: (middle, half)."""
    names, found = [label.get_text() for label in ax.get_yticklabels()], {}
    for line, _, (intervals,) in containers:
        for y, x, ((low, _), (high, _)) in zip(*line.get_data()[::-1], intervals.get_segments(), strict=True):
            assert x == pytest.approx((low + high) / 2)
            found[names[round(y)]] = (x, (high - low) / 2)
    return found


def middles(ax, containers):
    return {name: middle for name, (middle, _) in bars(ax, containers).items()}


def halves(ax, containers):
    return {name: half for name, (_, half) in bars(ax, containers).items()}


def test_differences_are_drawn_where_they_are(campaign):
    results = analyse(campaign, timed(campaign))
    ax = drawn(draw_differences, results)
    means = {"eca": 3, "mixer": 2, "hornet": 1, "ghostnet": -0.1, "gmlp": -5}
    assert middles(ax, ax.containers) == pytest.approx(means, abs=0.01)
    expected = {result.net.arch.removesuffix("_resnet"): result.half for result in results.methods}
    assert halves(ax, ax.containers) == pytest.approx(expected)


def test_costs_are_drawn_with_their_top1(campaign):
    ax = drawn(draw_cost, analyse(campaign, timed(campaign)), "parameters")
    points = {label.get_text(): label.xy for label in ax.texts}
    expected = {
        "width 8": (50, 56), "resnet": (100, 60), "width 32": (200, 64), "eca": (100, 63), "hornet": (180, 61),
        "ghostnet": (100, 59.9), "gmlp": (100, 55), "mixer": (100, 62.05),
    }  # fmt: skip
    assert points.keys() == expected.keys()
    for name, point in expected.items():
        assert points[name] == pytest.approx(point, abs=0.01), name
    curve, *others = (line for line in ax.lines if line.get_marker() != "None")
    assert np.allclose(curve.get_xydata(), [(50, 56), (100, 60), (200, 64)])
    marks = {tuple(line.get_xydata()[0].round(2)) for line in others}
    assert marks == {(100, 63), (180, 61), (100, 59.9), (100, 55), (100, 62.05)}


@pytest.mark.parametrize(
    ("cost", "at"), [("parameters", [50, 100, 200]), ("MACs", [5, 10, 20]), ("training time", [0.5, 1, 2])]
)
def test_costs_are_drawn_in_their_unit_and_with_their_intervals(campaign, cost, at):
    """Thousands, millions and milliseconds; the bars of methods and the band of the widths."""
    results = analyse(campaign, timed(campaign))
    ax = drawn(draw_cost, results, cost)
    curve = results.curves["resnet"]
    (band,) = [found for found in ax.collections if isinstance(found, PolyCollection)]
    corners = band.get_paths()[0].vertices
    for x, top1 in zip(at, [results.noise_of(net.seeds).estimate((net, 1)) for net in curve], strict=True):
        ends = corners[np.isclose(corners[:, 0], x), 1]
        assert (ends.min(), ends.max()) == pytest.approx((top1.mean - top1.half, top1.mean + top1.half))
    drawn_halves = {line.get_ydata()[0]: np.ptp(bars.get_segments()[0][:, 1]) / 2 for line, _, (bars,) in ax.containers}
    methods = [results.top1(result.net) for result in results.methods]
    assert drawn_halves == pytest.approx({top1.mean: top1.half for top1 in methods})


def test_two_baselines_stand_in_one_chart():
    rows = [content for arch in ("plain20", "eca_plain20", "resnet", "eca_resnet") for content in rows_of(arch, 60)]
    texts = {label.get_text() for label in drawn(draw_cost, analyse(rows), "parameters").texts}
    assert {"plain20", "resnet"} <= texts and len(texts) == 4


def test_a_lone_width_has_a_bar_as_methods_have():
    lost = rows_of("resnet", 1, settings={"resnet.width": 8})  # no part of the curve
    results = analyse(rows_of("resnet", 60, params=11_178_564) + rows_of("eca_resnet", 63, params=11_178_600) + lost)
    ax = drawn(draw_cost, results, "parameters")
    assert ax.get_legend().get_texts()[0].get_text() == "resnet"
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert len(ticks) == len({*ticks})
    low, high = ax.get_xlim()  # nearly equal costs look so
    assert low < 0.95 * 11_178 and high > 1.05 * 11_178
    lengths = [np.ptp(bars.get_segments()[0][:, 1]) for _, _, (bars,) in ax.containers]
    assert lengths == pytest.approx([2 * results.top1(net).half for net in results.nets if not net.settings])


def test_a_setting_keeps_its_fraction():
    assert setting(Net("cspnet_resnet", {"cspnet.gamma": 0.25})) == "gamma 0.25"


def test_a_bar_that_would_stretch_the_axis_is_in_its_label(campaign):
    results = analyse(campaign, timed(campaign))
    noisy = next(result for result in results.methods if result.net.arch == "hornet_resnet")
    noisy.noisy = {"hornet_resnet": 9.0}
    next(result for result in results.methods if result.net.arch == "eca_resnet").noisy = {"resnet": 9.0}
    ax = drawn(draw_cost, results, "parameters")
    half = results.top1(noisy.net).half
    assert f"hornet ± {half:.1f}" in {label.get_text() for label in ax.texts}
    lengths = {line.get_xdata()[0]: np.ptp(bars.get_segments()[0][:, 1]) for line, _, (bars,) in ax.containers}
    assert lengths[180] == 0 and lengths[100] > 0


def test_labels_know_of_the_bars(campaign, monkeypatch):
    known = []
    monkeypatch.setattr(charts, "place_labels", lambda ax, points, texts, line: known.extend(line))
    results = analyse(campaign, timed(campaign))
    drawn(draw_cost, results, "parameters")
    (hornet,) = [result.net for result in results.methods if result.net.arch == "hornet_resnet"]
    top1 = results.top1(hornet)
    ends = [level for x, level in known if x == pytest.approx(180)]
    assert (min(ends), max(ends)) == pytest.approx((top1.mean - top1.half, top1.mean + top1.half))


def test_budgets_are_drawn_each_with_its_differences(tmp_path):
    conditions = read_conditions([folder_of(tmp_path / "a", 5, eca=63), folder_of(tmp_path / "b", 50, eca=58)])
    ax = drawn(draw_budgets, conditions)
    found = {container.get_label(): middles(ax, [container]) for container in ax.containers}
    assert found.keys() == {"5 epochs", "50 epochs"}
    assert found["5 epochs"] == pytest.approx({"eca": 3, "ghostnet": 0}, abs=0.01)
    assert found["50 epochs"] == pytest.approx({"eca": -2, "ghostnet": 0}, abs=0.01)
    for condition, container in zip(conditions, ax.containers, strict=True):
        expected = {name.removesuffix("_resnet"): result.half for name, result in condition.methods.items()}
        assert halves(ax, [container]) == pytest.approx({name: np.nan_to_num(half) for name, half in expected.items()})
    assert ax.get_xlabel().endswith(", 95% interval")


def test_budgets_of_one_seed_claim_no_interval(tmp_path):
    folders = [folder_of(tmp_path / "a", 5, eca=63), folder_of(tmp_path / "b", 50, eca=58)]
    for path in [path for folder in folders for path in folder.glob("*/result.json")]:
        if json.loads(path.read_text())["seed"]:
            path.unlink()
    assert "interval" not in drawn(draw_budgets, read_conditions(folders)).get_xlabel()


def test_ablations_are_drawn_beside_their_default(campaign):
    results = analyse(campaign, timed(campaign))
    ax = drawn(draw_ablations, results)
    assert ax.get_title() == "eca"
    expected = {"kernel size 9": -2, "attention position after-add": 0.01}
    assert middles(ax, ax.containers) == pytest.approx(expected, abs=0.005)
    compared = {setting(result.net): result for result in results.ablations["eca_resnet"]}
    assert halves(ax, ax.containers) == pytest.approx({name: result.half for name, result in compared.items()})
    looks = {next(iter(middles(ax, [bar]))): (bar[0].get_color(), bar[0].get_marker()) for bar in ax.containers}
    assert looks == {"kernel size 9": LOOKS["hurts"], "attention position after-add": LOOKS["no evidence"]}


def test_ablations_have_one_axis_and_those_with_most_to_see_come_first(campaign):
    more = [
        row
        for top1, settings in ((50, {}), (40, {"se.ratio": 4}), (42, {"se.ratio": 8}))
        for row in rows_of("se_resnet", top1, settings, jitter=-JITTER if settings else JITTER)
    ]
    figure = plt.figure()
    draw_ablations(figure, analyse([*campaign, *more]))
    plt.close(figure)
    assert [ax.get_title() for ax in figure.axes] == ["se", "eca"]
    se, eca = figure.axes
    assert eca.get_xlim() == se.get_xlim()


def test_superclasses_are_drawn_where_they_can_be_read():
    differences, readable = np.zeros((2, len(SUPERCLASSES))), np.zeros((2, len(SUPERCLASSES)), dtype=bool)
    differences[0, 3], differences[1, 5], differences[1, 7] = 4.2, -2.6, 9
    readable[0, 3] = readable[1, 5] = True
    found = SuperclassMap(["eca_resnet", "gmlp_resnet"], differences, readable)
    ax = drawn(draw_superclasses, SimpleNamespace(superclasses=found))
    (image,) = ax.images
    assert np.array_equal(image.get_array(), np.where(readable, differences, 0))
    assert (image.norm.vmin, image.norm.vmax) == (-4.2, 4.2)
    texts = {text.get_position(): text.get_text() for text in ax.texts if text.get_text()}
    assert texts == {(3, 0): "+4", (5, 1): "-3"}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["eca", "gmlp"]
    assert [label.get_text() for label in ax.get_xticklabels()] == list(SUPERCLASSES)


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
    assert "-2.3, -49.8, -0.1, +0.2   unstable".replace("-", "\N{MINUS SIGN}") in {text.get_text() for text in ax.texts}

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


def test_learning_curves_are_each_networks_own():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, {"eca.kernel_size": 9}, jitter=-JITTER)
    for content in rows[4:]:
        content["curve"] = [epoch | {"top1": epoch["top1"] + 3} for epoch in content["curve"]]
    ax = drawn(draw_learning, analyse(rows))
    found = [(line.get_color(), list(line.get_ydata())) for line in ax.lines]
    assert found == [("black", [40, 60]), (LOOKS["helps"][0], [43, 63])]
    assert all(list(line.get_xdata()) == [1, 2] for line in ax.lines)
    assert ax.get_title() == "eca 63.0" and ax.figure.get_supylabel() == "top-1 on held-out images, %"
    tested = {"n_val": 0, "val_top1": None, "best_on_test_minus_last": 0.0}
    assert "\n\nTop-1 on the validation images after each epoch" in learning_text(analyse(rows), "the chart")
    watched = analyse([content | tested for content in rows])
    assert drawn(draw_learning, watched).figure.get_supylabel() == "top-1 on the test set, %"
    assert "\n\nTop-1 on the test set after each epoch" in learning_text(watched, "the chart")


@blank_charts()
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


@pytest.mark.parametrize(("other", "misleads"), [((0, 30), False), ((60, 10), True), ((90, 0), False)])
def test_a_label_beside_another_point_misleads(other, misleads):
    """A text to the right of the point (0, 0), 45 pixels long."""
    place = SimpleNamespace(distance=charts.NEAREST, end=np.array([37.5, 0]), box=(15, -7, 60, 7))
    assert charts.misleads(np.zeros(2), place, np.array([(0, 0), other])) == misleads


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


def test_costs_are_drawn_where_the_baseline_learned_nothing(tmp_path):
    rows = rows_of("resnet", 10) + rows_of("eca_resnet", 10)
    assert "cost_parameters.png" in make(rows, tmp_path)
    drawn(draw_cost, analyse(rows), "parameters").figure.canvas.draw()
