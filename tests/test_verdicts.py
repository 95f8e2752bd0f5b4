from tests.reports import (  # skips this file where report.py's packages are missing
    comparison,
    make,
    plus_segnext,
    table_after,
)

# isort: split
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from noise import detectable_effect, t_interval
from notes import design_table, have_same_seeds, left_out_text, origins, short_commit, speed_text
from rows import COSTS, SUPERCLASS_OF, key_of
from sentences import cost_sentence, opening, others_sentence, power_sentence, verdict_lists
from slides import cost_notes
from tables import ablation_table, by_seed, main_table, relative_costs, superclass_table, verdict_table
from tests.report_rows import JITTER, NOISE, SEEDS, row, rows_of, timed, widths
from verdicts import SuperclassMap, analyse


def test_detectable_difference_is_that_of_the_strictest_test(campaign):
    result = comparison(campaign, "ghostnet_resnet")  # one of four methods judged
    assert result.detectable == pytest.approx(detectable_effect(result.estimate.df, 0.05 / 4) * result.estimate.error)


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
        words = {result.net.arch: (result.word, result.direction) for result in analyse(rows, timed(rows)).methods}
        found += words.pop("hornet_resnet")[0] == "helps"
        false_calls += any(direction for _, direction in words.values())
        false_help += any(word == "helps" for word, _ in words.values())
    assert found > 285
    assert 0 < false_calls < 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)
    assert false_help <= false_calls


def test_each_word_is_earned(campaign):
    words = {result.net.arch: result.word for result in analyse(campaign, timed(campaign)).methods}
    assert words == {
        "eca_resnet": "helps",
        "hornet_resnet": "no better than widening",
        "ghostnet_resnet": "no evidence",
        "gmlp_resnet": "hurts",
        "mixer_resnet": "",
    }


def test_a_difference_that_the_correction_takes_away_is_remarked():
    """No interval that excludes 0 stands beside "no evidence" without a reason."""
    rng = np.random.default_rng(0)
    rows = rows_of("resnet", 60, seeds=(0, 1, 2))
    means = {"eca": 61.0} | dict.fromkeys(("cspnet", "hornet", "gmlp", "mixer", "ghostnet", "resnest", "coatnet"), 60.0)
    for method, mean in means.items():
        rows += rows_of(f"{method}_resnet", mean, seeds=(0, 1, 2), jitter=rng.permutation([-0.4, 0.0, 0.4]))
    result = comparison(rows, "eca_resnet")
    assert result.mean > result.half and result.word == "no evidence"
    assert result.remark == f"above resnet if tested alone (p = {result.p:.3f}), but not as one of 8 comparisons"
    for other in analyse(rows, timed(rows)).judged:
        assert (abs(other.mean) < other.half) or other.direction or "if tested alone" in other.remark


def test_two_seeds_make_a_family_and_one_does_not():
    """With two seeds the difference is tested by its own noise, as Student's t with one degree of freedom."""
    means = {"resnet": 60, "eca_resnet": 63, "ghostnet_resnet": 59}
    jitters = {"resnet": (0, 0), "eca_resnet": (0.1, -0.1), "ghostnet_resnet": (0.4, -0.4)}
    rows = [row for arch, mean in means.items() for row in rows_of(arch, mean, seeds=(0, 1), jitter=jitters[arch])]
    eca, ghostnet = (comparison(rows, arch) for arch in ("eca_resnet", "ghostnet_resnet"))
    # differences 3.1 and 2.9: t = 3 / 0.1; -0.6 and -1.4: t = -1 / 0.4; two-sided p of one degree: 1 - 2 atan(t) / pi
    assert eca.p == pytest.approx(1 - 2 * math.atan(30) / math.pi)
    assert ghostnet.p == pytest.approx(1 - 2 * math.atan(2.5) / math.pi)
    assert (eca.p_holm, ghostnet.p_holm) == pytest.approx((2 * eca.p, ghostnet.p))
    assert (eca.family_size, ghostnet.family_size) == (2, 2)
    assert (eca.word, ghostnet.word) == ("helps", "no evidence")
    assert "only one seed" not in eca.remark + ghostnet.remark
    alone = comparison([row for row in rows if row["seed"] == 0], "eca_resnet")
    assert not alone.judged and alone.family_size == 0 and alone.word == ""
    assert alone.remark == "not judged: only one seed"


def test_a_noisy_method_is_named_and_keeps_its_noise(campaign):
    noisy = [row("segnext_resnet", top1, seed) for seed, top1 in enumerate((50, 62, 47, 65))]
    result = comparison(campaign + noisy, "segnext_resnet")
    assert result.word == "no evidence" and result.half > 10
    assert result.remark.startswith(
        "segnext_resnet is far noisier than the other networks (standard deviation over seeds: 8.8 points; theirs: 0."
    )
    assert not comparison(campaign + noisy, "gmlp_resnet").noisy
    assert result.word == "no evidence"
    assert (
        f" points (SegNeXt attention: {result.detectable:.1f}) may well have gone unnoticed"
        in opening(analyse(campaign + noisy))[-1]
    )


def test_where_the_baseline_ended_at_chance_no_word_is_given(campaign, tmp_path):
    for content in campaign:
        if content["arch"] == "resnet" and not content["settings"]:
            content["top1"] = 10.0
    results = analyse(campaign, timed(campaign))
    assert not results.judged and {result.word for result in results.methods} == {""}
    result = comparison(campaign, "eca_resnet")
    assert "not judged: resnet itself ended at chance" in result.remark
    assert {gap.why for gap in result.gaps.values()} == {"baseline at chance"}
    answer = make(campaign, tmp_path).split("\n\n")[1]
    assert answer.startswith("There is no verdict: after 10 epochs, resnet cannot be told from guessing among")
    verdicts = table_after((tmp_path / "report" / "report.md").read_text(), "## Verdicts")
    assert {cells[-1] for cells in verdicts.values()} <= {"verdict", "---", "--:", "-"}


def test_a_method_that_ends_at_chance_with_some_seeds_is_unstable(campaign):
    """Of ten classes and 10,000 images guessing finds 10 percent, give or take three times 0.3."""

    def segnext(*top1):
        return comparison(plus_segnext(campaign, *top1), "segnext_resnet")

    lost = segnext(48, 10.89, 48.1, 47.9)
    assert lost.word == "unstable" and lost.remark == "ended at chance with seed 1"
    assert {gap.why for gap in lost.gaps.values()} == {"unstable"} and math.isnan(lost.detectable)
    assert segnext(48, 10.91, 48.1, 47.9).word == "no evidence"
    always = segnext(10, 10.3, 9.9, 9.7)
    assert always.word == "hurts"
    assert always.remark.startswith(
        "segnext_resnet ended at chance with seeds 0, 1, 2 and 3, so the difference is judged by its own noise; "
    )
    too_few = segnext(48, 10)
    assert too_few.word == "unstable" and not too_few.judged
    assert too_few.remark == "ended at chance with seed 1; not judged: no result with seeds 2 and 3 of resnet"
    learned_nothing = [content | {"top1": 10.0} for content in campaign]
    assert not any(result.unstable for result in analyse(learned_nothing).methods)


@pytest.mark.parametrize(
    ("lost", "remark"),
    [
        ({"resnet": [2]}, "resnet ended at chance with seed 2"),
        ({"resnet": [2], "eca_resnet": [2]}, "ended at chance with seed 2; resnet ended at chance with seed 2"),
        (
            {"resnet": [2, 3], "eca_resnet": [0, 1]},
            "ended at chance with seeds 0 and 1; resnet ended at chance with seeds 2 and 3",
        ),
    ],
)
def test_a_baseline_that_ends_at_chance_makes_its_methods_unstable(campaign, lost, remark):
    for content in campaign:
        if not content["settings"] and content["seed"] in lost.get(content["arch"], ()):
            content["top1"] = 10.0
    result = comparison(campaign, "eca_resnet")
    assert result.word == "unstable" and result.remark == remark


def test_small_words():
    words = [SimpleNamespace(word=word, detectable=1.25, noisy={}) for word in ("helps", "no evidence", "hurts")]

    def results(n):
        return SimpleNamespace(judged=words[:n], by_word=lambda word: [one for one in words[:n] if one.word == word])

    assert others_sentence(results(2)) == "The other shows no evidence either way."
    assert others_sentence(results(3)) == "Of the others, 1 hurts and 1 shows no evidence either way."
    assert power_sentence(words[:1]).startswith("With these seeds, the comparison has an estimated 80% chance")
    cells = np.arange(20) == 3
    assert [short_commit(f"0123456789{end}") for end in ("", "-dirty")] == ["0123456", "0123456-dirty"]
    assert SuperclassMap(["a"], np.zeros(20), cells).sentence.startswith(
        "1 of 20 cells stands out from the noise; at most 5% of such cells are expected to be noise"
    )


def test_an_unstable_method_tells_nothing_of_costs_and_power(campaign):
    rows = plus_segnext(campaign, 58, 10, 58.1, 57.9)
    results, without = analyse(rows, timed(rows)), analyse(campaign, timed(campaign))
    assert others_sentence(results).endswith(" and 1 is unstable (it or its baseline failed to learn with some seeds).")
    assert cost_sentence(results) == cost_sentence(without)
    found = [result.detectable for result in results.judged if not result.unstable]
    assert f"{min(found):.1f} to {max(found):.1f} points" in power_sentence(results.judged)
    assert len(results.judged) == len(without.judged) + 1  # Holm's correction counts it


def test_a_baseline_that_failed_once_is_told_as_the_reason():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    rows[1]["top1"] = 10.0
    told = " ".join(opening(analyse(rows)))
    assert "It is unstable (it or its baseline failed to learn with some seeds)" in told
    assert "No comparison is stable, so the noise is unknown" in told


def test_good_seeds_on_both_sides_of_chances_limit_are_one_outcome():
    """On few test images that limit is high: here 65 %."""
    rows = rows_of("resnet", 65, jitter=0.1 * JITTER) + rows_of("eca_resnet", 65, jitter=-0.1 * JITTER)
    for each, top1 in zip(rows, [64, 66, 65, 67] * 2, strict=True):
        each |= {"classes": 2, "n_test": 100, "top1": float(top1), "top5": 100.0, "per_class_top1": [float(top1)] * 2}
    (result,) = analyse(rows).methods
    assert not result.unstable


def test_a_loss_that_no_narrower_width_was_trained_for_says_so():
    rows = widths() + rows_of("ghostnet_resnet", 50, params=30_000, macs=10_000_000, speed=1000.0, jitter=-JITTER)
    (result,) = analyse(rows, timed(rows)).methods
    assert result.remark.endswith(
        "the widening curve has no backbone as cheap in parameters: a narrower one might lose less"
    )


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


def test_an_unstable_method_shows_its_seeds_instead_of_a_mean():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    rows[5]["top1"] = 10.0
    results = analyse(rows)
    assert verdict_table(results)[1][1].endswith(" (by seed)") and verdict_table(results)[1][1].count(",") == 3
    assert "±" not in dict(verdict_lists(results))["unstable"]


def test_many_seeds_are_told_as_a_range():
    assert by_seed([1.0, -1.0, 2.0, 0.5, 0.25]) == "+1.0, -1.0, +2.0, +0.5, +0.2"
    assert by_seed([1.0, -1.0, 2.0, 0.5, 0.25, 0.0]) == "-1.0 to +2.0"


def test_seeds_are_the_same_for_all_that_is_compared():
    """A width that is still being trained takes no part in the comparison."""
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63) + rows_of("resnet", 56, {"resnet.width": 8}, seeds=(0,))
    assert have_same_seeds(analyse(rows))
    assert not have_same_seeds(analyse([*rows, *rows_of("se_resnet", 61, seeds=(0,))]))


def test_a_baseline_that_learned_with_other_seeds_was_not_too_early():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, seeds=(1,))
    rows[1]["top1"] = 10.0
    (result,) = analyse(rows).methods
    assert not result.too_early and result.remark.startswith("not judged: no result with")


def test_a_method_with_all_seeds_outside_the_curve_is_not_told_to_lack_seeds():
    rows = widths() + rows_of("gmlp_resnet", 61, params=10, macs=10, speed=1e6, jitter=-JITTER)
    rows += rows_of("eca_resnet", 63, seeds=SEEDS[:2])
    said = cost_sentence(analyse(rows, timed(rows)))
    assert said == "No method that was judged could be compared with a ResNet of another width, which may do as well."


def test_an_unstable_setting_of_an_ablation_is_called_that(campaign):
    """Though it is worse by the test, too."""
    rows = plus_segnext(plus_segnext([], 60, 60.1, 60.2, 60.3), 10, 10.1, 10.2, 44, settings={"segnext.kernel_size": 3})
    results = analyse(rows)
    (result,) = results.ablations["segnext_resnet"]
    assert result.direction == -1 and result.change == "unstable"
    table = ablation_table("segnext_resnet", results.ablations["segnext_resnet"], results)
    assert table[-1][0] == "segnext.kernel_size=3" and table[-1][-1] == "unstable"
    assert table[-1][4].endswith("(by seed)")
    answer = opening(results)
    assert answer[0].endswith("(0 better, 0 worse and 1 unstable).")
    assert answer[-1].startswith("No comparison is stable, so")


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
    assert " the largest gain is SE at equal " in cost_sentence(results)


def test_a_baseline_that_failed_once_is_still_the_baseline():
    rows = widths()
    rows[4]["top1"] = 10.0
    design = design_table(analyse(rows + rows_of("eca_resnet", 63)))
    (baseline,) = [value for name, value in design if name == "baseline"]
    assert "100,000 parameters" in baseline


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
    assert curve.startswith("resnet at widths 16 and 32, the widening curve")


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


def test_no_p_is_printed_where_nothing_was_tested():
    """All seeds of the two networks differ by the same."""
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 58)
    results = analyse(rows)
    assert results.methods[0].word == "no evidence"
    assert verdict_table(results)[1][2:4] == ["-", "-"]


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
    results = analyse(campaign)
    mixer = comparison(campaign, "mixer_resnet")
    assert not mixer.judged and mixer.lacks == [2, 3] and len(results.judged) == 4
    without = analyse([content for content in campaign if content["arch"] != "mixer_resnet"])
    assert [r.p_holm for r in results.judged] == [r.p_holm for r in without.judged]
    assert [r.gaps["MACs"].p_holm for r in results.judged] == [r.gaps["MACs"].p_holm for r in without.judged]
    text = make(campaign, tmp_path)
    assert "- mixer_resnet: not judged: no result with seeds 2 and 3 of resnet" in text.split("## Left out")[1]
    assert "| mixer_resnet | +2.00 ± " in text


def test_a_width_without_all_seeds_is_not_in_the_curve(campaign):
    partial = [c for c in campaign if c["settings"] != {"resnet.width": 32} or c["seed"] == 0]
    results = analyse(partial)
    assert [net.width for net in results.curves["resnet"]] == [8, 16]
    assert left_out_text(results)[-1].startswith("resnet resnet.width=32: not in the widening curve")


def test_each_backbone_is_the_baseline_of_its_methods(campaign):
    deep = rows_of("resnet56", 66, params=850_000) + rows_of("eca_resnet56", 67, params=850_009, jitter=-JITTER)
    result = comparison(campaign + deep, "eca_resnet56")
    assert result.reference.arch == "resnet56" and result.mean == pytest.approx(1, abs=0.02)
    assert [net.arch for net in analyse(campaign + deep).curves["resnet56"]] == ["resnet56"]
    assert comparison(campaign + deep[4:], "eca_resnet56").remark == "not compared: resnet56 itself was not run"


def test_ablations_are_compared_with_their_own_default(campaign):
    found = {result.net.knobs: result for result in analyse(campaign).ablations["eca_resnet"]}
    worse, same = found["eca.kernel_size=9"], found["resnet.attention_position=after-add"]
    assert worse.mean == pytest.approx(-2, abs=0.01) and worse.direction == -1
    assert same.direction == 0
    assert worse.p_holm == pytest.approx(min(2 * worse.p, 1))  # Holm within the table of two
    assert worse.remark == ""  # no curve is asked of it


def test_the_cost_pass_replaces_speeds(campaign):
    nets = {key_of(content["arch"], content["settings"]): content for content in campaign}.values()
    rows = [{"arch": c["arch"], "settings": c["settings"], "train_imgs_per_s": 2 * c["train_imgs_per_s"],
             "eval_imgs_per_s": 5000.0} for c in nets]  # fmt: skip
    about = {"device": "a GPU", "amp": "off", "batch_size": 128, "torch": "2.15"}
    results = analyse(campaign, {**about, "rows": rows})
    assert results.nets[0].imgs_per_s("train_imgs_per_s") == 4000
    assert "cost pass (device a GPU" in speed_text(results)
    part = analyse(campaign, {**about, "rows": [r for r in rows if r["arch"] != "eca_resnet"]})
    assert ", which has not timed eca_resnet." in speed_text(part)  # its ablations show no speeds
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
    assert "took in turns (as trained: PyTorch on a CPU, 3 threads per process)." in text
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


def test_superclass_differences(campaign, tmp_path):
    """A method that gains 10 points in the five classes of superclass 7 gains 10 there and 0 elsewhere."""
    gain, noise = 10.0 * np.equal(SUPERCLASS_OF, 7), np.random.default_rng(0)
    rows = [
        c
        | {"dataset": "cifar100", "classes": 100}
        | {"per_class_top1": list(50 + noise.normal(0, 0.01, 100) + gain * (c["arch"] == "eca_resnet"))}
        for c in campaign
    ]
    table = table_after(make(rows, tmp_path), "## Superclasses")
    column = table["superclass"].index("eca")
    assert {name: cells[column] for name, cells in table.items() if cells[column] == "+10.0"} == {"insects": "+10.0"}
    assert "fish" not in table  # no different from 0
    assert not (tmp_path / "report" / "superclasses.png").exists()  # of so few cells a table says all


def noisy_rows(gain, seed=0):
    """Ten networks on CIFAR-100, each class with noise of its own; the first method gains points in superclass 7."""
    rng, rows = np.random.default_rng(seed), []
    methods = ("eca", "se", "gmlp", "mixer", "ghostnet", "resnest", "hornet", "coatnet", "cspnet")
    for arch in ("resnet", *(f"{method}_resnet" for method in methods)):
        for content in rows_of(arch, 50):
            per_class = 50 + rng.normal(0, 3, 100) + gain * np.equal(SUPERCLASS_OF, 7) * (arch == "eca_resnet")
            rows.append(
                content | {"dataset": "cifar100", "classes": 100, "per_class_top1": per_class.clip(0, 100).tolist()}
            )
    return rows


def test_only_cells_that_stand_out_of_the_noise_are_shown():
    found = analyse(noisy_rows(20)).superclasses
    row = found.archs.index("eca_resnet")
    assert found.readable[row, 7] and found.differences[row, 7] == pytest.approx(20, abs=3)
    assert found.readable.sum() <= 3
    assert found.sentence.startswith(
        f"{found.readable.sum()} of 180 cells stand{'s' * bool(found.readable.sum() == 1)} out from the noise; "
    )


def test_where_all_is_noise_no_cell_and_no_chart_is_shown(tmp_path):
    found = analyse(noisy_rows(0)).superclasses
    assert not found.readable.any() and superclass_table(found) is None
    text = make(noisy_rows(0), tmp_path)
    assert "No superclass of any method stands out from the noise (180 cells), so none is shown." in text
    assert "superclasses.png" not in text and not (tmp_path / "report" / "superclasses.png").exists()


def test_class_without_test_images_leaves_no_superclass():
    rows = [content | {"per_class_top1": [None, *content["per_class_top1"][1:]]} for content in noisy_rows(20)]
    assert analyse(rows).superclasses is None


def test_runs_on_other_labels_are_told():
    rows = [row(seed=0, content="a"), row(seed=1, content="a"), row(seed=2)]
    assert len(origins(rows)) == 3
    assert origins([*rows, row(seed=3, content="b")])[3][1] == "a (2 runs); b (1 run)"


def test_one_seed_shows_no_superclass():
    assert analyse([content for content in noisy_rows(20) if content["seed"] == 0]).superclasses is None


def test_two_seeds_are_enough_for_superclasses():
    found = analyse([content for content in noisy_rows(20) if content["seed"] < 2]).superclasses
    assert found.differences.shape == (9, 20)


def test_superclasses_have_five_classes_each():
    assert np.array_equal(np.bincount(SUPERCLASS_OF), [5] * 20)


@pytest.mark.skipif(
    "CIFAR100_DIR" not in os.environ, reason="CIFAR100_DIR names no folder with CIFAR-100's parquet files"
)
def test_superclasses_are_the_datas():
    from datasets import Dataset

    path = next(Path(os.environ["CIFAR100_DIR"]).glob("test-*.parquet"))
    data = Dataset.from_parquet(str(path), columns=["fine_label", "coarse_label"])
    labels = dict(zip(data["fine_label"], data["coarse_label"], strict=True))
    assert labels == dict(enumerate(SUPERCLASS_OF))


def test_a_second_baseline_at_chance_takes_no_verdict_from_the_first(tmp_path):
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    rows += rows_of("plain110", 10, jitter=0 * JITTER) + rows_of("eca_plain110", 10, jitter=0 * JITTER)
    answer = make(rows, tmp_path).split("\n\n")[1]
    assert "eca" in answer.lower() and "helps" in answer
    assert "There is no verdict on the methods of plain110: after 10 epochs, plain110 cannot" in answer


def test_notes_of_one_seed_have_no_intervals(tmp_path):
    results = analyse([content for content in widths() + rows_of("eca_resnet", 63) if content["seed"] == 0])
    notes = cost_notes(results)
    assert "nan" not in notes and "at equal parameters" in notes
    assert notes.startswith("With one seed, differences from a ResNet of equal cost have no interval.")
