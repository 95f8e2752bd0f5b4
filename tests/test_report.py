import csv
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from models import BACKBONES, METHODS, knobs

WITHOUT = "requirements-report.txt is not installed"
pytest.importorskip("matplotlib", reason=WITHOUT)
stats = pytest.importorskip("scipy.stats", reason=WITHOUT)
pptx = pytest.importorskip("pptx", reason=WITHOUT)
report = pytest.importorskip("report", reason=WITHOUT)

SEEDS = (0, 1, 2, 3)
NOISE = np.array([0.3, -0.2, 0.1, -0.2])  # of each seed, shared by all networks
JITTER = np.array([0.1, -0.1, 0.05, -0.05])  # of one network's seeds


def row(arch="resnet", top1=60.0, seed=0, settings=None, params=100_000, macs=10_000_000, speed=1000.0, **other):
    """A row as train.py writes it: 10 epochs on a set of 10 classes."""
    return {
        "arch": arch, "settings": settings or {}, "seed": seed, "dataset": "shapes100", "epochs": 10, "batch_size": 128,
        "optimizer": "sgd", "lr": 0.2, "amp": "off", "compile": False, "val_size": 0.1,
        "classes": 10, "n_train": 18000, "n_val": 2000, "n_test": 10000, "world_size": 1, "device": "a CPU", "torch": "2.15",
        "commit": "abc", "started": "2026-01-01", "params": params, "macs": macs, "train_imgs_per_s": speed,
        "eval_imgs_per_s": 3 * speed, "train_s": 600.0, "peak_memory_mb": 500.0, "top1": round(top1, 2),
        "top5": round(top1, 2) + 20, "loss": 1.0, "ece": 5.0, "val_top1": 60.0, "best_on_test_minus_last": None,
        "per_class_top1": [60.0] * 10, "status": "finished",
        "curve": [{"epoch": 0, "top1": 40.0, "train_loss": 3.0}, {"epoch": 1, "top1": 60.0, "train_loss": 2.0}],
    } | other  # fmt: skip


def rows_of(arch, mean, settings=None, seeds=SEEDS, jitter=JITTER, **other):
    return [row(arch, mean + NOISE[seed] + jitter[seed], seed, settings, **other) for seed in seeds]


def write(folder, rows):
    for i, content in enumerate(rows):
        (folder / f"run{i}").mkdir(parents=True)
        (folder / f"run{i}" / "result.json").write_text(json.dumps(content))
    return folder


def widths(**other):
    """A widening curve that gains 4 points with every doubling of all three costs: 56, 60, 64, at 50, 100, 200 thousand."""
    curve = []
    for width, factor, mean, tilt in ((8, 0.5, 56, 1), (16, 1, 60, 0), (32, 2, 64, 0.5)):
        settings = {} if width == 16 else {"resnet.width": width}
        cost = {"params": int(100_000 * factor), "macs": int(10_000_000 * factor), "speed": 1000 / factor}
        curve += rows_of("resnet", mean, settings, jitter=tilt * JITTER, **cost, **other)
    return curve


def timed(rows):
    """A cost pass that found the speeds that are in the rows."""
    names = ("arch", "settings", "train_imgs_per_s", "eval_imgs_per_s")
    return {"rows": [{name: content[name] for name in names} for content in rows]}


def comparison(rows, arch, cost_pass=None):
    return {result.net.arch: result for result in report.analyse(rows, cost_pass or timed(rows)).methods}[arch]


def of_folds(rows, n_folds=3, **other):
    """Each row as n_folds runs: fold k is k points above the row on the fold, and 2 k on the test set."""
    return [
        row | {"folds": n_folds, "fold": k, "val_size": None, "val_top1": 50.0 + k, "top1": row["top1"] + 2 * k,
               "top5": row["top5"] + 2 * k, "n_train": 13333 + (k > 0), "n_val": 6667 - (k > 0)} | other
        for row in rows for k in range(n_folds)
    ]  # fmt: skip


@pytest.fixture
def campaign():
    """All roles at once: a curve, four methods with one of each verdict, one method without all seeds, and ablations."""
    rows = widths()
    rows += rows_of("eca_resnet", 63, jitter=-JITTER, params=100_003)
    rows += rows_of("hornet_resnet", 61, jitter=-JITTER, params=180_000, macs=18_000_000, speed=600.0)
    rows += rows_of("ghostnet_resnet", 59.9, jitter=2 * JITTER[::-1])
    rows += rows_of("gmlp_resnet", 55, jitter=3 * JITTER)
    rows += rows_of("mixer_resnet", 62, seeds=(0, 1))
    rows += rows_of("eca_resnet", 61, {"eca.kernel_size": 9}, jitter=JITTER)
    rows += rows_of("eca_resnet", 63.01, {"resnet.attention_position": "after-add"}, jitter=2 * JITTER)
    return rows


# ---------------------------------------------------------------------------------------------------------- statistics


def test_interval_is_the_t_interval():
    values = np.array([70.1, 70.9, 69.8])
    mean, half = report.t_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert half == pytest.approx(4.302653 * values.std(ddof=1) / math.sqrt(3), rel=1e-6)  # a table's t(0.975, 2)


def test_paired_test_is_scipys():
    a, b = np.array([70.1, 70.9, 69.8]), np.array([69.9, 70.2, 69.7])
    assert report.paired_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 is 0.04 0.06 0.06 0.04, which must not fall
    assert report.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert report.holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert report.holm([0.01]) == pytest.approx([0.01])


def test_detectable_difference_is_found_at_the_stated_power():
    """Draws differences whose true mean is the detectable one and counts how often the test finds it."""
    n, level = 4, 0.05 / 3
    effect = report.detectable_in_sds(n, level)
    draws = np.random.default_rng(0).normal(effect, 1, (20_000, n))
    test = stats.ttest_1samp(draws, 0, axis=1)
    assert np.mean((test.pvalue < level) & (test.statistic > 0)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_detectable_difference_grows_with_the_family(n):
    sizes = [report.detectable_in_sds(n, 0.05 / m) for m in (1, 2, 15, 100)]
    assert np.isfinite(sizes).all() and (np.diff(sizes) > 0).all()


def test_detectable_difference_is_that_of_the_strictest_test(campaign):
    result = comparison(campaign, "ghostnet_resnet")  # one of four methods judged
    spread = np.std(result.differences, ddof=1)
    assert result.detectable == pytest.approx(report.detectable_in_sds(4, 0.05 / 4) * spread)


def test_no_spread_allows_no_inference():
    assert report.paired_p(np.array([1.0, 1.0, 1.0])) == 1
    assert math.isnan(report.t_interval(np.array([1.0, 1.0]))[1])
    assert math.isnan(report.t_interval(np.array([1.0]))[1])


def test_curve_is_linear_in_log_cost():
    costs, top1 = [100, 200, 800], [[60, 61], [62, 65], [70, 69]]  # two seeds
    assert report.top1_on_curve(costs, top1, math.sqrt(100 * 200)) == pytest.approx([61, 63])
    assert report.top1_on_curve(costs, top1, 400) == pytest.approx([66, 67])
    assert report.top1_on_curve(costs, top1, 100) == pytest.approx([60, 61])
    assert report.top1_on_curve(costs, top1, 800) == pytest.approx([70, 69])
    assert report.top1_on_curve(costs, top1, 99) is None
    assert report.top1_on_curve(costs, top1, 801) is None


def test_gap_at_equal_cost_varies_with_method_and_curve():
    """Half-way between widths 16 and 32 in log(cost) the curve of seed s is the mean of its two top-1."""
    cost = {"params": round(100_000 * math.sqrt(2)), "macs": round(1e7 * math.sqrt(2)), "speed": 1000 / math.sqrt(2)}
    gaps = comparison(widths() + rows_of("eca_resnet", 63, jitter=3 * JITTER, **cost), "eca_resnet").gaps
    on_curve = 62 + NOISE + 0.5 / 2 * JITTER
    mean, half = report.t_interval(63 + NOISE + 3 * JITTER - on_curve)
    for name in report.COSTS:
        assert (gaps[name].mean, gaps[name].half) == pytest.approx((mean, half), abs=0.01), name


def test_times_of_the_cost_pass_only_are_compared():
    """Where it has the baseline and the method but no other width, no curve of times is left."""
    rows = widths() + rows_of("eca_resnet", 63)
    speeds = [
        {"arch": arch, "settings": {}, "train_imgs_per_s": 9.0, "eval_imgs_per_s": 9.0}
        for arch in ("resnet", "eca_resnet")
    ]
    result = comparison(rows, "eca_resnet", {"rows": speeds})
    assert result.gaps["training time"].why == "the cost pass timed no second width"
    assert report.relative_costs(result) == "1.00 / 1.00 / 1.00"
    result = comparison(rows, "eca_resnet", {"rows": speeds[:1]})
    assert report.relative_costs(result) == "1.00 / 1.00 / -"
    trainings_alone = {"rows": []}
    result = comparison(rows, "eca_resnet", trainings_alone)
    assert result.gaps["training time"].why == "not timed by the cost pass"
    assert report.relative_costs(result) == "1.00 / 1.00 / -"


@pytest.mark.parametrize("speed", [900.0, 1100.0])
def test_a_width_that_a_wider_one_undercuts_leaves_the_curve(speed):
    """Width 8 is slower than 16, so that at its time one would take 16; or hardly faster, which the next pass may turn."""
    rows = widths()
    for content in rows:
        if content["settings"] == {"resnet.width": 8}:
            content["train_imgs_per_s"] = speed
    gaps = comparison(rows + rows_of("eca_resnet", 63, speed=950.0), "eca_resnet").gaps
    assert gaps["training time"].mean == pytest.approx(63 - 60 - 4 * math.log2(1000 / 950), abs=0.05)
    gaps = comparison(rows + rows_of("eca_resnet", 63, speed=1050.0), "eca_resnet").gaps
    assert gaps["training time"].why == "outside the curve"


def test_planted_effect_is_found_and_planted_null_is_not():
    """300 comparisons of a real gain and four null methods: the family's error rate stays at the nominal 5%."""
    rng, found, false_calls, false_help = np.random.default_rng(1), 0, 0, 0
    for _ in range(300):
        seed_effect = rng.normal(0, 0.3, 5)
        rows = []
        for arch, settings, mean, cost in [
            ("resnet", {"resnet.width": 8}, 56, 0.5),
            ("resnet", {}, 60, 1),
            ("resnet", {"resnet.width": 32}, 64, 2),
            ("hornet_resnet", {}, 62.5, 1),
            *((f"{null}_resnet", {}, 60, 1) for null in ("eca", "gmlp", "mixer", "cspnet")),
        ]:
            top1 = mean + seed_effect + rng.normal(0, 0.3, 5)
            rows += [
                row(arch, t, s, settings, int(1e5 * cost), int(1e7 * cost), 1000 / cost) for s, t in enumerate(top1)
            ]
        words = {
            result.net.arch: (result.word, result.direction) for result in report.analyse(rows, timed(rows)).methods
        }
        found += words.pop("hornet_resnet")[0] == "helps"
        false_calls += any(direction for _, direction in words.values())
        false_help += any(word == "helps" for word, _ in words.values())
    assert found > 285
    assert 0 < false_calls < 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)
    assert false_help <= false_calls


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_each_word_is_earned(campaign):
    words = {result.net.arch: result.word for result in report.analyse(campaign, timed(campaign)).methods}
    assert words == {
        "eca_resnet": "helps",
        "hornet_resnet": "no better than widening",
        "ghostnet_resnet": "no evidence",
        "gmlp_resnet": "hurts",
        "mixer_resnet": "",
    }


def plus_segnext(rows, *top1, settings=None):
    return rows + [row("segnext_resnet", value, seed, settings) for seed, value in enumerate(top1)]


def test_a_method_that_ends_at_chance_with_some_seeds_is_unstable(campaign):
    """Of ten classes and 10,000 images guessing finds 10 percent, give or take three times 0.3."""

    def segnext(*top1):
        return comparison(plus_segnext(campaign, *top1), "segnext_resnet")

    lost = segnext(48, 10.89, 48.1, 47.9)
    assert lost.word == "unstable" and lost.remark == "ended at chance with seed 1"
    assert {gap.why for gap in lost.gaps.values()} == {"unstable"} and math.isnan(lost.detectable)
    assert segnext(48, 10.91, 48.1, 47.9).word == "no evidence"
    assert segnext(10, 10.3, 9.9, 9.7).word == "hurts"  # with all of them it ended there
    too_few = segnext(48, 10)
    assert too_few.word == "unstable" and not too_few.judged
    assert too_few.remark == "ended at chance with seed 1; not judged: lacks seed 2 and 3 of resnet"
    learned_nothing = [content | {"top1": 10.0} for content in campaign]
    assert not any(result.unstable for result in report.analyse(learned_nothing).methods)


@pytest.mark.parametrize(
    ("lost", "remark"),
    [
        ({"resnet": [2]}, "resnet ended at chance with seed 2"),
        ({"resnet": [2], "eca_resnet": [2]}, "ended at chance with seed 2; resnet ended at chance with seed 2"),
        (
            {"resnet": [2, 3], "eca_resnet": [0, 1]},
            "ended at chance with seed 0 and 1; resnet ended at chance with seed 2 and 3",
        ),
    ],
)
def test_a_baseline_that_ends_at_chance_makes_its_methods_unstable(campaign, lost, remark):
    for content in campaign:
        if not content["settings"] and content["seed"] in lost.get(content["arch"], ()):
            content["top1"] = 10.0
    result = comparison(campaign, "eca_resnet")
    assert result.word == "unstable" and result.remark == remark


def test_an_unstable_method_tells_nothing_of_costs_and_power(campaign):
    rows = plus_segnext(campaign, 58, 10, 58.1, 57.9)
    results, without = report.analyse(rows, timed(rows)), report.analyse(campaign, timed(campaign))
    assert "; 1 is unstable: segnext_resnet (ended at chance with seed 1)." in report.verdict_sentence(results)
    assert report.cost_sentence(results) == report.cost_sentence(without)
    found = [result.detectable for result in results.judged if not result.unstable]
    assert f"{min(found):.1f} to {max(found):.1f})" in report.power_sentence(results.judged)
    assert len(results.judged) == len(without.judged) + 1  # Holm's correction counts it


def test_an_unstable_setting_of_an_ablation_is_called_that(campaign):
    """Though it is worse by the test, too."""
    rows = plus_segnext(plus_segnext([], 60, 60.1, 60.2, 60.3), 10, 10.1, 10.2, 44, settings={"segnext.kernel_size": 3})
    results = report.analyse(rows)
    (result,) = results.ablations["segnext_resnet"]
    assert result.direction == -1 and result.change == "unstable"
    table = report.ablation_table("segnext_resnet", results.ablations["segnext_resnet"], results)
    assert table[-1][0] == "segnext.kernel_size=3" and table[-1][-1] == "unstable"
    opening = report.opening(results)
    assert opening[0].endswith(f"better: none; worse: none; unstable: {report.members([result])}.")
    assert opening[-1].startswith("No comparison has a spread")


def test_charts_leave_room_to_the_stable_methods(campaign):
    """The unstable one has its seeds where the axis reaches them, and no part in costs and superclasses."""
    rows = plus_segnext(campaign, 58, 10, 60, 60)
    rows = [content | {"dataset": "cifar100", "per_class_top1": [content["top1"]] * 100} for content in rows]
    results = report.analyse(rows, timed(rows))
    (unstable,) = [result for result in results.methods if result.unstable]
    figure = report.plt.figure()
    report.draw_differences(figure, results)
    ax = figure.axes[0]
    low, high = ax.get_xlim()
    assert -7 < low < -5 and 3 < high < 5  # from gMLP's -5 to ECA's +3 and their intervals
    assert any(np.array_equal(line.get_xdata(), unstable.differences) for line in ax.lines)
    assert "-2.3, -49.8, -0.1, +0.2   unstable" in {text.get_text() for text in ax.texts}

    figure.clear()
    report.draw_differences(figure, report.analyse([c for c in rows if c["arch"] in ("resnet", "segnext_resnet")]))
    assert figure.axes[0].get_xlim()[0] < -13  # nothing else to make room for
    figure.clear()
    report.draw_cost(figure, results, "parameters")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"eca", "gmlp"} <= texts and "segnext" not in texts
    assert "unstable" not in {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    figure.clear()
    report.draw_learning(figure, results)
    n_lines = {ax.get_title().split()[0]: len(ax.lines) for ax in figure.axes if ax.get_title()}
    assert (n_lines["eca"], n_lines["segnext"]) == (2, 8)
    report.plt.close(figure)
    header = report.superclass_table(results)[0]
    assert "gmlp_resnet" in header and "segnext_resnet" not in header


def test_helps_is_lost_below_the_curve_at_one_cost(campaign):
    for content in campaign:
        if content["arch"] == "eca_resnet":
            content["train_imgs_per_s"] = 510.0  # at nearly the time of width 32, which has 64
    result = comparison(campaign, "eca_resnet")
    assert result.where("above") == ["parameters", "MACs"] and result.where("below") == ["training time"]
    assert result.word == "no better than widening"
    assert "below the curve at equal training time (1.96 of the baseline's)" in result.remark


def test_a_cheap_method_above_the_curve_is_not_called_harmful():
    result = comparison(widths() + rows_of("ghostnet_resnet", 58, params=55_000, jitter=-JITTER), "ghostnet_resnet")
    assert result.direction == -1 and result.word == "no evidence"
    assert "above the curve at equal parameters (0.55 of the baseline's)" in result.remark


@pytest.mark.parametrize(("mean", "word"), [(63, "helps"), (57, "hurts")])
def test_without_a_curve_the_baseline_alone_judges_and_it_is_said(mean, word):
    result = comparison(rows_of("resnet", 60) + rows_of("eca_resnet", mean, jitter=-JITTER), "eca_resnet")
    assert {gap.why for gap in result.gaps.values()} == {"no widening curve"}
    assert result.word == word and "against the baseline alone: no widening curve" in result.remark


def test_outside_the_curve_nothing_is_extrapolated(campaign):
    big = rows_of("resnest_resnet", 66, jitter=-JITTER, params=201_000, macs=21_000_000, speed=499.0)
    result = comparison(campaign + big, "resnest_resnet")
    assert {gap.why for gap in result.gaps.values()} == {"outside the curve"}
    assert result.word == "helps" and "against the baseline alone: outside the curve" in result.remark


def test_a_method_without_all_seeds_is_named_and_left_out(campaign, tmp_path):
    results = report.analyse(campaign)
    mixer = comparison(campaign, "mixer_resnet")
    assert not mixer.judged and mixer.lacks == [2, 3] and len(results.judged) == 4
    without = report.analyse([content for content in campaign if content["arch"] != "mixer_resnet"])
    assert [r.p_holm for r in results.judged] == [r.p_holm for r in without.judged]
    text = make(campaign, tmp_path)
    assert "- mixer_resnet: not judged: lacks seed 2 and 3 of resnet" in text.split("## Left out")[1]
    assert "| mixer_resnet | +2.00 ± " in text


def test_a_width_without_all_seeds_is_not_in_the_curve(campaign):
    partial = [c for c in campaign if c["settings"] != {"resnet.width": 32} or c["seed"] == 0]
    results = report.analyse(partial)
    assert [net.width for net in results.curves["resnet"]] == [8, 16]
    assert report.left_out_text(results)[-1].startswith("resnet resnet.width=32: not in the widening curve")


def test_each_backbone_is_the_baseline_of_its_methods(campaign):
    deep = rows_of("resnet56", 66, params=850_000) + rows_of("eca_resnet56", 67, params=850_009, jitter=-JITTER)
    result = comparison(campaign + deep, "eca_resnet56")
    assert result.reference.arch == "resnet56" and result.mean == pytest.approx(1, abs=0.02)
    assert comparison(campaign + deep[4:], "eca_resnet56").remark == "not compared: resnet56 itself was not run"


def test_the_default_width_is_the_models():
    for name, backbone in BACKBONES.items():
        if "width" in knobs(backbone.make) and backbone.family == "resnet":
            assert report.default_width(f"eca_{name}") == knobs(backbone.make)["width"].default
    nets = report.analyse(rows_of("resnet", 60, {"resnet.width": 16}) + rows_of("eca_resnet", 61))
    assert nets.methods[0].reference.name == "resnet"


def test_ablations_are_compared_with_their_own_default(campaign):
    found = {result.net.knobs: result for result in report.analyse(campaign).ablations["eca_resnet"]}
    worse, same = found["eca.kernel_size=9"], found["resnet.attention_position=after-add"]
    assert worse.mean == pytest.approx(-2, abs=0.01) and worse.direction == -1
    assert same.direction == 0
    assert worse.p_holm == pytest.approx(min(2 * worse.p, 1))  # Holm within the table of two
    assert worse.remark == ""  # no curve is asked of it


def test_the_cost_pass_replaces_speeds(campaign):
    nets = {report.key_of(content["arch"], content["settings"]): content for content in campaign}.values()
    rows = [{"arch": c["arch"], "settings": c["settings"], "train_imgs_per_s": 2 * c["train_imgs_per_s"],
             "eval_imgs_per_s": 5000.0} for c in nets]  # fmt: skip
    about = {"device": "a GPU", "amp": "off", "batch_size": 128, "torch": "2.15"}
    results = report.analyse(campaign, {**about, "rows": rows})
    assert results.nets[0].imgs_per_s("train_imgs_per_s") == 4000
    assert "cost pass (device a GPU" in report.speed_text(results)
    part = report.analyse(campaign, {**about, "rows": [r for r in rows if r["arch"] != "eca_resnet"]})
    assert ", which has not timed eca_resnet." in report.speed_text(part)  # its ablations show no speeds
    speeds = {name: cells[2:4] for name, *cells in report.main_table(part)}
    assert (speeds["resnet"], speeds["eca_resnet"]) == (["2,000", "5,000"], ["-", "-"])
    gaps = {result.net.arch: result.gaps for result in part.methods}
    assert gaps["eca_resnet"]["training time"].why == "not timed by the cost pass"
    assert not gaps["hornet_resnet"]["training time"].why
    other = report.analyse(campaign, {**about, "batch_size": 64, "rows": rows})
    assert "another batch_size than the cost pass" in report.speed_text(other)


def test_other_weights_at_the_start_are_compared_with_none(tmp_path):
    """Runs that start from published weights are ablations of the same network from scratch, and no other recipe."""
    rows = rows_of("vit", 60, pretrained=False, init_from=None, freeze=None)
    rows += rows_of("vit", 70, jitter=-JITTER, pretrained=True, init_from=None, freeze=None)
    rows += rows_of("vit", 50, jitter=-JITTER, pretrained=True, init_from=None, freeze="backbone")
    speeds = {"rows": [{"arch": "vit", "settings": {}, "train_imgs_per_s": 5.0, "eval_imgs_per_s": 9.0}]}
    results = report.analyse(report.read_rows(write(tmp_path, rows)), speeds)
    scratch, tuned, frozen = sorted(results.nets, key=lambda net: len(net.knobs))
    words = {c.net.knobs: (round(c.mean), c.reference) for c in results.ablations["vit"]}
    assert words == {"pretrained=True": (10, scratch), "freeze=backbone pretrained=True": (-10, scratch)}
    assert scratch.imgs_per_s("train_imgs_per_s") == tuned.imgs_per_s("train_imgs_per_s") == 5.0
    assert frozen.imgs_per_s("train_imgs_per_s") == 1000.0  # the cost pass trains whole networks


def test_foreign_network_is_no_method():
    (net,) = report.analyse(rows_of("torchvision:vgg11_bn", 60)).nets
    assert (net.is_method, net.backbone) == (False, "torchvision:vgg11_bn")


# ------------------------------------------------------------------------------------------------------------ refusals


def test_folds_are_averaged_before_anything_is_compared(tmp_path):
    """A seed counts once: the comparison is that of the folds' means, and the folds are no samples of their own."""
    plain = [*rows_of("resnet", 60), *rows_of("eca_resnet", 63, jitter=-JITTER)]
    (tmp_path / "runs").mkdir()
    rows = report.read_rows(write(tmp_path / "runs", of_folds(plain)))
    assert len(rows) == len(plain)
    compared, expected = comparison(rows, "eca_resnet"), comparison(plain, "eca_resnet")
    assert (compared.mean, compared.half, compared.p) == pytest.approx((expected.mean, expected.half, expected.p))
    results = report.analyse(rows)
    assert results.nets[0].values("top1") == pytest.approx([one["top1"] + 2 for one in plain[:4]])
    assert report.folds_table(results)[1] == ["resnet", "51.00", "1.00", "50.00", "52.00", "4"]
    report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Cross-validation" in text and "mean over 3 folds" in text
    assert "| runs | 8 of 2 networks, each the mean of 3 folds |" in text
    assert "n_train + n_val 20000" in text
    assert "val_top1_of_folds" not in text
    assert report.folds_table(report.analyse(plain)) is None
    assert report.train_loss(results.nets[0]) == 2.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (of_folds([row()])[:2], r"resnet {}, seed 0 lacks fold 2 of 3: train it, or leave out this seed"),
        (of_folds([row()]) + of_folds([row()])[:1], r"resnet {}, seed 0 has fold 0 twice"),
        ([row(), *of_folds([row()])], r"a mixture of recipes: folds is None in \S+ and 3 in \S+; report them apart"),
        (of_folds([row()], 3) + of_folds([row()], 2), r"a mixture of recipes: folds is 3 in \S+ and 2 in \S+"),
        (of_folds([row()], fold=3), "a run of fold 3 of 3 needs a fold below the number of folds"),
        (of_folds([row()], folds="3"), "a run of fold 0 of '3' needs a fold below"),
        (of_folds([row()], val_top1=None), "and a val_top1"),
        (of_folds([row()])[:1] + of_folds([row(params=9)])[1:], "resnet {} has params 100000 in one run and 9"),
    ],
)
def test_folds_that_are_no_partition_are_refused(rows, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        report.read_rows(write(tmp_path, rows))
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert re.search(message.replace("{}", re.escape("{}")), err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 20}, r"a mixture of recipes: epochs is 10 in \S+run0/result.json and 20 in \S+run1/result.json"),
        ({"dataset": "cifar10"}, "a mixture of recipes: dataset is 'shapes100' in"),
        ({"lr": 0.1}, "a mixture of recipes: lr is 0.2 in"),
        ({"n_train": 17000}, "a mixture of recipes: n_train is 18000 in"),
        ({"new_flag": 1}, "a mixture of recipes: new_flag is None in"),
        ({"classes": 9, "per_class_top1": [50.0] * 9}, "a mixture of recipes: classes is 10 in"),
        ({"curve": [{"epoch": 0, "top1": 40.0}]}, "a mixture of recipes: epochs in the curve is 2 in"),
        ({"status": "running"}, "its status is 'running', not 'finished'"),
        ({"top1": math.nan}, "NaN is no measurement"),
        ({"loss": math.inf}, "Infinity is no measurement"),
        ({"per_class_top1": [50.0] * 9 + [math.nan]}, "NaN is no measurement"),
        ({"top1": 100.5, "top5": 100.9}, "top1 must be within 0 and 100, got 100.5"),
        ({"top1": -1.0}, "top1 must be within 0 and 100, got -1.0"),
        ({"top1": "60"}, "top1 must be within 0 and 100, got '60'"),
        ({"top5": 50.0}, "top5 50.0 is below top1 60.0"),
        ({"top1": 60.123}, "top1 60.123 is not a whole number of the 10000 test images"),
        ({"per_class_top1": [101.0] * 10}, r"per_class_top1\[0\] must be within 0 and 100"),
        ({"per_class_top1": [50.0] * 9}, "per_class_top1 must be a list with a number for each class"),
        ({"curve": []}, "curve must be a list with an object for each epoch"),
        ({"curve": [{"epoch": 0}] * 2}, r"curve\[0\].top1 must be within 0 and 100, got None"),
        ({"best_on_test_minus_last": -0.1}, "best_on_test_minus_last must be within 0 and 100"),
        ({"params": -1}, "params must be a number above 0, got -1"),
        ({"train_imgs_per_s": 0}, "train_imgs_per_s must be a number above 0, got 0"),
        ({"n_val": -5}, "n_val must be a number, 0 or more, got -5"),
        ({"seed": None}, "seed must be of type int, got None"),
        ({"arch": 5}, "arch must be of type str, got 5"),
        ({"arch": "resnet", "seed": 0}, "resnet has seed 0 twice"),
        ({"arch": "resnet", "seed": 1, "params": 7}, "resnet has params 100000 in one run and 7 in another"),
    ],
)
def test_bad_rows_are_refused_in_one_line(changed, message, tmp_path, capsys):
    write(tmp_path / "runs", [row(), row("eca_resnet") | changed])
    refused(tmp_path, capsys, message)


@pytest.mark.parametrize("name", ["arch", "seed", "top1", "macs", "curve", "dataset", "commit", "status"])
def test_a_missing_field_is_refused(name, tmp_path, capsys):
    write(tmp_path / "runs", [{key: value for key, value in row().items() if key != name}])
    refused(tmp_path, capsys, f"it has no {name}")


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"top1": 60', "\x00"])
def test_what_is_no_json_object_is_refused(content, tmp_path, capsys):
    write(tmp_path / "runs", [row()])
    (tmp_path / "runs" / "run0" / "result.json").write_text(content)
    refused(tmp_path, capsys, "result.json cannot be used")


def test_no_runs_are_refused(tmp_path, capsys):
    refused(tmp_path, capsys, "no result.json below")


@pytest.mark.parametrize(
    "rows", [[{"arch": "resnet", "settings": {}, "train_imgs_per_s": -1, "eval_imgs_per_s": 1}], [{}]]
)
def test_a_bad_cost_pass_is_refused(rows, tmp_path, capsys):
    write(tmp_path / "runs", [row()])
    (tmp_path / "runs" / "cost.json").write_text(json.dumps({"rows": rows}))
    refused(tmp_path, capsys, "cost.json cannot be used")


def refused(folder, capsys, message):
    with pytest.raises(SystemExit) as refusal:
        report.main([str(folder / "runs"), "--out", str(folder / "report")])
    assert refusal.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("report.py: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not (folder / "report").exists()


# ---------------------------------------------------------------------------------------------------------- the report


def make(rows, folder, cost_pass=None):
    """Writes rows, reports on them, and returns report.md."""
    write(folder / "runs", rows)
    if cost_pass:
        (folder / "runs" / "cost.json").write_text(json.dumps(cost_pass))
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


def test_report_holds_the_rows_numbers(campaign, tmp_path):
    text = make(campaign, tmp_path)
    networks, verdicts = table_after(text, "## All networks"), table_after(text, "## Verdicts")
    top1 = np.array([c["top1"] for c in campaign if c["arch"] == "hornet_resnet"])
    base = np.array([c["top1"] for c in campaign if c["arch"] == "resnet" and not c["settings"]])
    half = stats.t.ppf(0.975, 3) * stats.sem(top1)
    assert networks["hornet_resnet"] == [
        "180,000", "18.0", "600", "1,800", "500", "10.0", f"{top1.mean():.2f} ± {half:.2f}", f"{top1.mean() + 20:.2f}", "5.00", "4",
    ]  # fmt: skip
    assert set(networks) >= {"resnet", "resnet resnet.width=8", "resnet resnet.width=32", "mixer_resnet"}
    half = stats.t.ppf(0.975, 3) * stats.sem(top1 - base)
    assert verdicts["hornet_resnet"][0] == f"{(top1 - base).mean():+.2f} ± {half:.2f}"
    ghost = np.array([c["top1"] for c in campaign if c["arch"] == "ghostnet_resnet"])
    assert verdicts["ghostnet_resnet"][1] == f"{stats.ttest_rel(ghost, base).pvalue:.3f}"
    assert verdicts["hornet_resnet"][-1] == "no better than widening"
    assert table_after(text, "## Ablations of eca_resnet")["eca.kernel_size=9"][-1] == "worse"
    assert report.RULE in text


def test_the_answer_is_computed(campaign, tmp_path):
    answer = make(campaign, tmp_path, timed(campaign)).split("\n\n")[1]
    assert answer.count(". ") == 2 and answer.endswith(".")
    assert "Of 4 methods trained for 10 epochs on shapes100 with 4 seeds" in answer
    assert "1 helps: eca_resnet +3.00 ± " in answer and "for 1 there is no evidence: ghostnet_resnet" in answer
    assert (
        "Of the 4 that can be compared with a ResNet of equal cost, ahead at one cost at least: 1, behind: 2;" in answer
    )
    assert "the largest of these 12 distances" in answer and "that of eca_resnet at equal MACs: +3.00 ± " in answer


def test_the_answer_counts_what_can_be_compared():
    rows = widths() + rows_of("eca_resnet", 63)
    rows += rows_of("gmlp_resnet", 65, params=10_000_000, macs=10**9, speed=1.0)
    sentence = report.cost_sentence(report.analyse(rows, timed(rows)))
    assert sentence.startswith(
        "Of the 1 that can be compared with a ResNet of equal cost, ahead at one cost at least: 1,"
    )


def test_csv_holds_every_run(campaign, tmp_path):
    make(campaign, tmp_path)
    with (tmp_path / "report" / "results.csv").open() as file:
        found = list(csv.DictReader(file))
    key = lambda c: (c["arch"], str(c["seed"]), str(c["top1"]), str(c["params"]))  # noqa: E731
    assert sorted(map(key, found)) == sorted(map(key, campaign))
    assert {c["settings"] for c in found if c["arch"] == "resnet"} == {"", "resnet.width=8", "resnet.width=32"}


def test_the_same_rows_give_the_same_report(campaign, tmp_path):
    first = make(campaign, tmp_path / "a")
    second = make(campaign[::-1], tmp_path / "b")  # found in another order
    assert first == second
    assert (tmp_path / "a/report/results.csv").read_bytes() == (tmp_path / "b/report/results.csv").read_bytes()
    assert "2026" not in first


def test_networks_of_several_machines_are_told_apart(campaign, tmp_path):
    for content in campaign:
        if content["arch"] == "gmlp_resnet":
            content["device"] = "a GPU"
    told = report.machines_text(report.analyse(campaign))
    assert told.endswith(" on 1 x a CPU; gmlp_resnet on 1 x a GPU.")
    assert "eca_resnet" in told and "eca.kernel_size" not in told  # no memory is shown of an ablation
    assert "comparable between networks of one machine only" in make(campaign, tmp_path)
    assert report.machines_text(report.analyse(rows_of("resnet", 60))) == ""


def test_an_ablation_on_several_machines_says_so(campaign, tmp_path):
    """What differs may be the machine."""
    assert "this table.\n" in make(campaign, tmp_path / "one")
    for content in campaign:
        if content["settings"] == {"eca.kernel_size": 9}:
            content["device"] = "a GPU"
    told = "(default) and resnet.attention_position=after-add on 1 x a CPU; eca.kernel_size=9 on 1 x a GPU."
    assert f"this table. Trained were {told}\n" in make(campaign, tmp_path / "two")


def test_without_a_curve_equal_cost_is_one_sentence(tmp_path):
    narrow = rows_of("resnet", 56, {"resnet.width": 8}, seeds=(0,))
    text = make(rows_of("resnet", 60) + narrow + rows_of("eca_resnet", 63), tmp_path)
    assert "## Equal cost\n\nNothing is said: no second width" in text
    assert "at equal parameters" not in text.split("## Equal cost")[1]


def test_one_noisy_method_does_not_speak_for_the_power_of_all(campaign):
    judged = report.analyse(campaign).judged
    for result, detectable in zip(judged, (1.0, 2.0, 3.0, 57.0), strict=True):
        result.detectable = detectable
    told = report.power_sentence(judged)
    assert "half of the comparisons have a chance of 80% to find a true difference of 2.5 points" in told
    assert "(by their spreads 1.0 to 57.0)" in told


def test_one_seed_gives_numbers_and_no_verdict(campaign, tmp_path):
    text = make([c for c in campaign if c["seed"] == 0], tmp_path)
    assert text.split("\n\n")[1].startswith("There is no verdict: one seed was run.")
    verdicts = table_after(text, "## Verdicts")
    assert verdicts["eca_resnet"] == ["+2.90", "-", "-", "-", "1.00 / 1.00 / -", "-"]
    assert not {cells[-1] for cells in verdicts.values()} & set(report.WORDS)
    assert "- eca_resnet: not judged: one seed" in text


def test_ablations_alone_make_a_report(campaign, tmp_path):
    text = make([c for c in campaign if c["arch"] == "eca_resnet"], tmp_path)
    assert text.split("\n\n")[1].startswith(
        "Of 2 settings compared with their architecture's default, better: none; worse: "
    )
    assert "- eca_resnet: not compared: resnet itself was not run" in text


def test_baselines_alone_make_a_report(tmp_path):
    assert "There is no verdict: no method was run" in make(widths(), tmp_path)


def test_bias_of_the_best_epoch(tmp_path):
    watched = [
        c | {"best_on_test_minus_last": bias, "val_top1": None, "n_val": 0}
        for c, bias in zip(widths(), [0.2, 1.0] * 6, strict=True)
    ]
    assert "would have added 0.60 points on average and 1.00 at most (n = 12 runs)" in make(watched, tmp_path)


def test_slides_hold_the_numbers_in_the_assignments_order(campaign, tmp_path):
    text = make(campaign, tmp_path)
    slides = slide_texts(tmp_path / "report" / "slides.pptx")
    titles = [title for title, _ in slides]
    order = ("Goal", "The ResNet", "Design", "Results", "Efficiency", "Ablations", "What helped", "Limits")
    starts = [next(i for i, title in enumerate(titles) if title.startswith(word)) for word in order]
    assert starts == sorted(starts)
    by_title = dict(slides)
    for heading, title in (
        ("## Verdicts", "Results: verdicts"),
        ("## All networks", "Results: all networks"),
        ("## Equal cost", "Efficiency: points over a ResNet of equal cost"),
        ("## Ablations of eca_resnet", "Ablations of eca_resnet"),
    ):
        for first, cells in table_after(text, heading).items():
            if first != "---":
                assert {first, *cells} <= set(by_title[title]), first
    lines = dict(
        zip(by_title["The ResNet and the methods"][::3], by_title["The ResNet and the methods"][2::3], strict=True)
    )
    assert lines["eca"] == report.readme_lines()["eca"][1]
    assert "Helps: eca_resnet +3.00 ± " in " ".join(by_title["What helped and what did not"])


def test_nothing_on_a_slide_leaves_it(campaign, tmp_path):
    make(campaign, tmp_path)
    deck = pptx.Presentation(tmp_path / "report" / "slides.pptx")
    for slide in deck.slides:
        for shape in slide.shapes:
            height = sum(r.height for r in shape.table.rows) if shape.has_table else shape.height
            assert shape.left + shape.width <= deck.slide_width and shape.top + height <= deck.slide_height


def test_font_shrinks_until_the_text_fits():
    assert report.font_that_fits(["short"], 12, 5) == 24
    small = report.font_that_fits(["word " * 400], 12, 5)
    assert 9 < small < 24
    assert 2000 / (72 * 12 / (report.CHARACTER * small)) * report.LINE * small <= 72 * 5


def test_charts_are_written_and_old_ones_removed(campaign, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "superclasses.png").write_text("of an earlier report")
    text = make(campaign, tmp_path, timed(campaign))
    charts = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert charts == set(report.CHARTS) - {"superclasses"}
    assert all(f"({name}.png)" in text for name in charts) and "superclasses.png" not in text
    (tmp_path / "runs" / "cost.json").unlink()
    report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "report")])
    assert {path.stem for path in (tmp_path / "report").glob("*.png")} == charts - {"cost_time"}


def test_labels_cover_no_other_label_and_no_point():
    crowd = widths()
    for i, name in enumerate(METHODS):
        crowd += rows_of(f"{name}_resnet", 60.2 + i / 20, params=99_000 + 500 * i)
    with report.plt.rc_context(report.STYLE):
        figure = report.plt.figure(figsize=report.CHART_SIZE)
        report.draw_cost(figure, report.analyse(crowd), "parameters")
        figure.canvas.draw()
        (ax,) = figure.axes
        boxes = [text.get_window_extent() for text in ax.texts]
        points = ax.transData.transform([label.xy for label in ax.texts])
        report.plt.close(figure)
    assert len(boxes) == 3 + len(METHODS)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*point) for point in points)


def test_depth_with_and_without_shortcuts():
    """Top-1 of 60 and 52 without shortcuts, of 62 and 65 with them, noise aside; the deeper network of each kind last."""
    rows = []
    for arch, mean, loss in (("plain56", 52, 2.5), ("plain20", 60, 2.0), ("resnet56", 65, 1.5), ("resnet", 62, 1.75)):
        for entry in rows_of(arch, mean):
            entry["curve"] = [line | {"train_loss": loss} for line in entry["curve"]]
            rows.append(entry)
    header, *table = report.depth_table(report.analyse(rows))
    assert [line[:2] for line in table] == [["plain20", "20"], ["plain56", "56"], ["resnet", "20"], ["resnet56", "56"]]
    to_shallowest, to_resnet, losses = (
        [line[header.index(title)] for line in table]
        for title in ("to the shallowest of its kind", "to the ResNet of its depth", "training loss")
    )
    assert to_shallowest == ["-", "-8.00", "-", "+3.00"]  # the same noise in each: no interval
    assert to_resnet == ["-2.00", "-13.00", "-", "-"]
    assert losses == ["2.000", "2.500", "1.750", "1.500"]
    first, second, _ = report.opening(report.analyse(rows))
    assert "From 20 to 56 layers networks without shortcuts change by -8.00 points" in first
    assert first.endswith("+0.500.")
    assert "ResNets change by +3.00 points" in second
    assert report.depth_table(report.analyse(rows_of("resnet", 60) + rows_of("resnet56", 61))) is None


def test_superclass_differences(campaign, tmp_path):
    """A method that gains 10 points in the five classes of superclass 7 gains 10 there and 0 elsewhere."""
    gain = 10.0 * np.equal(report.SUPERCLASS_OF, 7)
    rows = [
        c | {"dataset": "cifar100", "classes": 100, "per_class_top1": list(50.0 + gain * (c["arch"] == "eca_resnet"))}
        for c in campaign
    ]
    table = table_after(make(rows, tmp_path), "## Superclasses")
    column = table["superclass"].index("eca_resnet")
    assert {name: cells[column] for name, cells in table.items() if cells[column] == "+10.0"} == {"insects": "+10.0"}
    assert table["fish"][column] == "+0.0"
    assert (tmp_path / "report" / "superclasses.png").exists()


def test_superclasses_have_five_classes_each():
    assert np.array_equal(np.bincount(report.SUPERCLASS_OF), [5] * 20)


@pytest.mark.skipif(
    "CIFAR100_DIR" not in os.environ, reason="CIFAR100_DIR names no folder with CIFAR-100's parquet files"
)
def test_superclasses_are_the_datas():
    from datasets import Dataset

    path = next(Path(os.environ["CIFAR100_DIR"]).glob("test-*.parquet"))
    data = Dataset.from_parquet(str(path), columns=["fine_label", "coarse_label"])
    labels = dict(zip(data["fine_label"], data["coarse_label"], strict=True))
    assert labels == dict(enumerate(report.SUPERCLASS_OF))


def test_the_readme_has_a_line_for_every_method():
    assert set(report.readme_lines()) == set(METHODS)


# --------------------------------------------------------------------------------------------------------------- costs


def costs(**other):
    """A costs.json of four networks at two sizes, one of which fits one size only."""
    rows = []
    for size in (32, 224):
        for i, arch in enumerate(("resnet", "eca_resnet", "vit")):
            macs, speed = 40_000_000 * (i + 1) * size**2 // 1024, 3000.0 / (i + 1)
            rows.append({"arch": arch, "settings": {}, "image_size": size, "params": 275_572 + i, "macs": macs,
                         "train_step_ms": 128e3 / speed, "train_imgs_per_s": speed, "eval_imgs_per_s": 3 * speed,
                         "train_tflops": 6e-12 * macs * speed, "peak_memory_mb": 700.0})  # fmt: skip
    rows.append(
        {"arch": "lenet", "settings": {"lenet.width": 2}, "image_size": 224, "problem": "lenet is for 32 pixels"}
    )
    return {
        "device": "a GPU",
        "amp": "bfloat16",
        "compile": False,
        "batch_size": 128,
        "torch": "2.15",
        "rows": rows,
    } | other


def make_costs(content, folder):
    (folder / "costs.json").write_text(json.dumps(content))
    report.main([str(folder / "costs.json")])
    return (folder / "report" / "costs.md").read_text()


def test_costs_become_a_table_a_csv_and_a_chart_for_each_size(tmp_path, capsys):
    text = make_costs(costs(), tmp_path)
    row = "| eca_resnet | 32 | 275,573 | 80.0 | 85.3 | 1,500 | 4,500 | 0.72 | 700 |"
    assert row in text
    assert row in capsys.readouterr().out
    assert "| lenet lenet.width=2 | 224 | - | - |" in text
    assert "- lenet at 224: lenet is for 32 pixels" in text
    assert "device a GPU, amp bfloat16" in text
    table = list(csv.DictReader((tmp_path / "report" / "costs.csv").open()))
    assert [(r["arch"], r["image_size"]) for r in table][2:4] == [("vit", "32"), ("resnet", "224")]
    assert (table[1]["params"], table[-1]["settings"]) == ("275573", "lenet.width=2")
    assert {file.name for file in (tmp_path / "report").glob("*.png")} == {"costs_32.png", "costs_224.png"}


@pytest.mark.parametrize("rows", [[], [{"arch": "resnet", "settings": {}, "image_size": 32}], [{"problem": "none"}]])
def test_bad_costs_are_refused_in_one_line(rows, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        make_costs(costs(rows=rows), tmp_path)
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert "cannot be used: a row needs arch" in err
    assert err.count("\n") == 1


# -------------------------------------------------------------------------------------------------------------- recipes


def recipes_in(folder, rows):
    report.main([str(write(folder, rows)), "--recipes"])
    return (folder / "report" / "recipes.md").read_text()


def test_recipes_are_compared_on_the_validation_split(tmp_path, capsys):
    adamw = {"optimizer": "adamw", "lr": 0.002}
    rows = [row(val_top1=40.0, top1=70.0), row(val_top1=42.0, seed=1), row(val_top1=41.5, **adamw),
            row("eca_resnet", settings={"eca.kernel_size": 5}, val_top1=50.0, **adamw), row("eca_resnet", val_top1=51.0, **adamw),
            row(val_top1=43.0, lr=0.02, commit=None)]  # fmt: skip
    text = recipes_in(tmp_path, rows)
    tables = """\
eca_resnet

| knobs | optimizer | lr | top-1 | seeds | of each seed |
| --- | --- | --: | --: | --: | --: |
| as it is | adamw | 0.002 | 51.00 | 0 | 51.00 |
| eca.kernel_size=5 | adamw | 0.002 | 50.00 | 0 | 50.00 |

## resnet

| optimizer | lr | top-1 | seeds | of each seed |
| --- | --: | --: | --: | --: |
| sgd | 0.02 | 43.00 | 0 | 43.00 |
| adamw | 0.002 | 41.50 | 0 | 41.50 |
| sgd | 0.2 | 41.00 | 0 and 1 | 40.00, 42.00 |
"""
    assert f"\n## {tables}\nAll recipes share: dataset shapes100, epochs 10, batch_size 128," in text
    assert "eca_resnet\n| knobs | optimizer" in capsys.readouterr().out
    assert "2,000 images held out of train, after the last epoch, as the mean over seeds" in text
    assert "- commits: None (1 runs); abc (5 runs)" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "resnet has seed 0 twice under one recipe"),
        ({"lr": 0.1, "n_val": 3000}, "recipes are compared on one held-out part of one dataset"),
        ({"lr": 0.1, "folds": 5, "fold": 0}, "report others, and folds, apart"),
    ],
)
def test_recipes_are_compared_on_one_held_out_part(changed, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        recipes_in(tmp_path, [row(), row() | changed])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_recipes_are_not_chosen_on_the_test_set(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        recipes_in(tmp_path, [row(), row(lr=0.1, val_top1=None, val_size=0)])
    assert exit.value.code == 2
    assert "report.py: recipes are compared on held-out images" in capsys.readouterr().err
