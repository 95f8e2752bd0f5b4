from tests.reports import blank_charts, make, table_after  # skips this file where report.py's packages are missing

# isort: split
import csv

import numpy as np
import pytest
from scipy import stats

import report
from document import limits_text, methods_text
from notes import MODULES, NOISE, RULE, SIMULATED, machines_text, noise_text, origins, simulation_text, speed_text
from sentences import UNKNOWN_NOISE, cost_sentence, opening, power_sentence
from tables import depth_table, interval
from tests.report_rows import JITTER, SEEDS, row, rows_of, timed, widths, write
from verdicts import WORDS, analyse


def test_report_holds_the_rows_numbers(campaign, tmp_path):
    """Of seven networks, too few to share their noise: intervals and p are those of their own seeds."""
    few = [c for c in campaign if c["arch"] != "mixer_resnet" and set(c["settings"]) <= {"resnet.width"}]
    text = make(few, tmp_path)
    networks, verdicts = table_after(text, "## All networks"), table_after(text, "## Verdicts")
    top1 = np.array([c["top1"] for c in campaign if c["arch"] == "hornet_resnet"])
    base = np.array([c["top1"] for c in campaign if c["arch"] == "resnet" and not c["settings"]])
    half, loss = stats.t.ppf(0.975, 3) * stats.sem(top1), f"{row()['curve'][-1]['train_loss']:.2f}"
    assert networks["hornet_resnet"] == [
        "180,000", "18.0", "600", "1,800", "500", f"{top1.mean():.2f} ± {half:.2f}", f"{top1.mean() + 20:.2f}", "5.00", loss, "4",
    ]  # fmt: skip
    assert set(networks) >= {"resnet", "resnet resnet.width=8", "resnet resnet.width=32"}
    half = stats.t.ppf(0.975, 3) * stats.sem(top1 - base)
    assert verdicts["hornet_resnet"][0] == f"{(top1 - base).mean():+.2f} ± {half:.2f}"
    ghost = np.array([c["top1"] for c in campaign if c["arch"] == "ghostnet_resnet"])
    assert verdicts["ghostnet_resnet"][1] == f"{stats.ttest_rel(ghost, base).pvalue:.3f}"
    assert verdicts["hornet_resnet"][-1] == "no better than widening"
    assert RULE in text and NOISE in text
    rows = [line for line in SIMULATED.splitlines() if "paired t-tests" in line]  # of 3 and 5 seeds: none has four
    assert "\n".join(rows) in text and "moderation |" not in text


def test_all_intervals_share_the_noise(campaign, tmp_path):
    """In the tables of verdicts, networks and ablations, of enough networks to moderate it."""
    text, results = make(campaign, tmp_path), analyse(campaign)
    noise = results.noise_of((0, 1, 2, 3))
    nets = {net.name: net for net in results.nets}
    hornet, baseline, eca = (nets[name] for name in ("hornet_resnet", "resnet", "eca_resnet"))
    assert noise.moderated is not None
    assert table_after(text, "## Verdicts")["hornet_resnet"][0] == interval(
        noise.estimate((hornet, 1), (baseline, -1)), "+"
    )
    assert table_after(text, "## All networks")["hornet_resnet"][5] == interval(noise.estimate((hornet, 1)))
    ablation = noise.estimate((nets["eca_resnet eca.kernel_size=9"], 1), (eca, -1))
    cells = table_after(text, "## Ablations of eca_resnet")["eca.kernel_size=9"]
    assert cells[3] == interval(ablation, "+") and cells[-1] == "worse"


def test_the_answer_is_computed(campaign, tmp_path):
    text = make(campaign, tmp_path, timed(campaign))
    answer = text.split("\n\n")[1]
    assert answer.count(". ") == 3 and answer.endswith(".")
    assert answer.startswith(
        "After 10 epochs on shapes100 with 4 seeds, 1 of 4 methods helps (points of top-1 over the baseline): ECA +3.00 ± "
    )
    assert (
        "Of the others, 1 is not clearly ahead of a wider ResNet, 1 hurts and 1 shows no evidence either way." in answer
    )
    assert "- **helps**: ECA +3.00 ± " in text and "- **no evidence**: GhostNet -0.10 ± " in text
    cost = text.split("\n## Cost\n\n")[1]
    assert cost.startswith(
        "Methods above or below a ResNet of equal cost, each interval taken alone: 1 above and 2 below (of 4) at equal parameters, "
        "1 above and 2 below (of 4) at equal MACs, 1 above and 2 below (of 4) at equal training time. Of the 12 differences at equal cost, the largest gain is that of ECA at equal MACs: +3.00 ± "
    )


@pytest.mark.parametrize(
    ("mean", "told"), [(57, "It hurts"), (59, "It saves cost and loses less than a narrower ResNet")]
)
def test_the_answer_tells_a_loss_from_a_saving(mean, told):
    rows = widths() + rows_of("ghostnet_resnet", mean, jitter=-JITTER, params=60_000, macs=6_000_000, speed=1600.0)
    results = analyse(rows, timed(rows))
    assert opening(results)[1] == f"{told}."
    assert ("the largest gain" in cost_sentence(results)) == (mean == 59)


def test_home_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    args = report.parse_args(["runs", "--out=~/report", "--team=~/team.toml"])
    assert (str(args.out), str(args.team)) == ("/home/ada/report", "/home/ada/team.toml")


def test_the_answer_for_one_method_on_a_folder(tmp_path):
    other = {"dataset": "folder"}
    rows = rows_of("resnet18", 60, **other) + rows_of("eca_resnet18", 57, jitter=-JITTER, **other)
    rows.append(row("eca_resnet18", 57, seed=4, **other))  # of no other network
    text = make(rows, tmp_path)
    assert "After 10 epochs on an image folder with 4 seeds, ECA (resnet18) is not shown to help. It hurts." in text
    assert "repeat one of its runs; add `--data-dir`.\n" in text


def test_a_small_test_set_is_a_limit():
    few = [content | {"n_test": 100, "classes": 2, "per_class_top1": [50.0] * 2} for content in rows_of("resnet", 60)]
    told = "With 100 test images, one image is 1.0 points of top-1, and a top-1 of up to 65% passes for guessing."
    assert told in limits_text(analyse(few))
    assert "test images, one image is" not in limits_text(analyse(rows_of("resnet", 60)))


@pytest.mark.parametrize(("backbone", "told"), [("resnet34", False), ("resnet50", True), ("resnet152", True)])
def test_what_replaces_the_convolution_of_a_bottleneck_is_told(backbone, told):
    results = analyse(rows_of(backbone, 60) + rows_of(f"ghostnet_{backbone}", 61))
    assert ("are bottlenecks" in methods_text(results)) == told


def test_speeds_of_images_of_another_size_are_not_the_runs():
    rows = [content | {"image_size": 64} for content in widths()]
    for size, is_timed in ((32, False), (64, True)):
        results = analyse(rows, {"rows": [content | {"image_size": size} for content in timed(rows)["rows"]]})
        assert [bool(net.cost_row) for net in results.nets] == [is_timed] * 3 and bool(results.cost_pass) == is_timed
    assert "include its start (on a GPU, the capture of the step)" in speed_text(analyse(rows))


def test_one_seed_tells_the_range_and_that_chance_is_unknown():
    means = {"resnet": 60, "eca_resnet": 63, "gmlp_resnet": 55}
    assert opening(
        analyse([content for arch, mean in means.items() for content in rows_of(arch, mean, seeds=(0,))])
    ) == [
        "There is no verdict: only one seed has results.",
        "Differences from the baseline range from -5.00 points (gMLP) to +3.00 points (ECA).",
        UNKNOWN_NOISE,
    ]


def test_seeds_that_are_compared_are_not_called_unknown_noise():
    """A baseline that is ahead by one seed takes the verdicts, not what the shared seeds show."""
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, seeds=SEEDS[:3], jitter=-JITTER)
    told = opening(analyse(rows))
    assert told[0] == "There is no verdict: no method has results with all of its baseline's seeds."
    once = rows_of("resnet56", 60, seeds=(0,)) + rows_of("eca_resnet56", 61, seeds=(0,))
    why = "each method shares only one seed with its baseline or lacks some of the baseline's seeds"
    assert opening(analyse(rows + once))[0] == f"There is no verdict: {why}."
    more = rows_of("resnet18", 60, seeds=(0,)) + rows_of("eca_resnet18", 61)  # four seeds, one of them its baseline's
    assert opening(analyse(rows + more))[0] == f"There is no verdict: {why}."
    assert len(told) == 2


def test_runs_that_diverged_or_are_not_finished_are_told(campaign, tmp_path):
    lost = tmp_path / "runs" / "se_resnet-seed1"
    lost.mkdir(parents=True)
    (lost / "diverged").write_text("loss or gradient is not finite at step 280\n")
    (tmp_path / "runs" / "diverged").mkdir()  # as a run may be called
    begun = tmp_path / "runs" / "se_resnet-seed2"
    begun.mkdir()
    (begun / "last.pt").touch()
    told = make(campaign, tmp_path).split("### Left out")[1]
    assert "- se_resnet-seed1: loss or gradient is not finite at step 280\n" in told
    assert "- se_resnet-seed2: not finished\n" in told


@blank_charts()
def test_methods_that_all_diverged_are_not_said_not_to_have_run(tmp_path):
    write(tmp_path / "runs", rows_of("resnet", 60))
    lost = tmp_path / "runs" / "eca_resnet-seed0"
    lost.mkdir()
    (lost / "diverged").write_text("loss or gradient is not finite at step 280\n")
    report.main([str(tmp_path / "runs")])
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "- eca_resnet-seed0: loss or gradient is not finite" in text
    assert text.split("\n\n")[1] == "There is no verdict: no method has a result. 1 network has results."


def test_a_mixture_of_two_outcomes_is_no_difference_from_the_baseline():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 61, seeds=(0, 1)) + rows_of("se_resnet", 60, seeds=(0, 1))
    rows[-1]["top1"] = 10.0
    assert opening(analyse(rows))[1] == "The difference from the baseline is +1.00 points (ECA)."
    assert len(opening(analyse([*rows[:4], *rows[-2:]]))) == 1


def test_a_missing_baseline_is_named():
    told = opening(analyse(rows_of("resnet", 60) + rows_of("eca_resnet18", 63)))
    assert told[0] == "There is no verdict: there is no result of the baseline resnet18."
    told = opening(analyse(rows_of("resnet", 60, seeds=(0, 1)) + rows_of("eca_resnet", 63, seeds=(2, 3))))
    assert told[0] == "There is no verdict: no method has a result with a seed of its baseline."


def test_which_test_judged_is_told():
    few = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    many = few + [
        content for i in range(6) for content in rows_of("resnet", 60 + i, {"resnet.width": 20 + i}, jitter=i * JITTER)
    ]
    assert noise_text(analyse(few)).endswith(" The verdicts here use paired t-tests.")
    moderated = " The verdicts here use robustly moderated noise, except where a remark says otherwise."
    assert noise_text(analyse(many)).endswith(moderated)
    used = "The table shows the test used here."
    assert used in simulation_text(analyse(few)) and used in simulation_text(analyse(many))
    once = rows_of("resnet56", 60, seeds=(0, 1)) + rows_of("eca_resnet56", 61, seeds=(0, 1), jitter=-JITTER)
    both = analyse(many + once)  # one of four seeds, one of two
    assert len(both.judged) == 2 and used not in simulation_text(both)


def test_no_sentence_names_a_dozen_methods(tmp_path):
    """The best three by name, the others by number."""
    rows = rows_of("resnet", 60)
    for i, method in enumerate(MODULES):
        rows += rows_of(f"{method}_resnet", 63 + i / 10, jitter=-JITTER)
    first, _ = opening(analyse(rows))
    best = list(MODULES.values())[-1].name
    assert first.startswith(
        f"After 10 epochs on shapes100 with 4 seeds, {len(MODULES)} of {len(MODULES)} methods help (points of top-1 over the baseline): {best} "
    )
    assert first.count("±") == 3 and first.endswith(f" and {len(MODULES) - 3} more.")


def test_the_answer_counts_what_can_be_compared():
    rows = widths() + rows_of("eca_resnet", 63)
    rows += rows_of("gmlp_resnet", 65, params=10_000_000, macs=10**9, speed=1.0)
    sentence = cost_sentence(analyse(rows, timed(rows)))
    assert sentence.startswith(
        "Methods above or below a ResNet of equal cost, each interval taken alone: 1 above and 0 below (of 1) at equal parameters,"
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
    told = machines_text(analyse(campaign))
    assert told.endswith("\n- 1 x a GPU: gmlp_resnet") and "\n- 1 x a CPU: resnet resnet.width=8, resnet, " in told
    assert "eca_resnet" in told and "eca.kernel_size" not in told  # no memory is shown of an ablation
    assert "can be compared only between networks trained on the same kind of machine" in make(campaign, tmp_path)
    assert machines_text(analyse(rows_of("resnet", 60))) == ""


def test_runs_side_by_side_are_told_apart_from_others():
    rows = rows_of("resnet", 60, side_by_side=1) + rows_of("eca_resnet", 61, side_by_side=4)
    assert machines_text(analyse(rows)).endswith("\n- 1 x a CPU, 4 runs side by side: eca_resnet")


def test_data_that_differ_in_their_order_alone_are_told_apart():
    rows = rows_of("resnet", 60, content="a") + rows_of("eca_resnet", 61, content="b")
    told = f"a ({len(SEEDS)} runs); b ({len(SEEDS)} runs)"
    assert ["data, which differ in a label, an image, its decoding or the order", told] in origins(rows)
    assert not [what for what, _ in origins(rows[: len(SEEDS)]) if what.startswith("data")]


def test_an_ablation_on_several_machines_says_so(campaign, tmp_path):
    """What differs may be the machine."""
    one = make(campaign, tmp_path / "one")
    assert "different machines" not in one
    assert "Holm's correction covers this table. *Detectable* is at the level 0.05 / 2 here.\n" in one
    assert "Intervals at equal cost are not corrected" in one
    for content in campaign:
        if content["settings"] == {"eca.kernel_size": 9}:
            content["device"] = "a GPU"
    told = "(default) and resnet.attention_position=after-add on 1 x a CPU; eca.kernel_size=9 on 1 x a GPU."
    two = make(campaign, tmp_path / "two")
    assert f" is at the level 0.05 / 2 here. Trained on different machines: {told}\n" in two


def test_without_a_curve_equal_cost_is_one_sentence(tmp_path):
    narrow = rows_of("resnet", 56, {"resnet.width": 8}, seeds=(0,))
    text = make(rows_of("resnet", 60) + narrow + rows_of("eca_resnet", 63), tmp_path)
    assert "## Equal cost\n\nThere is no comparison: no second width" in text
    assert "at equal parameters" not in text.split("## Equal cost")[1]


def test_one_noisy_method_does_not_speak_for_the_power_of_all(campaign):
    judged = analyse(campaign).judged
    for result, detectable in zip(judged, (1.0, 2.0, 3.0, 57.0), strict=True):
        result.detectable = detectable
    told = power_sentence(judged)
    assert (
        "the comparisons have an estimated 80% chance (less in simulations) of finding true differences of 1.0 to 57.0 points"
        in told
    )


def test_one_seed_gives_numbers_and_no_verdict(campaign, tmp_path):
    text = make([c for c in campaign if c["seed"] == 0], tmp_path, drawn=True)
    assert text.split("\n\n")[1].startswith("There is no verdict: only one seed has results.")
    verdicts = table_after(text, "## Verdicts")
    assert verdicts["eca_resnet"] == ["+2.90", "-", "-", "-", "1.00 / 1.00 / -", "-"]
    assert not {cells[-1] for cells in verdicts.values()} & set(WORDS)
    assert "- eca_resnet: not judged: only one seed" in text


def test_ablations_alone_make_a_report(campaign, tmp_path):
    text = make([c for c in campaign if c["arch"] == "eca_resnet"], tmp_path, drawn=True)
    assert text.split("\n\n")[1].startswith(
        "Settings compared with their architecture's default: 2 (0 better, 1 worse and 0 unstable). "
    )
    assert "- eca_resnet: not compared: resnet itself has no result" in text
    assert "Holm's correction covers this table. *Detectable*: the true difference that would be found with" in text
    assert "strictest level, 0.05 / 2 (noncentral t)" in text and "Intervals at equal cost" not in text


@pytest.mark.parametrize(("arch", "speaks_of_methods"), [("eca_resnet", True), ("vit", False)])
def test_settings_alone_are_compared_and_methods_named_only_where_there_are_some(arch, speaks_of_methods):
    rows = rows_of(arch, 60) + rows_of(arch, 66, {"a.b": 1}, jitter=-JITTER)
    first, *others = opening(analyse(rows))
    assert first == "Settings compared with their architecture's default: 1 (1 better, 0 worse and 0 unstable)."
    assert ("There is no verdict on methods" in others[0]) == speaks_of_methods


def test_a_method_whose_seeds_are_not_its_baselines_is_not_told_to_lack_results():
    rows = rows_of("resnet", 60, seeds=(0, 1)) + rows_of("eca_resnet", 61, seeds=(2, 3))
    rows += rows_of("eca_resnet", 64, {"eca.kernel_size": 5}, seeds=(2, 3), jitter=-JITTER)
    why = "none has a result with its defaults and with a seed of its baseline"
    assert opening(analyse(rows))[1] == f"There is no verdict on methods: {why}."


def test_baselines_alone_make_a_report(tmp_path):
    assert "There is no verdict: no method has a result" in make(widths(), tmp_path, drawn=True)


def test_bias_of_the_best_epoch(tmp_path):
    watched = [
        c | {"best_on_test_minus_last": bias, "val_top1": None, "n_val": 0}
        for c, bias in zip(widths(), [0.2, 1.0] * 6, strict=True)
    ]
    assert "would have added 0.60 points on average and 1.00 at most (n = 12 runs)" in make(watched, tmp_path)


def test_wide_networks_are_no_part_of_a_series_of_slim_ones():
    slim, wide = ["plain20", "plain56", "resnet", "resnet56"], ["plain18", "plain34", "resnet18", "resnet34"]
    nets = analyse([row for arch in (*slim, "resnet18") for row in rows_of(arch, 60)])
    assert [row[0] for row in depth_table(nets)[1:]] == slim
    nets = analyse([row for arch in (*wide, "resnet") for row in rows_of(arch, 60)])
    assert [row[0] for row in depth_table(nets)[1:]] == wide


def test_what_is_told_of_one_method_and_of_unequal_seeds(tmp_path):
    one = analyse(rows_of("resnet", 60, seeds=(0,)) + rows_of("eca_resnet", 61, seeds=(0,)))
    assert opening(one)[:2] == [
        "There is no verdict: only one seed has results.",
        "The difference from the baseline is +1.00 points (ECA).",
    ]
    unequal = rows_of("resnet", 60, seeds=(0,)) + rows_of("eca_resnet", 61)
    assert opening(analyse(unequal))[0] == "There is no verdict: only one seed of the baseline has a result."
    text = make(unequal, tmp_path, drawn=True)
    assert "- eca_resnet: seeds 1, 2 and 3, with which resnet has no result: left out of the difference" in text
    assert (
        "0, 1, 2 and 3, though some networks lack some of them: a seed sets the initial weights, the part held out, and"
        in text
    )


def test_depth_with_and_without_shortcuts():
    """Top-1 of 60 and 52 without shortcuts, of 62 and 65 with them, noise aside; the deeper network of each kind last."""
    rows = []
    for arch, mean, loss in (("plain56", 52, 2.5), ("plain20", 60, 2.0), ("resnet56", 65, 1.5), ("resnet", 62, 1.75)):
        for entry in rows_of(arch, mean):
            entry["curve"] = [line | {"train_loss": loss} for line in entry["curve"]]
            rows.append(entry)
    header, *table = depth_table(analyse(rows))
    assert [line[:2] for line in table] == [["plain20", "20"], ["plain56", "56"], ["resnet", "20"], ["resnet56", "56"]]
    to_shallowest, to_resnet, losses = (
        [line[header.index(title)] for line in table]
        for title in ("to the shallowest of its kind", "to the ResNet of its depth", "training loss")
    )
    assert to_shallowest == ["-", "-8.00", "-", "+3.00"]  # the same noise in each: no interval
    assert to_resnet == ["-2.00", "-13.00", "-", "-"]
    assert losses == ["2.000", "2.500", "1.750", "1.500"]
    first, second, _ = opening(analyse(rows))
    assert "From 20 to 56 layers, networks without shortcuts change by -8.00 points" in first
    assert first.endswith("+0.500.")
    assert "ResNets change by +3.00 points" in second
    assert depth_table(analyse(rows_of("resnet", 60) + rows_of("resnet56", 61))) is None
    lost = [entry | {"top1": 1.0} if (entry["arch"], entry["seed"]) == ("plain56", 1) else entry for entry in rows]
    first, second, _ = opening(analyse(lost))
    assert first == "plain56 ended at chance with seed 1." and "ResNets change by +3.00 points" in second
    top1, *differences = depth_table(analyse(lost))[2][2:5]
    assert top1.endswith(" (by seed)") and differences == ["-", "-"]
    extra = row("plain56", 1.0, 9, curve=[{"epoch": 0, "top1": 1.0, "train_loss": 9.0}] * 2)  # of no other network
    first, second, *_ = opening(analyse([*rows, extra]))
    assert first == "plain56 ended at chance with seed 9."
    assert second.endswith(" change by -8.00 points of top-1, and their training loss by +0.500.")
    other_seeds = [r for r in rows if r["arch"] != "plain56" or r["seed"] > 1]
    other_seeds = [r for r in other_seeds if r["arch"] != "plain20" or r["seed"] < 2]
    assert "without shortcuts" not in " ".join(opening(analyse(other_seeds)))
    apart = [r for r in other_seeds if r["arch"].startswith("plain") or (r["arch"], r["seed"]) == ("resnet", 0)]
    assert depth_table(analyse(apart)) and opening(analyse(apart))[0].startswith("There is no verdict")
