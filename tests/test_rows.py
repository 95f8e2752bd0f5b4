from tests.reports import (  # skips this file where report.py's packages are missing
    blank_charts,
    comparison,
    make,
    refused,
    table_after,
)

# isort: split
import json
import math
import re

import pytest

import report
from models import BACKBONES, knobs
from names import default_width
from rows import NOT_SETTINGS, epochs_of, mean_row, natural, problem_of, read_rows, steps_of, without_result
from sentences import opening
from tables import folds_table, train_loss
from tests.refusals import refusal
from tests.report_rows import JITTER, of_folds, row, rows_of, write
from verdicts import analyse


def test_the_default_width_is_the_models():
    for name, backbone in BACKBONES.items():
        if "width" in knobs(backbone.make) and backbone.family == "resnet":
            assert default_width(f"eca_{name}") == knobs(backbone.make)["width"].default
    nets = analyse(rows_of("resnet", 60, {"resnet.width": 16}) + rows_of("eca_resnet", 61))
    assert nets.methods[0].reference.name == "resnet"


def test_other_weights_at_the_start_are_compared_with_none(tmp_path):
    """Runs that start from published weights are ablations of the same network from scratch, and no other recipe."""
    rows = rows_of("vit", 60, pretrained=False, init_from=None, freeze=None)
    rows += rows_of("vit", 70, jitter=-JITTER, pretrained=True, init_from=None, freeze=None)
    rows += rows_of("vit", 50, jitter=-JITTER, pretrained=True, init_from=None, freeze="backbone")
    speeds = {"rows": [{"arch": "vit", "settings": {}, "train_imgs_per_s": 5.0, "eval_imgs_per_s": 9.0}]}
    results = analyse(read_rows(write(tmp_path, rows)), speeds)
    scratch, tuned, frozen = sorted(results.nets, key=lambda net: len(net.knobs))
    words = {c.net.knobs: (round(c.mean), c.reference) for c in results.ablations["vit"]}
    assert words == {"pretrained=true": (10, scratch), "freeze=backbone pretrained=true": (-10, scratch)}
    assert scratch.imgs_per_s("train_imgs_per_s") == tuned.imgs_per_s("train_imgs_per_s") == 5.0
    assert frozen.imgs_per_s("train_imgs_per_s") == 1000.0  # the cost pass trains whole networks


def test_foreign_network_is_no_method():
    (net,) = analyse(rows_of("torchvision:vgg11_bn", 60)).nets
    assert (net.is_method, net.backbone) == (False, "torchvision:vgg11_bn")


@blank_charts()
def test_folds_are_averaged_before_anything_is_compared(tmp_path):
    """A seed counts once: the comparison is that of the folds' means, and the folds are no samples of their own."""
    plain = [*rows_of("resnet", 60), *rows_of("eca_resnet", 63, jitter=-JITTER)]
    (tmp_path / "runs").mkdir()
    rows = read_rows(write(tmp_path / "runs", of_folds(plain)))
    assert len(rows) == len(plain)
    compared, expected = comparison(rows, "eca_resnet"), comparison(plain, "eca_resnet")
    assert (compared.mean, compared.half, compared.p) == pytest.approx((expected.mean, expected.half, expected.p))
    results = analyse(rows)
    assert results.nets[0].values("top1") == pytest.approx([one["top1"] + 2 for one in plain[:4]])
    assert folds_table(results)[1] == ["resnet", "51.00", "1.00", "50.00", "52.00", "4"]
    rows[0] |= {"val_top1_of_folds": [47.0, 51.0, 55.0]}  # of one seed: a fold is the mean over its seeds
    assert folds_table(analyse(rows))[1] == ["resnet", "51.00", "1.75", "49.25", "52.75", "4"]
    report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Cross-validation" in text and "mean over 3 folds" in text
    assert "| runs | 8, of 2 networks, each the mean of 3 folds |" in text
    assert "n_train + n_val 20000" in text
    assert "val_top1_of_folds" not in text
    assert folds_table(analyse(plain)) is None
    assert train_loss(results.nets[0]) == 2.0


def test_mean_of_folds_by_hand():
    rows = [
        row(top1=50.0, per_class_top1=[10.0, None], peak_memory_mb=300.0, device="a GPU", val_top1=44.0, train_s=9.0, speed=900.0,
            curve=[{"epoch": 0, "top1": 20.0, "train_loss": 4.0}], ece=3.0, loss=1.0, commit="a1"),
        row(top1=53.0, per_class_top1=[40.0, 70.0], peak_memory_mb=900.0, device="a CPU", val_top1=47.0, train_s=12.0, speed=1200.0,
            curve=[{"epoch": 0, "top1": 26.0, "train_loss": 1.0}], ece=5.0, loss=1.5, commit="b2"),
        row(top1=59.0, per_class_top1=[25.0, 80.0], peak_memory_mb=600.0, device="a GPU", val_top1=59.0, train_s=30.0, speed=3000.0,
            curve=[{"epoch": 0, "top1": 35.0, "train_loss": 1.0}], ece=4.0, loss=2.0, commit="a1 and b2"),
    ]  # fmt: skip
    mean = mean_row(rows)
    assert [mean[name] for name in ("top1", "val_top1", "train_s", "peak_memory_mb")] == [54.0, 50.0, 17.0, 900.0]
    assert [mean[name] for name in ("top5", "ece", "loss")] == pytest.approx([74.0, 4.0, 1.5])
    assert (mean["train_imgs_per_s"], mean["eval_imgs_per_s"]) == (1700.0, 5100.0)
    assert mean["per_class_top1"] == [25.0, None]  # a fold without an image of a class leaves it without a mean
    assert mean["curve"] == [{"epoch": 0, "top1": 27.0, "train_loss": 2.0}]
    assert (mean["device"], mean["val_top1_of_folds"]) == ("a CPU and a GPU", [44.0, 47.0, 59.0])
    assert mean["commit"] == "a1 and b2"  # as of a run that was resumed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (of_folds([row()])[:2], r"resnet, seed 0 lacks fold 2 of 3: train what is missing, or leave out this seed"),
        (of_folds([row()]) + of_folds([row()])[:1], r"resnet, seed 0 has fold 0 twice"),
        (
            [row(), *of_folds([row()])],
            r"a mixture of budgets or data: folds is None in \S+ and 3 in \S+; report them separately",
        ),
        (of_folds([row()], 3) + of_folds([row()], 2), r"a mixture of budgets or data: folds is 3 in \S+ and 2 in \S+"),
        (of_folds([row()], fold=3), "a run of fold 3 of 3 needs a fold below the number of folds"),
        (of_folds([row()], folds="3"), "a run of fold 0 of '3' needs a fold below"),
        (of_folds([row()], val_top1=None), "and a val_top1"),
        (of_folds([row()])[:1] + of_folds([row(params=9)])[1:], "resnet has params 100000 in one run and 9"),
    ],
)
def test_folds_that_are_no_partition_are_refused(rows, message, tmp_path, capsys):
    assert re.search(message, refusal(capsys, read_rows, write(tmp_path, rows)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"epochs": 20},
            r"a mixture of budgets or data: epochs is 10 in \S+run0/result.json and 20 in \S+run1/result.json",
        ),
        ({"dataset": "cifar10"}, "a mixture of budgets or data: dataset is 'shapes100' in"),
        ({"arch": "resnet", "seed": 1, "lr": 0.1}, "two recipes for resnet: lr is 0.2 in"),
        ({"data": "b"}, "a mixture of budgets or data: data is None in"),
        ({"image_size": 64}, "a mixture of budgets or data: image_size is None in"),
        ({"val_size": 0.2}, "a mixture of budgets or data: val_size is 0.1 in"),
        ({"max_steps": 9}, "a mixture of budgets or data: max_steps is None in"),
        ({"n_train": 17000}, "a mixture of budgets or data: n_train is 18000 in"),
        ({"arch": "resnet", "seed": 1, "new_flag": 1}, "two recipes for resnet: new_flag is None in"),
        ({"classes": 9, "per_class_top1": [50.0] * 9}, "a mixture of budgets or data: classes is 10 in"),
        (
            {"curve": [{"epoch": 0, "top1": 40.0, "train_loss": 3.0}]},
            "a mixture of budgets or data: epochs in the curve is 2 in",
        ),
        ({"status": "running"}, "its status is 'running', not 'finished'"),
        ({"top1": math.nan}, "NaN is not a measurement"),
        ({"loss": math.inf}, "Infinity is not a measurement"),
        ({"per_class_top1": [50.0] * 9 + [math.nan]}, "NaN is not a measurement"),
        ({"top1": 100.5, "top5": 100.9}, "top1 must be within 0 and 100, got 100.5"),
        ({"top1": -1.0}, "top1 must be within 0 and 100, got -1.0"),
        ({"top1": "60"}, "top1 must be within 0 and 100, got '60'"),
        ({"top5": 50.0}, "top5 50.0 is below top1 60.0"),
        ({"top1": 60.123}, "top1 60.123 is not a whole number of the 10000 test images"),
        ({"per_class_top1": [101.0] * 10}, r"per_class_top1\[0\] must be within 0 and 100"),
        ({"per_class_top1": [50.0] * 9}, "per_class_top1 must be a list with one number per class"),
        ({"curve": []}, "curve must be a list with one object per epoch"),
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


def test_a_finished_run_is_not_told_as_unfinished(tmp_path):
    write(tmp_path, [row()])
    (tmp_path / "run0" / "last.pt").touch()
    assert without_result(tmp_path) == []


def test_no_runs_are_refused(tmp_path, capsys):
    refused(tmp_path, capsys, "no result.json below")


@pytest.mark.parametrize(
    "rows", [[{"arch": "resnet", "settings": {}, "train_imgs_per_s": -1, "eval_imgs_per_s": 1}], [{}]]
)
def test_a_bad_cost_pass_is_refused(rows, tmp_path, capsys):
    write(tmp_path / "runs", [row()])
    (tmp_path / "runs" / "cost.json").write_text(json.dumps({"rows": rows}))
    refused(tmp_path, capsys, "cost.json cannot be used")


# ----------------------------------------------------------------------------------------- a recipe per architecture


def test_each_architecture_may_have_a_recipe_of_its_own(tmp_path):
    """The report lists them; a method whose one form has knobs of its recipe is judged like any other."""
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 61, jitter=-JITTER)
    adamw = {"optimizer": "adamw", "lr": 0.002}
    rows += rows_of("convnext_resnet", 63, {"convnext.layer_scale": 1e-6}, jitter=-JITTER, **adamw)
    text = make(rows, tmp_path)
    recipes = table_after(text, "### Recipes")
    assert recipes["networks"] == ["optimizer", "lr"]
    assert recipes["resnet, eca_resnet"] == ["sgd", "0.2"]
    assert recipes["convnext_resnet convnext.layer_scale=1e-06"] == ["adamw", "0.002"]
    assert table_after(text, "### Verdicts")["convnext_resnet convnext.layer_scale=1e-06"][-1] == "helps"
    assert (
        "## Ablations" not in text
        and "| recipe | amp off" in text
        and "| budget | 10 epochs, 128 images per step |" in text
    )
    assert "### Recipes" not in make(rows[:8], tmp_path / "one")


def test_a_method_trained_in_one_form_is_judged_in_it():
    """Not if it has other forms, or if the backbone's width was changed as well."""
    rows = rows_of("resnet", 60) + rows_of("convnext_resnet", 63, {"convnext.layer_scale": 1e-6}, jitter=-JITTER)
    assert opening(analyse(rows))[0].endswith(
        "helps (points of top-1 over the baseline): ConvNeXt (convnext.layer_scale=1e-06) +3.00 ± 0.29."
    )
    for settings in ({"convnext.layer_scale": 0.1}, {"convnext.layer_scale": 1e-6, "resnet.width": 24}):
        others = rows + rows_of("convnext_resnet", 62, settings, jitter=-JITTER)
        results = analyse(others)
        assert not results.methods and list(results.ablations) == ["convnext_resnet"]
        assert opening(results)[0] == (
            "There is no verdict: convnext_resnet has results with other settings only, not with the default that these are compared with."
        )
    (wide,) = analyse(rows_of("resnet", 60) + rows_of("eca_resnet", 63, {"resnet.width": 24})).ablations.values()
    assert wide[0].reference is None
    (alone,) = analyse(rows[4:]).methods
    assert alone.remark == "not compared: resnet itself has no result"
    vit = [row("vit", 60), row("vit", 61, 0, {"vit.depth": 6}), row("resnet", 60)]
    assert "default" not in opening(analyse(vit))[0]


def test_a_setting_that_came_later_is_no_other_recipe_where_it_changes_nothing(tmp_path, capsys):
    old, new = row(), row(seed=1, accumulate=1)
    assert len(read_rows(write(tmp_path / "same", [old, new]))) == 2
    said = refusal(capsys, read_rows, write(tmp_path / "other", [old, new | {"accumulate": 2}]))
    assert "two recipes for resnet: accumulate is None in" in said


@pytest.mark.parametrize("name", [*NOT_SETTINGS, "confusion"])
def test_how_a_run_was_computed_is_no_part_of_its_recipe(name, tmp_path):
    rows = [content | {name: seed} for seed, content in enumerate(rows_of("resnet", 60))]
    assert len(read_rows(write(tmp_path, rows))) == 4


@pytest.mark.parametrize(("max_steps", "told"), [(0, "10 epochs"), (200, "200 steps"), (9999, "10 epochs")])
def test_a_budget_ends_with_its_epochs_or_earlier(max_steps, told):
    content = row(max_steps=max_steps)
    assert epochs_of(content) == told and steps_of(content) == min(10 * 140, max_steps or 9999)


def test_top5_may_equal_top1():
    """As it does where there are few classes."""
    assert problem_of(row(top5=60.0)) is None


@pytest.mark.parametrize(
    "scores", [{"top1": 0.0, "top5": 0.0}, {"top1": 100.0, "top5": 100.0}, {"loss": 0, "n_val": 0}]
)
def test_the_ends_of_the_scales_are_measurements(scores):
    assert problem_of(row() | scores) is None


def test_a_truth_value_is_no_number():
    assert problem_of(row(loss=True)) == "loss must be a number, 0 or more, got True"


def test_knobs_are_sorted_as_numbers():
    names = ["a=128", "a=64", "a=0.5", "a=0.25", "a=1e-6", "a=0.1", "a=2,3,4", "b=1"]
    assert sorted(names, key=natural) == ["a=1e-6", "a=0.1", "a=0.25", "a=0.5", "a=2,3,4", "a=64", "a=128", "b=1"]
