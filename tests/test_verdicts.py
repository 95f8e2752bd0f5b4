from tests.reports import (  # skips this file where report.py's packages are missing
    comparison,
    make,
    plus_segnext,
    table_after,
)

# isort: split
import math
from types import SimpleNamespace

import numpy as np
import pytest

from document import learning_text
from noise import detectable_effect
from notes import design_table, have_same_seeds, origins, short_commit
from sentences import (
    budget_sentences,
    cost_sentence,
    ends_of,
    first_few,
    opening,
    others_sentence,
    power_sentence,
    verdict_lists,
)
from slides import cost_notes
from tables import ablation_table, by_seed, verdict_table
from tests.report_rows import JITTER, row, rows_of, timed, widths
from verdicts import SuperclassMap, analyse


def test_detectable_difference_is_that_of_the_strictest_test(campaign):
    result = comparison(campaign, "ghostnet_resnet")  # one of four methods judged
    assert result.detectable == pytest.approx(detectable_effect(result.estimate.df, 0.05 / 4) * result.estimate.error)


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
        in opening(analyse(campaign + noisy))[-2]
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
    assert too_few.remark == "ended at chance with seed 1; not judged: lacks seeds 2 and 3, which resnet has"
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
    huge = SimpleNamespace(word="no evidence", detectable=367.2, noisy={})
    assert power_sentence([huge, huge]).startswith("These seeds are too few, or too noisy, to find")
    told = budget_sentences(SimpleNamespace(judged=[huge], by_word=lambda _: [huge]))
    assert told[0].endswith("true differences of any size may well have gone unnoticed: train with more seeds.")
    assert [ends_of(sizes) for sizes in ([1.31, 1.34], [1.3, 300], [200, 300])] == [
        "1.3",
        "1.3 to over 100",
        "over 100",
    ]
    cells = np.arange(20) == 3
    assert [short_commit(f"0123456789{end}") for end in ("", "-dirty")] == ["0123456", "0123456-dirty"]
    assert short_commit("0123456789-dirty and 9876543210") == "0123456-dirty and 9876543"
    assert SuperclassMap(["a"], np.zeros(20), cells).sentence.startswith(
        "1 of 20 cells stands out from the noise; at most 5% of such cells are expected to be noise"
    )


def test_an_unstable_method_tells_nothing_of_costs_and_power(campaign):
    rows = plus_segnext(campaign, 58, 10, 58.1, 57.9)
    results, without = analyse(rows, timed(rows)), analyse(campaign, timed(campaign))
    assert others_sentence(results).endswith(" and 1 is unstable (it or its baseline failed to learn with some seeds).")
    assert cost_sentence(results) == cost_sentence(without)
    has_lines = ["a line for each seed" in learning_text(each, "the chart") for each in (results, without)]
    assert has_lines == [True, False]
    found = [result.detectable for result in results.judged if not result.unstable]
    assert f"{min(found):.1f} to {max(found):.1f} points" in power_sentence(results.judged)
    assert len(results.judged) == len(without.judged) + 1  # Holm's correction counts it


def test_a_baseline_that_failed_once_is_told_as_the_reason():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    rows[1]["top1"] = 10.0
    told = " ".join(opening(analyse(rows)))
    assert "It is unstable (it or its baseline failed to learn with some seeds)" in told
    assert "No comparison is stable, so the noise is unknown" in told


@pytest.mark.parametrize("of_seeds", [(64, 66, 65, 67), (50, 66, 64, 80)])
def test_good_seeds_on_both_sides_of_chances_limit_are_one_outcome(of_seeds):
    """On few test images that limit is high: here 65 %."""
    rows = rows_of("resnet", 65, jitter=0.1 * JITTER) + rows_of("eca_resnet", 65, jitter=-0.1 * JITTER)
    for each, top1 in zip(rows, of_seeds * 2, strict=True):
        each |= {"classes": 2, "n_test": 100, "top1": float(top1), "top5": 100.0, "per_class_top1": [float(top1)] * 2}
    (result,) = analyse(rows).methods
    assert not result.unstable


def test_an_unstable_method_shows_its_seeds_instead_of_a_mean():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    rows[5]["top1"] = 10.0
    results = analyse(rows)
    assert verdict_table(results)[1][1].endswith(" (by seed)") and verdict_table(results)[1][1].count(",") == 3
    assert "±" not in dict(verdict_lists(results))["unstable"]


def test_many_seeds_are_told_as_a_range():
    assert by_seed([1.0, -1.0, 2.0, 0.5, 0.25]) == "+1.0, -1.0, +2.0, +0.5, +0.2"
    assert by_seed([1.0, -1.0, 2.0, 0.5, 0.25, 0.0]) == "-1.0 to +2.0"


def test_three_names_are_told_without_a_rest():
    assert first_few(["a", "b", "c"]) == "a, b and c"
    assert first_few(["a", "b", "c", "d"]) == "a, b, c and 1 more"


def test_seeds_are_the_same_for_all_that_is_compared():
    """A width that is still being trained takes no part in the comparison."""
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63) + rows_of("resnet", 56, {"resnet.width": 8}, seeds=(0,))
    assert have_same_seeds(analyse(rows))
    assert not have_same_seeds(analyse([*rows, *rows_of("se_resnet", 61, seeds=(0,))]))


def test_a_baseline_that_learned_with_other_seeds_was_not_too_early():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, seeds=(1,))
    rows[1]["top1"] = 10.0
    (result,) = analyse(rows).methods
    assert not result.too_early and result.remark.startswith("not judged: lacks ")


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


def test_a_baseline_that_failed_once_is_still_the_baseline():
    rows = widths()
    rows[4]["top1"] = 10.0
    design = design_table(analyse(rows + rows_of("eca_resnet", 63)))
    (baseline,) = [value for name, value in design if name == "baseline"]
    assert "100,000 parameters" in baseline


def test_no_p_is_printed_where_nothing_was_tested():
    """All seeds of the two networks differ by the same."""
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 58)
    results = analyse(rows)
    assert results.methods[0].word == "no evidence"
    assert verdict_table(results)[1][2:4] == ["-", "-"]


def test_a_method_without_all_seeds_is_named_and_left_out(campaign, tmp_path):
    results = analyse(campaign)
    mixer = comparison(campaign, "mixer_resnet")
    assert not mixer.judged and mixer.lacks == [2, 3] and len(results.judged) == 4
    without = analyse([content for content in campaign if content["arch"] != "mixer_resnet"])
    assert [r.p_holm for r in results.judged] == [r.p_holm for r in without.judged]
    assert [r.gaps["MACs"].p_holm for r in results.judged] == [r.gaps["MACs"].p_holm for r in without.judged]
    text = make(campaign, tmp_path)
    assert "- mixer_resnet: not judged: lacks seeds 2 and 3, which resnet has" in text.split("## Left out")[1]
    assert "| mixer_resnet | +2.00 ± " in text


def test_two_methods_that_do_not_help_are_told_as_neither():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 57, jitter=-JITTER) + rows_of("se_resnet", 56, jitter=-JITTER)
    first, second, *_ = opening(analyse(rows))
    assert first.endswith("with 4 seeds, neither method is shown to help.") and second == "Both hurt."


def test_each_backbone_is_the_baseline_of_its_methods(campaign):
    deep = rows_of("resnet56", 66, params=850_000) + rows_of("eca_resnet56", 67, params=850_009, jitter=-JITTER)
    result = comparison(campaign + deep, "eca_resnet56")
    assert result.reference.arch == "resnet56" and result.mean == pytest.approx(1, abs=0.02)
    assert [net.arch for net in analyse(campaign + deep).curves["resnet56"]] == ["resnet56"]
    assert comparison(campaign + deep[4:], "eca_resnet56").remark == "not compared: resnet56 itself has no result"


def test_ablations_are_compared_with_their_own_default(campaign):
    found = {result.net.knobs: result for result in analyse(campaign).ablations["eca_resnet"]}
    worse, same = found["eca.kernel_size=9"], found["resnet.attention_position=after-add"]
    assert worse.mean == pytest.approx(-2, abs=0.01) and worse.direction == -1
    assert same.direction == 0
    assert worse.p_holm == pytest.approx(min(2 * worse.p, 1))  # Holm within the table of two
    assert worse.remark == ""  # no curve is asked of it


def test_runs_on_other_labels_are_told():
    rows = [row(seed=0, content="a"), row(seed=1, content="a"), row(seed=2)]
    assert len(origins(rows)) == 3
    assert origins([*rows, row(seed=3, content="b")])[3][1] == "a (2 runs); b (1 run)"


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
