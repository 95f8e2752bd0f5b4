"""tuning.py: which recipe a search found."""

import json
from types import SimpleNamespace

import pytest

from flags import parse_args
from runfolder import run_config
from tuning import ALIKE, OTHERS, RECIPE, START, recipes_of


def write(folder, **rows):
    for name, row in rows.items():
        (folder / name).mkdir(parents=True)
        base = {
            "arch": "resnet",
            "settings": {},
            "optimizer": "sgd",
            "lr": 0.2,
            "weight_decay": 5e-4,
            "batch_size": 128,
        }
        (folder / name / "result.json").write_text(json.dumps(base | row))
    return folder


def test_the_best_mean_of_those_with_the_most_seeds_wins(tmp_path):
    folder = write(
        tmp_path,
        a={"seed": 0, "val_top1": 60.0}, b={"seed": 1, "val_top1": 62.0},
        c={"seed": 0, "val_top1": 61.0, "lr": 0.1}, d={"seed": 1, "val_top1": 62.0, "lr": 0.1},
        e={"seed": 0, "val_top1": 90.0, "lr": 0.4},
    )  # fmt: skip
    found = recipes_of(folder, {"resnet"})["resnet"]
    assert (found.flags, found.knobs) == (["--optimizer", "sgd", "--lr", "0.1", "--weight-decay", "0.0005"], {})
    assert str(found).endswith("--weight-decay 0.0005, the best of 3 recipes, with 2 seeds")


def test_a_damaged_row_and_all_missing_architectures_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"^TUNED: .*a/result.json is damaged: delete it"):
        recipes_of(tmp_path, {"resnet"})
    (tmp_path / "a" / "result.json").write_text(json.dumps({"arch": "resnet", "val_top1": 50.0, "epochs": 45}))
    with pytest.raises(
        ValueError,
        match=r'no rows of eca_resnet se_resnet in .* EPOCHS=45 ARCHS="eca_resnet se_resnet" bash compare.sh and its flags$',
    ):
        recipes_of(tmp_path, {"se_resnet", "resnet", "eca_resnet"})


def test_rows_that_differ_in_the_batch_are_two_recipes(tmp_path):
    """And a seed that was trained twice counts once."""
    folder = write(
        tmp_path,
        a={"seed": 0, "val_top1": 60.0}, b={"seed": 0, "val_top1": 60.0},
        c={"seed": 0, "val_top1": 64.0, "batch_size": 64}, d={"seed": 1, "val_top1": 58.0},
        e={"seed": 1, "val_top1": 63.0, "batch_size": 64},
    )  # fmt: skip
    (found,) = recipes_of(folder, {"resnet"}).values()
    assert found.flags[-2:] == ["--batch-size", "64"]


def test_knobs_tell_recipes_apart_and_are_part_of_the_winner(tmp_path):
    best = {"seed": 0, "val_top1": 61.0, "settings": {"hornet.orders": [2, 3, 4], "hornet.scale": 1 / 3}}
    folder = write(tmp_path, a=best, b={"seed": 0, "val_top1": 60.0})
    assert recipes_of(folder, {"resnet"})["resnet"].knobs == {"hornet.orders": "2,3,4", "hornet.scale": repr(1 / 3)}


def test_rows_from_before_a_flag_are_of_the_same_recipe(tmp_path):
    folder = write(
        tmp_path,
        a={"seed": 0, "val_top1": 60.0}, b={"seed": 1, "val_top1": 60.0, "balanced_sampling": False},
        c={"seed": 0, "val_top1": 59.0, "lr": 0.1, "balanced_sampling": False},
        d={"seed": 1, "val_top1": 59.0, "lr": 0.1, "balanced_sampling": False},
    )  # fmt: skip
    (found,) = recipes_of(folder, {"resnet"}).values()
    assert found.flags[:4] == ["--optimizer", "sgd", "--lr", "0.2"]


@pytest.mark.parametrize(
    ("setting", "best", "other", "flags"),
    [
        ("crop_padding", 8, 4, ["--crop-padding", "8"]),
        ("flip", False, True, ["--no-flip"]),
        ("class_weights", "balanced", None, ["--class-weights", "balanced"]),
        ("class_weights", None, "balanced", []),
        ("balanced_sampling", True, False, ["--balanced-sampling"]),
        ("balanced_sampling", False, True, []),
        ("crop_scale", None, 0.08, ["--crop-scale", "0"]),
        ("crop_scale", 0.5, None, ["--crop-scale", "0.5"]),
    ],
)
def test_whatever_a_search_varies_is_part_of_the_winner(tmp_path, setting, best, other, flags):
    rows = {"a": {"val_top1": 61.0, setting: best}, "b": {"val_top1": 60.0, setting: other}}
    folder = write(tmp_path, **{name: row | {"seed": 0} for name, row in rows.items()})
    (found,) = recipes_of(folder, {"resnet"}).values()
    assert found.flags[6:] == flags
    parse_args(found.flags)


def test_winner_with_resized_crops_has_no_padding(tmp_path):
    rows = {
        "a": {"val_top1": 61.0, "crop_padding": 4, "crop_scale": 0.08},
        "b": {"val_top1": 60.0, "crop_padding": 8, "crop_scale": None},
    }
    folder = write(tmp_path, **{name: row | {"seed": 0} for name, row in rows.items()})
    (found,) = recipes_of(folder, {"resnet"}).values()
    assert parse_args(found.flags).crop_scale == 0.08


@pytest.mark.parametrize("difference", [{"pretrained": True}, {"epochs": 9}, {"max_steps": 20}])
def test_rows_that_cannot_be_compared_are_refused(tmp_path, difference):
    start = {"seed": 0, "val_top1": 60.0, "pretrained": False, "epochs": 5, "max_steps": 0}
    folder = write(tmp_path, a=start, b=start | {"lr": 0.1} | difference)
    with pytest.raises(ValueError, match=f"differ in {next(iter(difference))}"):
        recipes_of(folder, {"resnet"})


def test_rows_that_held_nothing_out_are_refused(tmp_path):
    folder = write(tmp_path, a={"seed": 0, "val_top1": 60.0}, b={"seed": 1, "val_top1": None})
    with pytest.raises(ValueError, match="held nothing out: tune without --val-size 0"):
        recipes_of(folder, {"resnet"})


def test_whatever_makes_a_run_has_one_place_in_a_search():
    config = run_config(parse_args([]), None, SimpleNamespace(fingerprint="", content_fingerprint=""))
    not_searched = ["arch", "settings", "seed", "folds", "fold", "accumulate", "amp", "compile", "sync_bn", "content"]
    assert sorted([*RECIPE, *OTHERS, *ALIKE, *START, *not_searched]) == sorted(config)
