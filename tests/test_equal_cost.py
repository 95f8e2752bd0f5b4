from tests.reports import comparison, make, table_after  # skips this file where report.py's packages are missing

# isort: split
import math

import numpy as np
import pytest

from noise import t_interval
from notes import design_table, left_out_text, speed_text
from rows import COSTS, key_of
from sentences import cost_sentence, verdict_lists
from tables import main_table, relative_costs
from tests.report_rows import JITTER, NOISE, SEEDS, row, rows_of, timed, widths
from verdicts import analyse


def test_gap_at_equal_cost_varies_with_method_and_curve():
    """Half-way between widths 16 and 32 in log(cost) the curve of seed s is the mean of its two top-1."""
    cost = {"params": round(100_000 * math.sqrt(2)), "macs": round(1e7 * math.sqrt(2)), "speed": 1000 / math.sqrt(2)}
    gaps = comparison(widths() + rows_of("eca_resnet", 63, jitter=3 * JITTER, **cost), "eca_resnet").gaps
    on_curve = 62 + NOISE + 0.5 / 2 * JITTER
    mean, half = t_interval(63 + NOISE + 3 * JITTER - on_curve)
    for name in COSTS:
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
    assert relative_costs(result) == "1.00 / 1.00 / 1.00"
    result = comparison(rows, "eca_resnet", {"rows": speeds[:1]})
    assert relative_costs(result) == "1.00 / 1.00 / -"
    trainings_alone = {"rows": []}
    result = comparison(rows, "eca_resnet", trainings_alone)
    assert result.gaps["training time"].why == "not timed by the cost pass"
    assert relative_costs(result) == "1.00 / 1.00 / -"


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


def test_a_loss_that_no_narrower_width_was_trained_for_says_so():
    rows = widths() + rows_of("ghostnet_resnet", 50, params=30_000, macs=10_000_000, speed=1000.0, jitter=-JITTER)
    (result,) = analyse(rows, timed(rows)).methods
    assert result.remark.endswith(
        "the widening curve has no backbone as cheap in parameters: a narrower one might lose less"
    )


def test_a_loss_at_a_higher_cost_than_any_widths_is_not_called_cheap():
    rows = widths() + rows_of("ghostnet_resnet", 50, params=300_000, macs=10_000_000, speed=1000.0, jitter=-JITTER)
    (result,) = analyse(rows, timed(rows)).methods
    assert result.gaps["parameters"].why == "outside the curve" and result.word == "hurts"
    assert "as cheap" not in result.remark


def test_a_width_that_saves_no_time_is_told_to_be_left_out():
    rows = widths()
    for each in rows:
        if each["settings"] == {"resnet.width": 8}:
            each["train_imgs_per_s"] = 990.0
    assert left_out_text(analyse(rows, timed(rows))) == [
        "resnet resnet.width=8: not in the curve at equal training time, because a wider one takes less time, or hardly more"
    ]
    for each in rows[-len(SEEDS) :]:
        each["train_imgs_per_s"] = 2000.0  # a wide network as fast as the narrow ones, but for a seed it lost
    rows[-1]["top1"] = 10.0
    assert sum("equal training time" in line for line in left_out_text(analyse(rows, timed(rows)))) == 1


def test_a_method_with_all_seeds_outside_the_curve_is_not_told_to_lack_seeds():
    rows = widths() + rows_of("gmlp_resnet", 61, params=10, macs=10, speed=1e6, jitter=-JITTER)
    rows += rows_of("eca_resnet", 63, seeds=SEEDS[:2])
    said = cost_sentence(analyse(rows, timed(rows)))
    assert said == "No method that was judged could be compared with a ResNet of another width, which may do as well."


def test_helps_is_lost_below_the_curve_at_one_cost(campaign):
    for content in campaign:
        if content["arch"] == "eca_resnet":
            content["train_imgs_per_s"] = 510.0  # at nearly the time of width 32, which has 64
    result = comparison(campaign, "eca_resnet")
    assert result.where("above") == ["parameters", "MACs"] and result.where("below") == ["training time"]
    assert result.word == "no better than widening"
    assert "below the widening curve at equal training time" in result.remark


@pytest.mark.parametrize(
    ("params", "mean", "why"),
    [(60_000, 61, "no width near it"), (60_000, 50, ""), (33_000, 61, ""), (99_000, 61, ""), (150_000, 61, "")],
)
def test_between_widths_too_far_apart_only_a_loss_is_told(params, mean, why):
    """Width 8 has a third of width 16's parameters, and 32 twice as many: the true curve is above the line from 8 to 16."""
    rows = widths() + rows_of("eca_resnet", mean, jitter=-JITTER, params=params)
    for content in rows:
        if content["settings"] == {"resnet.width": 8}:
            content["params"] = 33_000
    assert comparison(rows, "eca_resnet").gaps["parameters"].why == why


def test_a_gain_below_a_line_between_far_widths_is_no_help():
    rows = [content for content in widths() if content["settings"].get("resnet.width") != 8]
    cost = {"params": 200_000, "macs": 20_000_000, "speed": 500.0}
    rows += rows_of("eca_resnet", 61, jitter=-JITTER, **cost)
    for content in rows:
        if content["settings"] == {"resnet.width": 32}:
            content.update(params=400_000, macs=40_000_000, train_imgs_per_s=250.0)
    assert comparison(rows, "eca_resnet").word == "no better than widening"


def test_what_costs_more_saves_nothing():
    """It beats width 32, which is worse than the baseline."""
    rows = widths() + rows_of("eca_resnet", 59, jitter=-JITTER, params=150_000, macs=15_000_000, speed=670.0)
    for content in rows:
        if content["settings"] == {"resnet.width": 32}:
            content["top1"] -= 14
    result = comparison(rows, "eca_resnet")
    assert result.where("above") == list(COSTS) and result.word == "hurts"


def test_a_saving_is_corrected_for_all_methods_and_costs():
    rows, cost = widths(), {"params": 70_710, "macs": 7_071_000, "speed": 1414.0}
    wide = np.array([0.1, -0.1, 0.05, -0.05]) * 2
    for method in ("eca", "se", "gmlp", "mixer", "ghostnet"):
        rows += rows_of(f"{method}_resnet", 58.25, jitter=-wide, **cost)
    alone = comparison([content for content in rows if content["arch"] in ("resnet", "eca_resnet")], "eca_resnet")
    together = comparison(rows, "eca_resnet")
    assert alone.gaps["parameters"].p_holm == pytest.approx(3 * alone.gaps["parameters"].p)
    assert together.gaps["parameters"].p_holm == pytest.approx(min(1, 15 * together.gaps["parameters"].p))


def test_a_saving_that_is_not_significant_after_correction_is_none():
    rows = widths() + rows_of("ghostnet_resnet", 59, params=55_000, macs=5_500_000, speed=1900.0, jitter=-JITTER)
    result = comparison(rows, "ghostnet_resnet")
    assert result.word == "better than narrowing"
    for gap in result.gaps.values():
        gap.p_holm = 0.2
    assert result.where("above") and result.word == "hurts"


def test_the_largest_difference_from_the_curve_is_one_that_is_clear():
    rows = widths() + rows_of("eca_resnet", 63, jitter=-JITTER) + rows_of("se_resnet", 62, jitter=-JITTER)
    results = analyse(rows, timed(rows))
    for gap in results.methods[0].gaps.values():
        gap.half = 9.0  # ECA's, whose mean is larger
    assert " the largest gain whose interval lies above 0 is that of SE at equal " in cost_sentence(results)


@pytest.mark.parametrize("lost", [SEEDS, (1,)])
def test_a_width_that_ended_at_chance_leaves_the_curve(lost):
    rows = widths() + rows_of("ghostnet_resnet", 58, params=55_000, jitter=-JITTER)
    for content in rows:
        if content["settings"] == {"resnet.width": 8} and content["seed"] in lost:
            content["top1"] = 10.0
    results = analyse(rows)
    assert results.methods[0].gaps["parameters"].why == "outside the curve" and results.methods[0].word == "hurts"
    seeds = "seeds 0, 1, 2 and 3" if len(lost) > 1 else "seed 1"
    why = f"not in the widening curve, because it ended at chance with {seeds}"
    assert left_out_text(results)[-1] == f"resnet resnet.width=8: {why}"
    (curve,) = [value for name, value in design_table(results) if name == "equal cost"]
    assert curve.startswith("resnet at widths 16 and 32, whose top-1 against cost is the widening curve")


@pytest.mark.parametrize(("seed", "is_curve"), [(1, False), (9, True)])
def test_a_curve_needs_two_widths_that_learned_with_the_baselines_seeds(seed, is_curve):
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    rows += [row("resnet", 64, s, {"resnet.width": 32}, params=200_000) for s in SEEDS if s != seed]
    rows.append(row("resnet", 10, seed, {"resnet.width": 32}, params=200_000))
    for content in rows:
        content["train_imgs_per_s"] = 1000.0  # so the wider one takes as long
    results = analyse(rows, timed(rows))
    assert results.has_curve == is_curve
    assert any("resnet: not in the curve at equal training time" in line for line in left_out_text(results)) == is_curve


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


def test_a_width_without_all_seeds_is_not_in_the_curve(campaign):
    partial = [c for c in campaign if c["settings"] != {"resnet.width": 32} or c["seed"] == 0]
    results = analyse(partial)
    assert [net.width for net in results.curves["resnet"]] == [8, 16]
    assert left_out_text(results)[-1].startswith("resnet resnet.width=32: not in the widening curve")


def test_the_cost_pass_replaces_speeds(campaign):
    nets = {key_of(content["arch"], content["settings"]): content for content in campaign}.values()
    rows = [{"arch": c["arch"], "settings": c["settings"], "train_imgs_per_s": 2 * c["train_imgs_per_s"],
             "eval_imgs_per_s": 5000.0} for c in nets]  # fmt: skip
    about = {"device": "a GPU", "amp": "off", "batch_size": 128, "torch": "2.15"}
    results = analyse(campaign, {**about, "rows": rows})
    assert results.nets[0].imgs_per_s("train_imgs_per_s") == 4000
    assert "cost pass (device a GPU" in speed_text(results)
    part = analyse(campaign, {**about, "rows": [r for r in rows if r["arch"] != "eca_resnet"]})
    assert " It has not timed eca_resnet." in speed_text(part)  # its ablations show no speeds
    speeds = {name: cells[2:4] for name, *cells in main_table(part)}
    assert (speeds["resnet"], speeds["eca_resnet"]) == (["2,000", "5,000"], ["-", "-"])
    gaps = {result.net.arch: result.gaps for result in part.methods}
    assert gaps["eca_resnet"]["training time"].why == "not timed by the cost pass"
    assert not gaps["hornet_resnet"]["training time"].why
    other = analyse(campaign, {**about, "batch_size": 64, "rows": rows})
    assert "differ in batch_size" in speed_text(other)


def test_the_cost_pass_adds_latencies(campaign, tmp_path):
    cost_pass = timed([c for c in campaign if c["arch"] != "gmlp_resnet"])
    assert "atency" not in make(campaign, tmp_path / "old", cost_pass)
    cost_pass["latency"] = {"trained": "PyTorch on a CPU, 3 threads per process", "exported": None}
    for one in cost_pass["rows"]:
        one |= {"latency_ms": 3.456, "latency_p95_ms": 12.34}
    text = make(campaign, tmp_path / "new", cost_pass)
    table = table_after(text, "### All networks")
    cells = {name: row[table["arch"].index("latency, ms: median / p95")] for name, row in table.items()}
    assert (cells["resnet"], cells["gmlp_resnet"]) == ("3.46 / 12.3", "-")
    assert "took turns (as trained: PyTorch on a CPU, 3 threads per process)." in text
    assert (
        "{" not in text.split("### All networks")[1].split("##")[0]
    )  # as the places would look in the list of conditions
    header, *lines = (tmp_path / "new" / "report" / "results.csv").read_text().splitlines()
    assert header.endswith(",cost_pass_eval_imgs_per_s,cost_pass_latency_ms,cost_pass_latency_p95_ms")
    assert {line.rsplit(",", 2)[1] for line in lines} == {"3.456", ""}
    cost_pass["rows"][0]["latency_ms"] = -1.0
    with pytest.raises(SystemExit):
        make(campaign, tmp_path / "bad", cost_pass)


def test_what_beats_a_narrower_network_says_at_which_cost():
    rows = widths() + rows_of("ghostnet_resnet", 58, params=55_000, jitter=-JITTER)
    results = analyse(rows, timed(rows))
    told = " (above a ResNet at equal parameters, below a ResNet at equal MACs and training time)"
    assert dict(verdict_lists(results))["hurts"].endswith(told)
    (result,) = results.methods
    assert result.direction == -1 and result.word == "hurts"
    assert "above the widening curve at equal parameters" in result.remark
    rows = widths() + rows_of("ghostnet_resnet", 59, params=55_000, macs=5_500_000, speed=1900.0, jitter=-JITTER)
    told = " (above a ResNet at equal parameters, MACs and training time)"
    assert dict(verdict_lists(analyse(rows, timed(rows))))["better than narrowing"].endswith(told)
